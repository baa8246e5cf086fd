"""Size audit of an .mlpackage with an ML Program, of any tool: the forms of iOS16 and of iOS18, and chains of them.

Constants are in weight.bin, each with a header and padded to 64 bytes, or immediate values in the program. A decoding
operation counts with the bytes that it has more than a float constant in its place.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mobconv.backends.apple import description
from mobconv.backends.byte_attribution import (
    CODE,
    MASK,
    REST,
    SCALE,
    TABLE,
    ZERO,
    ByteAttribution,
    DecodingOp,
    StoredConstant,
    WeightRead,
    framed,
    rest,
)
from mobconv.backends.coreml import mil, package
from mobconv.backends.coreml.added import added_bytes
from mobconv.backends.coreml.rewrite import main_block
from mobconv.backends.coreml.weights_file import ALIGNMENT, DTYPES, Dtype, blob_range
from mobconv.backends.size_audit import (
    OTHER,
    PROGRAM,
    SHARED,
    Added,
    Audit,
    TensorAudit,
    counted,
    explained,
    threshold,
    with_added,
)
from mobconv.errors import InputError
from mobconv.schemes import Cell, Compute

_RECURRENT = ("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back")
# operation -> its parameters that are weights, and its kind in words
_READERS: dict[str, tuple[tuple[str, ...], str]] = {
    "conv": (("weight",), "conv"),
    "conv_transpose": (("weight",), "conv transpose"),
    "linear": (("weight",), "linear"),
    "matmul": (("y", "x"), "matmul"),
    "einsum": (("values",), "einsum"),
    "gather": (("x",), "embedding"),
    **dict.fromkeys(("lstm", "gru", "rnn"), (_RECURRENT, "recurrent")),
}
# parameter of an operation on constants -> its role in the result; values of other parameters are not part of a weight
_ROLES = {
    **dict.fromkeys(("quantized_data", "indices", "data", "nonzero_data", "indices_nonzero_data", "source_val"), CODE),
    **dict.fromkeys(("x", "values", "input"), CODE),
    **dict.fromkeys(("mask", "indices_mask", "data_mask"), MASK),
    "lut": TABLE,
    "scale": SCALE,
    **dict.fromkeys(("zero_point", "offset"), ZERO),
}
_THRESHOLD = 2048  # weight_threshold of coremltools.optimize: it leaves tensors of at most this size float
_BLOCKS = re.compile(r"(?:affine|symmetric) .* in blocks of (\d+)")
_SMALL = (
    "2,048 weights or fewer: coremltools.optimize leaves such tensors float, unless its weight_threshold is set lower"
)


def audit(path: Path) -> Audit:
    """`Auditable.size_audit` of packages. Raises InputError for one that leads out of its folder, too."""
    opened = package.read(path)
    sizes = dict(_files(path))
    reader = _ProgramReader(path, opened.model.parent)
    try:
        main_block(opened.spec)
        for name, function in opened.spec.mlProgram.functions.items():
            for opset, block in function.block_specializations.items():
                reader.block(block, f"{name}/{opset}/", {})
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    tensors = reader.attribution.tensors()
    other = reader.attribution.unowned()
    model = sizes.pop(opened.model)
    padding = sum(constant.extra for constant in other) + ALIGNMENT * len(reader.used)
    known = [
        (OTHER, sum(constant.bytes for constant in other)),
        (SHARED, reader.attribution.shared_bytes),
        ("padding and blob headers of other constants", padding),
    ]
    stray = sum(sizes[file] for file in reader.used) - reader.blob_bytes() - ALIGNMENT * len(reader.used)
    known += [("constants that nothing reads", stray)]
    known += [(file.relative_to(path).as_posix(), count) for file, count in sizes.items() if file not in reader.used]
    record = description.record(opened.spec)
    total = sum(count for _, count in _files(path))
    program = total - sum(tensor.bytes for tensor in tensors) - sum(count for _, count in known)
    if program > model:
        raise InputError(f"{path}: its constants overlap, so the package is damaged")
    parts = Audit(
        path,
        f"Core ML, ML Program (specification {opened.spec.specificationVersion})",
        total,
        tuple(tensors),
        rest([*known, (PROGRAM, program)], path),
        record,
        tuple(description.image_notes(opened.spec)),
    )
    blobs = sum(sizes[file] for file in reader.used)
    return explained(with_added(parts, lambda cell: _added(cell, parts, opened, blobs, reader)), _why(tensors))


def _added(cell: Cell, parts: Audit, opened: package.Package, blobs: int, reader: _ProgramReader) -> Added | None:
    halves = [tensor for tensor in parts.tensors if tensor.encoding == "float16"]
    if halves and cell.scheme.mode is not None and cell.compute is Compute.FP32:
        return None  # of a layer rule, cast when they are loaded: rows count the operations that do so
    weights = counted(cell, parts.tensors, reader.attribution.values)
    names = {value.rpartition("/")[2] for value in weights}
    size = added_bytes(opened, blobs, names, cell.scheme.mode is not None)
    return Added(size, sum(tensor.weights for tensor in weights.values()))


def _why(tensors: Sequence[TensorAudit]) -> Callable[[TensorAudit], str]:
    """Reasons for tensors that coremltools.optimize leaves float: small ones, and sizes that are not whole blocks."""
    small = threshold(tensors, _THRESHOLD, _SMALL)
    blocks = {int(match[1]) for tensor in tensors if (match := _BLOCKS.match(tensor.encoding))}

    def why(tensor: TensorAudit) -> str:
        size = min(blocks, default=1)
        if tensor.is_float and len(tensor.shape) > 1 and tensor.shape[1] % size:
            return (
                f"its {tensor.shape[1]} input channels are not a multiple of the blocks of {size}, so it was left float"
            )
        return small(tensor)

    return why


def _files(path: Path) -> Iterator[tuple[Path, int]]:
    """Every file of the folder with its size. Raises InputError for a symbolic link."""
    for entry in sorted(path.rglob("*")):
        if entry.is_symlink():
            raise InputError(f"{path}: {entry.relative_to(path)} is a symbolic link, which a package must not contain")
        if entry.is_file():
            yield entry, entry.stat().st_size


class _ProgramReader:
    """Collects the constants, decoding operations and weights of blocks of operations."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.attribution = ByteAttribution(by_value=True)
        self.used: dict[Path, bytes] = {}  # files that constants are in, with their contents
        self.weights: set[str] = set()  # names that an operation reads as a weight
        self._folder, self._path, self._count = folder, path, 0

    def block(self, block: Any, scope: str, outer: Mapping[str, str]) -> None:
        """Read a block. outer: names of the program -> unique names, of values that a nested block sees around it."""
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
                constant = self._constant(op.attributes["val"])
                if constant is not None:
                    names[op.outputs[0].name] = scope + op.outputs[0].name
                    self.attribution.constants[scope + op.outputs[0].name] = constant
            elif op.type.startswith("constexpr_") or (inputs and all(all(values) for values in inputs.values())):
                self._decoding(op, inputs, scope, names, number)
            else:
                parameters, word = _READERS.get(op.type, ((), ""))
                output = op.outputs[0].name if op.outputs else ""
                for key in parameters:
                    for value, binding in zip(inputs.get(key, ()), op.inputs[key].arguments, strict=False):
                        if value:
                            read = WeightRead(value, binding.name, word, output, shape=self._shape(value))
                            self.attribution.add(read)

    def blob_bytes(self) -> int:
        """Bytes of weight.bin that operations read, headers and padding included, each once."""
        constants = self.attribution.constants.values()
        blobs = {constant.key: constant for constant in constants if isinstance(constant.key, tuple)}
        return sum(blob.bytes + blob.extra for blob in blobs.values())

    def _shape(self, name: str) -> tuple[int, ...] | None:
        constants = self.attribution.constants
        return constants[name].shape if name in constants else self.attribution.ops[name].shape

    def _bound(self, argument: Any, names: Mapping[str, str]) -> list[str]:
        """Unique names of the constants that a parameter has; '' for values that are computed, or given in place."""
        return [names.get(binding.name, "") for binding in argument.arguments]

    def _decoding(
        self, op: Any, inputs: Mapping[str, list[str]], scope: str, names: dict[str, str], number: int
    ) -> None:
        """Add an operation on constants. Those of iOS16 have them as attributes, those of iOS18 as inputs."""
        given: list[tuple[str, str]] = []
        inside, bits = 0, None
        values = [(key, value) for key, value in op.attributes.items() if key != "name"]
        bindings = [(key, binding) for key, argument in op.inputs.items() for binding in argument.arguments]
        values += [(key, binding.value) for key, binding in bindings if binding.HasField("value")]
        for key, value in sorted(values, key=lambda item: item[0]):
            constant = self._constant(value)
            if constant is None:
                continue
            at = f"{scope}{number}/{key}/{len(given)}"
            self.attribution.constants[at] = constant
            given.append((at, _ROLES.get(key, REST)))
            inside += 0 if isinstance(constant.key, tuple) else constant.bytes
            if key == "lut" and "shape" in op.attributes:
                bits = round(math.log2(constant.count)) if constant.count > 1 else 1
        given += [(name, _ROLES.get(key, REST)) for key, value_names in inputs.items() for name in value_names if name]
        size = framed(op.ByteSize()) - inside
        if op.type.startswith("constexpr_") and len(op.outputs) == 1 and op.outputs[0].name in self.weights:
            size = max(0, size - _plain(op))
        masks = tuple((name, role) for name, role in given if role == MASK)
        for i, output in enumerate(op.outputs):
            mask_only = len(op.outputs) > 1 and i == 0  # (mask, non-zero data)
            names[output.name] = scope + output.name
            shape = mil.shape_of(output.type) if mil.dtype_name(output.type) else None
            read = masks if mask_only else tuple(given)
            decoder = DecodingOp((scope, number), op.type, read, size, bits, shape=shape)
            self.attribution.ops[scope + output.name] = decoder

    def _constant(self, value: Any) -> StoredConstant | None:
        """A constant of numbers; None for strings and lists. Raises InputError for one that the file does not have."""
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
        message = getattr(tensor, field)
        width = {"floats": 4, "doubles": 8, "bytes": 1, "bools": 1}.get(field)
        size = len(message.values) * width if width else message.ByteSize()
        self._count += 1
        content = hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()
        null = field == "bytes" and not any(message.values)
        return StoredConstant(self._count, content, shape, name.lower(), dtype.bits, size, null=null)

    def _blob(self, blob: Any, dtype: Dtype, shape: tuple[int, ...]) -> StoredConstant:
        """A constant in weight.bin, with the bytes of its header and padding."""
        if not blob.fileName.startswith(package.PREFIX):
            raise InputError(f"the program has constants in {blob.fileName!r}, outside of the package")
        file = package.inside(self._path, self._folder, blob.fileName.removeprefix(package.PREFIX))
        if file not in self.used:
            self.used[file] = package.read_bytes(self._path, file)
        content = self.used[file]
        start, size = blob_range(content, blob.offset, dtype, math.prod(shape))
        end = min(len(content), -(-(start + size) // ALIGNMENT) * ALIGNMENT)
        null = size < ALIGNMENT**2 and not any(content[start : start + size])
        extra = ALIGNMENT + end - start - size
        return StoredConstant((file, start), f"{start}", shape, dtype.name.lower(), dtype.bits, size, extra, null=null)


def _plain(op: Any) -> int:
    """Bytes of a float constant's operation in place of a decoding one."""
    output = op.outputs[0]
    declared = (mil.dtype_name(output.type), mil.shape_of(output.type))
    value = mil.blob_value(*declared, offset=1 << 20)
    return framed(mil.operation("const", output.name, declared, attributes={"val": value}).ByteSize())
