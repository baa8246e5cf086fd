"""The bits audit of an .mlpackage with an ML Program, ours or anybody's: the forms of iOS16 and of iOS18, and chains.

Constants lie in weight.bin, each with a header and filled up to 64 bytes, or as immediate values in the program. A
decoding operation counts as what it takes more than the float constant in its place would.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mobconv.backends.byte_attribution import (
    CODE,
    MASK,
    REST,
    SCALE,
    TABLE,
    ZERO,
    Leaf,
    Site,
    Step,
    Tally,
    framed,
    rest,
)
from mobconv.backends.coreml import mil, package
from mobconv.backends.coreml.rewrite import RECORD_KEY, main_block
from mobconv.backends.coreml.weights_file import ALIGNMENT, DTYPES, Dtype, blob_range
from mobconv.backends.size_audit import OTHER, PROGRAM, SHARED, Audit, TensorAudit, explained, threshold
from mobconv.errors import InputError

_RECURRENT = ("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back")
# operation -> its parameters that are weights, and what it is to people
_READERS: dict[str, tuple[tuple[str, ...], str]] = {
    "conv": (("weight",), "conv"),
    "conv_transpose": (("weight",), "conv transpose"),
    "linear": (("weight",), "linear"),
    "matmul": (("y", "x"), "matmul"),
    "einsum": (("values",), "einsum"),
    "gather": (("x",), "embedding"),
    **dict.fromkeys(("lstm", "gru", "rnn"), (_RECURRENT, "recurrent")),
}
# parameter of an operation on constants -> what it is to the result; all others are no part of the weight
_ROLES = {
    **dict.fromkeys(("quantized_data", "indices", "data", "nonzero_data", "indices_nonzero_data", "source_val"), CODE),
    **dict.fromkeys(("x", "values", "input"), CODE),
    **dict.fromkeys(("mask", "indices_mask", "data_mask"), MASK),
    "lut": TABLE,
    "scale": SCALE,
    **dict.fromkeys(("zero_point", "offset"), ZERO),
}
_THRESHOLD = 2048  # weight_threshold of coremltools.optimize, at and below which it leaves a tensor alone
_BLOCKS = re.compile(r"(?:affine|symmetric) .* in blocks of (\d+)")
_SMALL = (
    "2,048 weights or fewer: coremltools.optimize leaves such tensors float, unless its weight_threshold is set lower"
)


def audit(path: Path) -> Audit:
    """Take a package apart. Raises InputError for what is none, or one that is damaged or leads out of its folder."""
    found = package.read(path)
    sizes = dict(_files(path))
    reader = _Reader(path, found.model.parent)
    try:
        main_block(found.spec)
        for name, function in found.spec.mlProgram.functions.items():
            for opset, block in function.block_specializations.items():
                reader.block(block, f"{name}/{opset}/", {})
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    tensors = reader.tally.weigh()
    other = reader.tally.unowned()
    model = sizes.pop(found.model)
    padding = sum(leaf.extra for leaf in other) + ALIGNMENT * len(reader.used)
    known = [
        (OTHER, sum(leaf.bytes for leaf in other)),
        (SHARED, reader.tally.shared_bytes),
        ("padding and blob headers of other constants", padding),
    ]
    stray = sum(sizes[file] for file in reader.used) - reader.blob_bytes() - ALIGNMENT * len(reader.used)
    known += [("constants that nothing reads", stray)]
    known += [(file.relative_to(path).as_posix(), count) for file, count in sizes.items() if file not in reader.used]
    record = str(found.spec.description.metadata.userDefined.get(RECORD_KEY, ""))
    total = sum(count for _, count in _files(path))
    program = total - sum(tensor.bytes for tensor in tensors) - sum(count for _, count in known)
    if program > model:
        raise InputError(f"{path}: its constants overlap, so the package is damaged")
    taken = Audit(
        path,
        f"Core ML, ML Program (specification {found.spec.specificationVersion})",
        total,
        tuple(tensors),
        rest([*known, (PROGRAM, program)], path),
        record,
        tuple(notes(found.spec)),
    )
    return explained(taken, _why(tensors))


def _why(tensors: Sequence[TensorAudit]) -> Callable[[TensorAudit], str]:
    """What coremltools.optimize leaves float: small tensors, and those that its blocks do not divide."""
    small = threshold(tensors, _THRESHOLD, _SMALL)
    blocks = {int(found[1]) for tensor in tensors if (found := _BLOCKS.match(tensor.encoding))}

    def why(tensor: TensorAudit) -> str:
        size = min(blocks, default=1)
        if tensor.is_float and len(tensor.shape) > 1 and tensor.shape[1] % size:
            return f"its {tensor.shape[1]} input channels are no multiple of the blocks of {size}, so it was left float"
        return small(tensor)

    return why


def notes(spec: Any) -> Iterator[str]:
    """Inputs that are images, as the description has them."""
    for feature in spec.description.input:
        if feature.type.WhichOneof("Type") == "imageType":
            image = feature.type.imageType
            colour = type(image).ColorSpace.Name(image.colorSpace)
            yield f"input {feature.name!r} is an image: {colour}, {image.height} x {image.width}"


def _files(path: Path) -> Iterator[tuple[Path, int]]:
    """Every file of the folder with its size. Raises InputError for a symbolic link."""
    for entry in sorted(path.rglob("*")):
        if entry.is_symlink():
            raise InputError(f"{path}: {entry.relative_to(path)} is a symbolic link, which no package holds")
        if entry.is_file():
            yield entry, entry.stat().st_size


class _Reader:
    """Fills a tally from blocks of operations."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.tally = Tally(by_value=True)
        self.used: dict[Path, bytes] = {}  # files of constants
        self.weights: set[str] = set()  # names that some operation reads as a weight
        self._folder, self._path, self._count = folder, path, 0

    def block(self, block: Any, scope: str, outer: Mapping[str, str]) -> None:
        """names are those of the program; a block within an operation sees those around it."""
        names = dict(outer)
        self.weights |= {
            b.name
            for op in block.operations
            for key in _READERS.get(op.type, ((), ""))[0]
            if key in op.inputs
            for b in op.inputs[key].arguments
        }
        for number, op in enumerate(block.operations):
            for i, inner in enumerate(op.blocks):
                self.block(inner, f"{scope}{number}.{i}/", names)
            inputs = {key: self._bound(argument, names) for key, argument in op.inputs.items()}
            if op.type == "const" and op.outputs and "val" in op.attributes:
                leaf = self._leaf(op.attributes["val"])
                if leaf is not None:
                    names[op.outputs[0].name] = scope + op.outputs[0].name
                    self.tally.leaves[scope + op.outputs[0].name] = leaf
            elif op.type.startswith("constexpr_") or (inputs and all(all(held) for held in inputs.values())):
                self._step(op, inputs, scope, names, number)
            else:
                parameters, word = _READERS.get(op.type, ((), ""))
                output = op.outputs[0].name if op.outputs else ""
                for key in parameters:
                    for held, binding in zip(inputs.get(key, ()), op.inputs[key].arguments, strict=False):
                        if held:
                            self.tally.add(Site(held, binding.name, word, output, shape=self._shape(held)))

    def blob_bytes(self) -> int:
        """Bytes of weight.bin that some operation reads, headers and padding included, each once."""
        held = {leaf.key: leaf for leaf in self.tally.leaves.values() if isinstance(leaf.key, tuple)}
        return sum(leaf.bytes + leaf.extra for leaf in held.values())

    def _shape(self, name: str) -> tuple[int, ...] | None:
        return self.tally.leaves[name].shape if name in self.tally.leaves else self.tally.steps[name].shape

    def _bound(self, argument: Any, names: Mapping[str, str]) -> list[str]:
        """Where the values of a parameter are in the tally; '' for those that are computed, or given in place."""
        return [names.get(binding.name, "") for binding in argument.arguments]

    def _step(self, op: Any, inputs: Mapping[str, list[str]], scope: str, names: dict[str, str], number: int) -> None:
        """An operation on constants. The forms of iOS16 hold them as attributes, those of iOS18 take them as inputs."""
        given: list[tuple[str, str]] = []
        inside, bits = 0, None
        values = [(key, value) for key, value in op.attributes.items() if key != "name"]
        values += [(key, b.value) for key, held in op.inputs.items() for b in held.arguments if b.HasField("value")]
        for key, value in sorted(values, key=lambda item: item[0]):
            leaf = self._leaf(value)
            if leaf is None:
                continue
            at = f"{scope}{number}/{key}/{len(given)}"
            self.tally.leaves[at] = leaf
            given.append((at, _ROLES.get(key, REST)))
            inside += 0 if isinstance(leaf.key, tuple) else leaf.bytes
            if key == "lut" and "shape" in op.attributes:
                bits = round(math.log2(leaf.count)) if leaf.count > 1 else 1
        given += [(name, _ROLES.get(key, REST)) for key, held in inputs.items() for name in held if name]
        size = framed(op.ByteSize()) - inside
        if op.type.startswith("constexpr_") and len(op.outputs) == 1 and op.outputs[0].name in self.weights:
            size = max(0, size - _plain(op))
        masks = tuple((name, role) for name, role in given if role == MASK)
        for i, output in enumerate(op.outputs):
            mask_only = len(op.outputs) > 1 and i == 0  # (mask, non-zero data)
            names[output.name] = scope + output.name
            shape = mil.shape_of(output.type) if mil.dtype_name(output.type) else None
            held = masks if mask_only else tuple(given)
            self.tally.steps[scope + output.name] = Step((scope, number), op.type, held, size, bits, shape=shape)

    def _leaf(self, value: Any) -> Leaf | None:
        """A constant of numbers; None for texts and lists. Raises InputError for one that is not where it should be."""
        name = mil.dtype_name(value.type)
        if name not in DTYPES:
            return None
        dtype, shape = DTYPES[name], mil.shape_of(value.type)
        if any(length < 0 for length in shape):
            raise InputError("a constant without a fixed shape")
        if value.WhichOneof("value") == "blobFileValue":
            return self._blob(value.blobFileValue, dtype, shape)
        tensor = value.immediateValue.tensor
        field = tensor.WhichOneof("value")
        if field is None:
            return None
        held = getattr(tensor, field)
        width = {"floats": 4, "doubles": 8, "bytes": 1, "bools": 1}.get(field)
        size = len(held.values) * width if width else held.ByteSize()
        self._count += 1
        content = hashlib.sha256(held.SerializeToString(deterministic=True)).hexdigest()
        null = field == "bytes" and not any(held.values)
        return Leaf(self._count, content, shape, name.lower(), dtype.bits, size, null=null)

    def _blob(self, blob: Any, dtype: Dtype, shape: tuple[int, ...]) -> Leaf:
        if not blob.fileName.startswith(package.PREFIX):
            raise InputError(f"the program keeps constants in {blob.fileName!r}, outside of the package")
        file = package.inside(self._path, self._folder, blob.fileName.removeprefix(package.PREFIX))
        if file not in self.used:
            self.used[file] = package.read_bytes(self._path, file)
        content = self.used[file]
        start, size = blob_range(content, blob.offset, dtype, math.prod(shape))
        end = min(len(content), -(-(start + size) // ALIGNMENT) * ALIGNMENT)
        null = size < ALIGNMENT**2 and not any(content[start : start + size])
        extra = ALIGNMENT + end - start - size
        return Leaf((file, start), f"{start}", shape, dtype.name.lower(), dtype.bits, size, extra, null=null)


def _plain(op: Any) -> int:
    """Bytes of the operation that a float constant would take in place of a decoding one."""
    output = op.outputs[0]
    held = (mil.dtype_name(output.type), mil.shape_of(output.type))
    value = mil.blob_value(*held, offset=1 << 20)
    return framed(mil.operation("const", output.name, held, attributes={"val": value}).ByteSize())
