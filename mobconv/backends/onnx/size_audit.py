"""Size audit of an ONNX file of any tool: initializers, nodes that decode them, files of external data."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from mobconv.backends.byte_attribution import (
    CODE,
    REST,
    SCALE,
    TABLE,
    ZERO,
    ByteAttribution,
    DecodingOp,
    WeightRead,
    framed,
    rest,
)
from mobconv.backends.onnx.added import added_bytes
from mobconv.backends.onnx.constants import Constants
from mobconv.backends.onnx.functions import DOMAIN
from mobconv.backends.onnx.readers import READERS, ROLES, Links
from mobconv.backends.size_audit import (
    OTHER,
    PROGRAM,
    SHARED,
    Added,
    Audit,
    TensorAudit,
    counted,
    explained,
    with_added,
)
from mobconv.errors import InputError
from mobconv.schemes import Cell

_SECOND = re.compile(r"w\d+_\d+")  # a second layout of a weight, see encode.py
_FORM = re.compile(r"(Linear|Symmetric|Tables?)(?:16_)?([1-8])")  # see functions.py


def audit(path: Path) -> Audit:
    """`Auditable.size_audit` of ONNX files."""
    model, size = _load(path)
    reader = _OnnxReader(path, {entry.key: entry.value for entry in model.metadata_props}.get("mobconv", ""))
    try:
        reader.graph(model.graph, {})
        tensors = [reader.unpadded(tensor) for tensor in reader.attribution.tensors()]
    except TypeError as error:  # protobuf returns bytes for a name that is not UTF-8
        raise InputError(f"{path}: damaged: a name in it is not text") from error
    other = reader.attribution.unowned()
    outside = sum(reader.files.values())
    functions = sum(framed(function.ByteSize(), 2) for function in model.functions)
    known = [
        (OTHER, sum(constant.bytes for constant in other)),
        (SHARED, reader.attribution.shared_bytes),
        ("functions that decode", functions),
        ("external data: alignment, and bytes that no tensor reads", outside - reader.external_bytes()),
    ]
    program = size + outside - sum(tensor.bytes for tensor in tensors) - sum(count for _, count in known)
    parts = Audit(
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
    return explained(with_added(parts, lambda cell: _added(cell, parts, model, reader)), reader.why)


def _added(cell: Cell, parts: Audit, model: Any, reader: _OnnxReader) -> Added:
    weights = counted(cell, parts.tensors, reader.attribution.values)
    first = [tensor for value, tensor in weights.items() if not _SECOND.fullmatch(value)]
    return Added(added_bytes(model, weights), sum(tensor.weights for tensor in first))


def _load(path: Path) -> tuple[Any, int]:
    """The ModelProto of a file, without external data, and the file's bytes."""
    import onnx

    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    model = onnx.ModelProto()
    try:
        data = path.read_bytes()
        model.ParseFromString(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # DecodeError, which each implementation of protobuf has its own of
        raise InputError(f"{path}: not an ONNX model, or truncated: {error}") from error
    if not model.ir_version or not (model.graph.node or model.graph.initializer):
        raise InputError(f"{path}: {'not an ONNX model' if data else 'the file is empty'}")
    return model, len(data)


class _OnnxReader:
    """Collects the constants, decoding nodes and weights of a graph and of the graphs nested in it."""

    def __init__(self, path: Path, record: str) -> None:
        self.record = record
        self.attribution = ByteAttribution()
        self._constants = Constants(path)
        self.files = self._constants.files
        self.ops: set[str] = set()
        self._graphs = 0

    def graph(self, graph: Any, outer: dict[str, str]) -> None:
        """Read a graph. outer: names of the file -> unique names, of the values that a nested graph sees around it."""
        self._graphs += 1
        scope = f"{self._graphs}/" if self._graphs > 1 else ""
        names = dict(outer)
        for tensor in graph.initializer:
            self._constant(tensor, scope, names)
        for sparse in graph.sparse_initializer:
            self._constant(sparse.values, scope, names)
        links = Links(graph.node)
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
                self._decoding(node, f"{scope}{position}", scope, names)
            else:
                self._reads(node, names, links)

    def _constant(self, tensor: Any, scope: str, names: dict[str, str], name: str = "") -> None:
        name = name or tensor.name
        names[name] = scope + name
        self.attribution.constants[scope + name] = self._constants.stored(tensor, scope + name, name)

    def external_bytes(self) -> int:
        """Bytes of files of external data that tensors read, each once."""
        tensors = self.attribution.constants.values()
        sizes = {tensor.key: tensor.bytes for tensor in tensors if isinstance(tensor.key, tuple)}
        return sum(sizes.values())

    def _decoding(self, node: Any, key: str, scope: str, names: dict[str, str]) -> None:
        """Add a node whose inputs are all constants."""
        inputs = [names.get(name, "") for name in node.input]
        roles = ROLES.get(node.op_type, ())
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
        read = tuple((name, roles[i] if i < len(roles) else CODE) for i, name in enumerate(inputs) if name)
        output = node.output[0]
        names[output] = scope + output
        size = framed(node.ByteSize())
        self.attribution.ops[scope + output] = DecodingOp(key, node.op_type, read, size, bits, label, shape)

    def _count(self, name: str) -> int:
        """Number of elements of the largest constant that a value is computed from."""
        waiting, seen, largest = [name], set(), 0
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.attribution.constants:
                largest = max(largest, self.attribution.constants[name].count)
            if name in self.attribution.ops:
                waiting += [value for value, _ in self.attribution.ops[name].inputs]
        return largest

    def _reads(self, node: Any, names: dict[str, str], links: Links) -> None:
        """Note the weights that a node of the network reads, with the parameters beside them."""
        given = [names.get(name, "") for name in node.input]
        for position, scale, zero, op in READERS.get(node.op_type, ()):
            if position >= len(given) or not given[position]:
                continue
            beside = [(scale, SCALE), (zero, ZERO)]
            parameters = [(given[at], role) for at, role in beside if at is not None and at < len(given) and given[at]]
            if node.op_type in ("ConvInteger", "MatMulInteger"):
                parameters += [(names[name], SCALE) for name in links.rescaled(node) if name in names]
            shape = bits = None
            if node.op_type in ("MatMulNBits", "MatMulBnb4"):
                sizes = {a.name: int(a.i) for a in node.attribute}
                shape, bits = (sizes.get("N", 0), sizes.get("K", 0)), sizes.get("bits", 4)
                parameters += [(name, REST) for name in given[4:5] if name]
            output = node.output[0] if node.output else ""
            read = WeightRead(given[position], node.input[position], op, output, tuple(parameters), shape, bits)
            self.attribution.add(read)

    def unpadded(self, tensor: TensorAudit) -> TensorAudit:
        """A tensor whose code bytes are those of codes alone.

        Zero points at the head of a stream, and the padding of blocks at its end, are counted as what they are.
        """
        ops = self.attribution.ops.values()
        decoder = next((op for op in ops if op.label == tensor.name and op.bits), None)
        codes = math.ceil(tensor.weights * tensor.stored / 8)
        spare = tensor.code_bytes - codes
        if spare <= 0 or tensor.is_float or (decoder is None and tensor.encoding.find("-bit codes") < 0):
            return tensor
        zeros = 0
        if decoder is not None and decoder.kind.startswith("Linear"):
            scale = self.attribution.constants[decoder.inputs[1][0]]
            zeros = min(spare, math.ceil(scale.count * tensor.stored / 8))
        return replace(
            tensor,
            code_bytes=codes,
            zero_point_bytes=tensor.zero_point_bytes + zeros,
            other_bytes=tensor.other_bytes + spare - zeros,
            encoding=tensor.encoding.replace("symmetric", "affine") if zeros else tensor.encoding,
        )

    def why(self, tensor: TensorAudit) -> str:
        """Why a tensor is float, as far as ONNX's own tools explain it."""
        if not tensor.is_float:
            return ""
        if "only when it runs" in tensor.encoding:
            return "the file has floats, which QuantizeLinear rounds when it is loaded: fold that node into the weight"
        if "MatMulNBits" in self.ops and tensor.op != "matmul":
            return f"MatMulNBits stores weights of MatMul only, and this is one of {tensor.op}"
        return ""
