"""The bits audit of an ONNX file, ours or anybody's: initializers, the nodes that decode them, files of external data."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from mobconv.audit import OTHER, PROGRAM, SHARED, Audit, TensorAudit, explained
from mobconv.backends.onnx.functions import DOMAIN
from mobconv.backends.tally import CODE, REST, SCALE, TABLE, ZERO, Leaf, Site, Step, Tally, rest
from mobconv.errors import InputError

# op -> (position of a weight, positions of its scale and zero point or None, what the weight is to people)
_READERS: dict[str, tuple[tuple[int, int | None, int | None, str], ...]] = {
    **{op: ((1, None, None, "conv"),) for op in ("Conv", "FusedConv", "NhwcFusedConv", "DeformConv")},
    "ConvTranspose": ((1, None, None, "conv transpose"),),
    "ConvInteger": ((1, None, 3, "conv"),),
    "QLinearConv": ((3, 4, 5, "conv"),),
    "Gemm": ((1, None, None, "linear"), (0, None, None, "linear")),
    "QGemm": ((3, 4, 5, "linear"),),
    **{op: ((1, None, None, "matmul"), (0, None, None, "matmul")) for op in ("MatMul", "FusedMatMul")},
    "MatMulInteger": ((1, None, 3, "matmul"), (0, None, 2, "matmul")),
    "QLinearMatMul": ((3, 4, 5, "matmul"),),
    "DynamicQuantizeMatMul": ((1, 2, 3, "matmul"),),
    "MatMulIntegerToFloat": ((1, 3, 5, "matmul"),),
    "MatMulNBits": ((1, 2, 3, "matmul"),),
    "MatMulBnb4": ((1, 2, None, "matmul"),),
    "Gather": ((0, None, None, "embedding"),),
    "GatherBlockQuantized": ((0, 2, 3, "embedding"),),
    **{op: ((1, None, None, "recurrent"), (2, None, None, "recurrent")) for op in ("LSTM", "GRU", "RNN")},
    "DynamicQuantizeLSTM": ((1, 8, 9, "recurrent"), (2, 10, 11, "recurrent")),
    "Attention": ((1, None, None, "attention"),),
    "QAttention": ((1, 4, 7, "attention"),),
    "EmbedLayerNormalization": tuple((i, None, None, "embedding") for i in (2, 3, 4)),
    "Einsum": ((1, None, None, "einsum"), (0, None, None, "einsum")),
}
# op on constants -> what its inputs are to the result; those not named are codes
_ROLES = {
    "DequantizeLinear": (CODE, SCALE, ZERO),
    "QuantizeLinear": (CODE, SCALE, ZERO),
    **{
        op: (CODE, REST, REST, REST, REST)
        for op in ("Reshape", "Slice", "Squeeze", "Unsqueeze", "Pad", "Expand", "Tile")
    },
}
_FEW = 1 << 20  # bytes of zero points that are looked at
_FORM = re.compile(r"(Linear|Symmetric|Tables?)(?:16_)?([1-8])")  # see functions.py


def audit(path: Path) -> Audit:
    """Take a file apart. Raises InputError for what is no ONNX model, or one that is damaged or cut short."""
    model, size = _load(path)
    reader = _Reader(path, {entry.key: entry.value for entry in model.metadata_props}.get("mobconv", ""))
    reader.graph(model.graph, {})
    tensors = [reader.unpadded(tensor) for tensor in reader.tally.weigh()]
    other = reader.tally.unowned()
    outside = sum(reader.files.values())
    functions = sum(_framed(function.ByteSize(), 2) for function in model.functions)
    known = [
        (OTHER, sum(leaf.bytes for leaf in other)),
        (SHARED, reader.tally.shared_bytes),
        ("functions that decode", functions),
        ("external data: alignment, and what no tensor reads", outside - reader.external_bytes()),
    ]
    program = size + outside - sum(tensor.bytes for tensor in tensors) - sum(count for _, count in known)
    found = Audit(
        path,
        f"ONNX, opset {max((entry.version for entry in model.opset_import if not entry.domain), default=0)}",
        size + outside,
        tuple(tensors),
        rest([*known, (PROGRAM, program)], path),
        reader.record,
        tuple(
            f"external data: {name.name}, {count:,} bytes, counted as part of it"
            for name, count in reader.files.items()
        ),
    )
    return explained(found, reader.why)


def _load(path: Path) -> tuple[Any, int]:
    import onnx

    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    model = onnx.ModelProto()
    try:
        data = path.read_bytes()
        model.ParseFromString(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # DecodeError, of whichever implementation of protobuf
        raise InputError(f"{path}: no ONNX model, or one that is cut short: {error}") from error
    if not model.ir_version or not (model.graph.node or model.graph.initializer):
        raise InputError(f"{path}: {'no ONNX model' if data else 'the file is empty'}")
    return model, len(data)


class _Reader:
    """Fills a tally from a graph and those within it."""

    def __init__(self, path: Path, record: str) -> None:
        self.path, self.record = path, record
        self.tally = Tally()
        self.files: dict[Path, int] = {}  # of external data -> size
        self.ops: set[str] = set()
        self._graphs = 0
        self._padding: dict[str, int] = {}

    def graph(self, graph: Any, outer: dict[str, str]) -> None:
        """names are those of the file; a graph within a node sees those around it."""
        self._graphs += 1
        scope = f"{self._graphs}/" if self._graphs > 1 else ""
        names = dict(outer)
        for tensor in graph.initializer:
            self._constant(tensor, scope, names)
        for sparse in graph.sparse_initializer:
            self._constant(sparse.values, scope, names)
        links = _Links(graph.node)
        for position, node in enumerate(graph.node):
            self.ops.add(node.op_type)
            for attribute in node.attribute:
                for inner in [attribute.g] * attribute.HasField("g") + list(attribute.graphs):
                    self.graph(inner, names)
            if node.op_type == "Constant" and node.output:
                for attribute in node.attribute:
                    if attribute.HasField("t"):
                        self._constant(attribute.t, scope, names, node.output[0])
            elif all(name in names for name in node.input if name) and any(node.input) and len(node.output) == 1:
                self._step(node, f"{scope}{position}", scope, names)
            else:
                self._sites(node, names, links)

    def _constant(self, tensor: Any, scope: str, names: dict[str, str], name: str = "") -> None:
        name = name or tensor.name
        names[name] = scope + name
        self.tally.leaves[scope + name] = self._leaf(tensor, scope + name, name)

    def _leaf(self, tensor: Any, key: str, name: str) -> Leaf:
        from onnx import TensorProto

        try:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
        except ValueError as error:
            raise InputError(f"{self.path}: {name}: an element type that ONNX has not: {tensor.data_type}") from error
        kind = {"float": "float32", "double": "float64"}.get(kind, kind)
        digits = re.search(r"\d+", kind)
        bits = 8 if kind == "bool" else int(digits[0]) if digits else 0
        shape = tuple(int(length) for length in tensor.dims)
        if any(length < 0 for length in shape):
            raise InputError(f"{self.path}: {name}: a length below 0")
        wanted = (math.prod(shape) * bits + 7) // 8
        if tensor.data_location == TensorProto.EXTERNAL:
            where, count = self._outside(tensor, name, wanted)
            return Leaf(where, name, shape, kind, bits, count)
        if tensor.HasField("raw_data"):
            if len(tensor.raw_data) != wanted and bits:
                raise InputError(f"{self.path}: {name}: {len(tensor.raw_data)} bytes where its shape takes {wanted}")
            return Leaf(key, name, shape, kind, bits, wanted, null=wanted < _FEW and not any(tensor.raw_data))
        bare = type(tensor)()
        bare.CopyFrom(tensor)
        for field in ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"):
            bare.ClearField(field)
        null = len(tensor.int32_data) < _FEW and not any(tensor.int32_data)
        return Leaf(key, name, shape, kind, bits, tensor.ByteSize() - bare.ByteSize(), null=null)

    def _outside(self, tensor: Any, name: str, wanted: int) -> tuple[tuple[Path, int, int], int]:
        """(file, first byte, length) of external data, inside the model's folder and inside that file."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        parts = PurePosixPath(location).parts
        bad = (
            not parts or PurePosixPath(location).is_absolute() or {"..", "\0"} & {*parts, *location} or "\\" in location
        )
        file = self.path.parent.joinpath(*parts)
        if bad or any(held.is_symlink() for held in [file, *file.parents][: len(parts)]):
            raise InputError(f"{self.path}: {name} has its data in {location!r}, outside of the model's folder")
        if not file.is_file() or file.samefile(self.path):
            raise InputError(
                f"{self.path}: {name} has its data in {location!r}, and there is no such file beside the model"
            )
        size = self.files.setdefault(file, file.stat().st_size)
        try:
            start, count = int(entries.get("offset", 0)), int(entries.get("length", wanted))
        except ValueError as error:
            raise InputError(f"{self.path}: {name}: its place in {location} is no number") from error
        if count != wanted or start < 0 or start + count > size:
            raise InputError(
                f"{self.path}: {name}: {wanted} bytes from {start} on are not in {location}: it is cut short"
            )
        return (file, start, count), count

    def external_bytes(self) -> int:
        """Bytes of files of external data that tensors read, each once."""
        held = {leaf.key: leaf.bytes for leaf in self.tally.leaves.values() if isinstance(leaf.key, tuple)}
        return sum(held.values())

    def _step(self, node: Any, key: str, scope: str, names: dict[str, str]) -> None:
        """A node that computes with constants only."""
        inputs = [names.get(name, "") for name in node.input]
        roles = _ROLES.get(node.op_type, ())
        bits, shape, label = None, None, ""
        if node.domain == DOMAIN and (form := _FORM.fullmatch(node.op_type)):
            roles, bits, label = (CODE, TABLE if form[1].startswith("Table") else SCALE), int(form[2]), node.name
            shape = next((tuple(a.ints) for a in node.attribute if a.name == "d"), None)
        elif node.op_type == "Gather":
            roles = (TABLE, CODE)
        elif node.op_type in ("Mul", "Div", "Sub", "Add") and len(inputs) == 2:
            small = SCALE if node.op_type in ("Mul", "Div") else ZERO
            roles = (CODE, small) if self._count(inputs[0]) >= self._count(inputs[1]) else (small, CODE)
        if node.op_type == "DequantizeLinear" and self.record:
            label = node.name
        held = tuple((name, roles[i] if i < len(roles) else CODE) for i, name in enumerate(inputs) if name)
        output = node.output[0]
        names[output] = scope + output
        self.tally.steps[scope + output] = Step(key, node.op_type, held, _framed(node.ByteSize()), bits, label, shape)

    def _count(self, name: str) -> int:
        """Elements of the largest constant that goes into a value."""
        waiting, seen, found = [name], set(), 0
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            found = max(found, self.tally.leaves[name].count if name in self.tally.leaves else 0)
            waiting += [each for each, _ in self.tally.steps[name].inputs] if name in self.tally.steps else []
        return found

    def _sites(self, node: Any, names: dict[str, str], links: _Links) -> None:
        given = [names.get(name, "") for name in node.input]
        for position, scale, zero, op in _READERS.get(node.op_type, ()):
            if position >= len(given) or not given[position]:
                continue
            beside = [(scale, SCALE), (zero, ZERO)]
            held = [(given[at], role) for at, role in beside if at is not None and at < len(given) and given[at]]
            if node.op_type in ("ConvInteger", "MatMulInteger"):
                held += [(names[name], SCALE) for name in links.rescaled(node) if name in names]
            shape = bits = None
            if node.op_type in ("MatMulNBits", "MatMulBnb4"):
                sizes = {a.name: int(a.i) for a in node.attribute}
                shape, bits = (sizes.get("N", 0), sizes.get("K", 0)), sizes.get("bits", 4)
                held += [(name, REST) for name in given[4:5] if name]
            output = node.output[0] if node.output else ""
            self.tally.add(Site(given[position], node.input[position], op, output, tuple(held), shape, bits))

    def unpadded(self, tensor: TensorAudit) -> TensorAudit:
        """Zero points that ride at the head of a stream, and blocks filled up at its end, told from the codes."""
        site = next((step for step in self.tally.steps.values() if step.label == tensor.name and step.bits), None)
        codes = math.ceil(tensor.weights * tensor.stored / 8)
        spare = tensor.code_bytes - codes
        if spare <= 0 or tensor.is_float or (site is None and tensor.encoding.find("-bit codes") < 0):
            return tensor
        zeros = 0
        if site is not None and site.kind.startswith("Linear"):
            scale = self.tally.leaves[site.inputs[1][0]]
            zeros = min(spare, math.ceil(scale.count * tensor.stored / 8))
        return replace(
            tensor,
            code_bytes=codes,
            zero_point_bytes=tensor.zero_point_bytes + zeros,
            other_bytes=tensor.other_bytes + spare - zeros,
            encoding=tensor.encoding.replace("symmetric", "affine") if zeros else tensor.encoding,
        )

    def why(self, tensor: TensorAudit) -> str:
        """What ONNX's tools leave float."""
        if not tensor.is_float:
            return ""
        if "only when it runs" in tensor.encoding:
            return "the file holds floats, which QuantizeLinear rounds each time it is loaded: fold that node into the weight"
        if "MatMulNBits" in self.ops and tensor.op != "matmul":
            return f"MatMulNBits holds the weights of MatMul only, and this is of {tensor.op}"
        return ""


class _Links:
    """Who reads and who makes a value."""

    def __init__(self, nodes: Iterable[Any]) -> None:
        self._users: dict[str, list[Any]] = defaultdict(list)
        self._makers: dict[str, Any] = {}
        for node in nodes:
            for name in node.input:
                self._users[name].append(node)
            self._makers.update(dict.fromkeys(node.output, node))

    def rescaled(self, node: Any) -> Iterator[str]:
        """What an integer product is multiplied with afterwards: Mul(Cast(product), Mul(scale of x, scale of w))."""
        casts = [cast for name in node.output[:1] for cast in self._users[name] if cast.op_type == "Cast"]
        for product in (user for cast in casts for user in self._users[cast.output[0]] if user.op_type == "Mul"):
            for name in product.input:
                maker = self._makers.get(name)
                yield name
                if maker is not None and maker.op_type == "Mul":
                    yield from maker.input


def _framed(size: int, tag: int = 1) -> int:
    """Bytes of a message within another: tag, length, content."""
    return tag + (max(size.bit_length(), 1) + 6) // 7 + size
