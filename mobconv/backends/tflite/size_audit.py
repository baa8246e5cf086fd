"""Size audit of a TFLite file of any tool.

Vectors are identified by their place in the flatbuffer, so that one that two tensors share is counted once. Our codes
that ops unpack (unpack.py) are one stream for each width, which is split in proportion to numbers of weights.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.byte_attribution import (
    CODE,
    REST,
    SCALE,
    TABLE,
    ZERO,
    ByteAttribution,
    DecodingOp,
    StoredConstant,
    WeightRead,
    rest,
)
from mobconv.backends.size_audit import (
    OTHER,
    PROGRAM,
    SHARED,
    Added,
    Audit,
    TensorAudit,
    cell_of,
    counted,
    explained,
    threshold,
    with_added,
)
from mobconv.backends.tflite import runner
from mobconv.backends.tflite.added import added_bytes
from mobconv.backends.tflite.graph import RECORD_KEY
from mobconv.backends.tflite.unpack import WORD_BITS
from mobconv.errors import InputError
from mobconv.schemes import Cell, Storage

# op -> inputs that are weights, and its kind in words
_READERS: dict[str, tuple[tuple[int, ...], str]] = {
    "CONV_2D": ((1,), "conv"),
    "CONV_3D": ((1,), "conv"),
    "DEPTHWISE_CONV_2D": ((1,), "depthwise conv"),
    "TRANSPOSE_CONV": ((1,), "conv transpose"),
    "CONV_3D_TRANSPOSE": ((1,), "conv transpose"),
    "FULLY_CONNECTED": ((1,), "linear"),
    "BATCH_MATMUL": ((1, 0), "matmul"),
    "EMBEDDING_LOOKUP": ((1,), "embedding"),
    "GATHER": ((0,), "embedding"),
    "SVDF": ((1, 2), "recurrent"),
    "RNN": ((1, 2), "recurrent"),
    "UNIDIRECTIONAL_SEQUENCE_RNN": ((1, 2), "recurrent"),
    "LSTM": (tuple(range(1, 9)), "recurrent"),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (tuple(range(1, 9)), "recurrent"),
}
_ROLES = {
    "GATHER": (TABLE, CODE),
    **dict.fromkeys(("RESHAPE", "STRIDED_SLICE", "SLICE", "TILE", "TRANSPOSE", "SQUEEZE"), (CODE, REST, REST, REST)),
}
_FEW_OPS = ("depthwise conv", "conv transpose", "recurrent")  # no 4 or 2 bits in ai-edge-quantizer's default policy
_DATA, _SCALE, _ZERO = 4, 8, 10  # offsets in vtables: Buffer.data, QuantizationParameters.scale and .zero_point
_RANGES = (4, 6)  # QuantizationParameters.min and .max
_TENSORFLOW = 1024  # weights below which TensorFlow's converter leaves a tensor float
_WIDE = (
    "XNNPACK convolves with constants of INT8 or FLOAT16 only: filters wider than 1x1 are stored in those types, "
    "being at most 5 % of the file's weights"
)


def audit(path: Path) -> Audit:
    """`Auditable.size_audit` of TFLite files."""
    data, _, _, metadata = runner.read(path)
    record = metadata.get(RECORD_KEY, b"").decode()
    reader = _TFLiteReader(data)
    try:
        reader.read()
        tensors = reader.attribution.tensors()
    except (struct.error, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"{path} is damaged or truncated: its tables point outside the file") from error
    known = [
        (OTHER, sum(constant.bytes for constant in reader.attribution.unowned())),
        (SHARED, reader.attribution.shared_bytes),
    ]
    program = len(data) - sum(tensor.bytes for tensor in tensors) - sum(count for _, count in known)
    parts = Audit(path, "TFLite", len(data), tuple(tensors), rest([*known, (PROGRAM, program)], path), record)
    return explained(with_added(parts, lambda cell: _added(cell, parts, data, reader)), _why(parts, reader.distinct))


def _added(cell: Cell, parts: Audit, data: bytes, reader: _TFLiteReader) -> Added | None:
    values = reader.attribution.values
    weights = counted(cell, parts.tensors, values)
    for value, tensor in zip(values, parts.tensors, strict=True):
        if value not in weights:
            # the values of a table, as XNNPACK takes them; or what a layer rule keeps float: a file does not say which
            if not reader.has_tables(tensor, cell.scheme.bits):
                return None
            weights[value] = tensor
    numbers = [int(value.removeprefix("0/")) for value in weights]  # ValueError for those of a second graph
    count = sum(tensor.weights for tensor in weights.values())
    return Added(added_bytes(data, numbers, cell.scheme.mode is not None), count)


class _TFLiteReader:
    """Collects the constants, decoding ops and weights of a flatbuffer."""

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.attribution = ByteAttribution()
        self._places: dict[Any, slice] = {}  # key of a constant -> its bytes in the file
        self._weights: dict[str, str] = {}  # name of an op's output -> the weight that the op reads
        self._data = data
        self._model = schema.Model.GetRootAs(data, 0)
        self._kinds = {value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()}
        self._codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}

    def read(self) -> None:
        """Read all subgraphs. Raises errors of struct, and others, for a damaged file."""
        codes = [self._model.OperatorCodes(i) for i in range(self._model.OperatorCodesLength())]
        names = [self._codes.get(max(c.BuiltinCode(), c.DeprecatedBuiltinCode()), "") for c in codes]
        for number in range(self._model.SubgraphsLength()):
            graph = self._model.Subgraphs(number)
            tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
            for i, tensor in enumerate(tensors):
                self._constant(f"{number}/{i}", tensor)
            for i in range(graph.OperatorsLength()):
                op = graph.Operators(i)
                self._operator(f"{number}/", i, op, names[op.OpcodeIndex()], tensors)

    def _constant(self, key: str, tensor: Any) -> None:
        """Add a tensor that has values: as a constant, or as codes with their parameters and the op between them."""
        where = self._buffer(self._model.Buffers(tensor.Buffer()))
        if where is None:
            return
        kind = self._kinds.get(tensor.Type(), "")
        digits = "".join(filter(str.isdigit, kind.partition("_")[0]))
        bits = int(digits) if digits else 8
        name = (tensor.Name() or b"").decode(errors="replace")
        self._places[where] = slice(where[0], sum(where))
        used = WORD_BITS if kind == "int16" else 0
        constant = StoredConstant(where, name, _shape(tensor), kind, bits, where[1], used=used)
        parameters = tensor.Quantization()
        scale = None if parameters is None else _vector(parameters, _SCALE, 4)
        if scale is None:
            self.attribution.constants[key] = constant
            return
        self.attribution.constants[f"{key}="] = StoredConstant(where, name, _shape(tensor), kind, bits, where[1])
        inputs = [(f"{key}=", CODE), (f"{key}s", SCALE)]
        self.attribution.constants[f"{key}s"] = StoredConstant(scale, "", (scale[1] // 4,), "float32", 32, scale[1])
        zero = _vector(parameters, _ZERO, 8)
        if zero is not None:
            null = not any(self._data[zero[0] : sum(zero)])
            self.attribution.constants[f"{key}z"] = StoredConstant(
                zero, "", (zero[1] // 8,), "int64", 64, zero[1], null=null
            )
            inputs.append((f"{key}z", ZERO))
        for slot in _RANGES:
            if (limits := _vector(parameters, slot, 4)) is not None:
                self.attribution.constants[f"{key}r{slot}"] = StoredConstant(
                    limits, "", (limits[1] // 4,), "float32", 32, limits[1]
                )
                inputs.append((f"{key}r{slot}", REST))
        inputs += self._blocks(key, parameters)
        self.attribution.ops[key] = DecodingOp(("quantized", key), "quantized", tuple(inputs), shape=_shape(tensor))

    def distinct(self, tensor: TensorAudit) -> int:
        """Number of different values in the INT8 or float constant of a weight; 0 where the weight has none."""
        values = self._values(tensor)
        return 0 if values is None else len(np.unique(values))

    def has_tables(self, tensor: TensorAudit, bits: int) -> bool:
        """Whether floats are surely those of tables of a width: one, or one for each channel or 16 channels."""
        values, most = self._values(tensor), 1 << bits
        if values is None or len(np.unique(values)) <= most:
            return values is not None
        channels = np.moveaxis(values.reshape(tensor.shape), -1 if tensor.shape[0] == 1 else 0, 0)
        for together in (1, 16):
            groups = [channels[start : start + together] for start in range(0, len(channels), together)]
            if groups[0].size > most and all(len(np.unique(group)) <= most for group in groups):
                return True
        return False

    def _values(self, tensor: TensorAudit) -> NDArray[Any] | None:
        """The numbers in the INT8 or float constant of a weight, as bits; None where the weight has none."""
        waiting, seen = [self._weights.get(tensor.name, "")], set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            constant = self.attribution.constants.get(name)
            if constant is not None and constant.count == tensor.weights:
                kind = {32: np.uint32, 16: np.uint16}.get(constant.bits, np.uint8)
                return np.frombuffer(self._data[self._places[constant.key]], kind)
            if name in self.attribution.ops:
                waiting += [value for value, _ in self.attribution.ops[name].inputs]
        return None

    def _blocks(self, key: str, parameters: Any) -> list[tuple[str, str]]:
        """Scales and zero points of blockwise quantization: tensors of the graph, as (name, role)."""
        from ai_edge_litert import schema_py_generated as schema

        if parameters.DetailsType() != schema.QuantizationDetails.BlockwiseQuantization or parameters.Details() is None:
            return []
        blocks = schema.BlockwiseQuantization()
        blocks.Init(parameters.Details().Bytes, parameters.Details().Pos)
        graph = key.partition("/")[0]
        tensors = [(f"{graph}/{blocks.Scales()}", SCALE), (f"{graph}/{blocks.ZeroPoints()}", ZERO)]
        return [(name, role) for name, role in tensors if not name.endswith(("/-1", "/0"))]

    def _buffer(self, buffer: Any) -> tuple[int, int] | None:
        """(first byte, length) of a buffer's data, which may lie behind the flatbuffer; None for an empty buffer."""
        if buffer.Offset() > 1:
            if buffer.Offset() + buffer.Size() > len(self._data):
                raise ValueError("a buffer ends outside of the file")
            return (buffer.Offset(), buffer.Size()) if buffer.Size() else None
        vector = _vector(buffer, _DATA, 1)
        return vector if vector and vector[1] else None

    def _operator(self, scope: str, number: int, op: Any, kind: str, tensors: list[Any]) -> None:
        """Add an op: one that decodes constants, or one of the network with the weights that it reads."""
        inputs = [f"{scope}{op.Inputs(i)}" if op.Inputs(i) >= 0 else "" for i in range(op.InputsLength())]
        outputs = [op.Outputs(i) for i in range(op.OutputsLength())]
        if any(inputs) and all(self.attribution.is_constant(name) for name in inputs if name) and len(outputs) == 1:
            output = tensors[outputs[0]]
            size = 4 + _object(op._tab) + 8 + 4 * (len(inputs) + len(outputs))
            size += _object(op.BuiltinOptions()) if op.BuiltinOptions() is not None else 0
            size += 4 + _object(output._tab) + 4 + 4 * output.ShapeLength()
            read = tuple(
                (name, role) for name, role in zip(inputs, self._roles(kind, inputs, tensors), strict=True) if name
            )
            decoder = DecodingOp((scope, number), kind, read, size, shape=_shape(output))
            self.attribution.ops[f"{scope}{outputs[0]}"] = decoder
            return
        positions, word = _READERS.get(kind, ((), ""))
        for position in positions:
            if position < len(inputs) and inputs[position]:
                name = (tensors[outputs[0]].Name() or b"").decode(errors="replace") if outputs else ""
                shape = _shape(tensors[op.Inputs(position)])
                name = name or f"op {number} ({kind})"
                self._weights[name] = inputs[position]
                self.attribution.add(WeightRead(inputs[position], "", word, name, shape=shape))

    def _roles(self, kind: str, inputs: list[str], tensors: list[Any]) -> list[str]:
        """What each input of an op on constants is to its result."""
        roles = list(_ROLES.get(kind, ()))
        if kind in ("MUL", "SUB", "ADD") and len(inputs) == 2:
            first, second = (_count(tensors[int(name.partition("/")[2])]) for name in inputs)
            small = SCALE if kind == "MUL" else ZERO
            roles = [CODE, small] if first >= second else [small, CODE]
        return [*roles, *[CODE] * len(inputs)][: len(inputs)]


def _vector(table: Any, slot: int, width: int) -> tuple[int, int] | None:
    """(first byte, length in bytes) of a vector field; None where the table has none."""
    at = table._tab.Offset(slot)
    if not at:
        return None
    return int(table._tab.Vector(at)), width * int(table._tab.VectorLen(at))


def _object(table: Any) -> int:
    """Bytes of a table without those of the tables that it points to: the second number of its vtable."""
    (back,) = struct.unpack_from("<i", table.Bytes, table.Pos)
    return int(struct.unpack_from("<H", table.Bytes, table.Pos - back + 2)[0])


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))


def _count(tensor: Any) -> int:
    return math.prod(_shape(tensor))


def _why(audit: Audit, distinct: Callable[[TensorAudit], int]) -> Callable[[TensorAudit], str]:
    """Reasons for tensors in wider types, in our own files and those of Google's tools."""
    cell = cell_of(audit)
    quantized = [tensor.stored for tensor in audit.tensors if not tensor.is_float]
    narrow = min(quantized, default=32)
    small = threshold(
        audit.tensors, _TENSORFLOW - 1, "fewer than 1,024 weights: TensorFlow's converter leaves such tensors float"
    )

    def why(tensor: TensorAudit) -> str:
        if cell is not None and cell.scheme.mode is not None and cell.storage is Storage.PACKED:
            return _WIDE if _as_xnnpack_takes_it(tensor, cell.scheme.bits, distinct) else ""
        if narrow < 8 and tensor.op in _FEW_OPS and tensor.stored > narrow:
            return f"ai-edge-quantizer has no {narrow:g}-bit {tensor.op}: its policy leaves these as they are"
        return small(tensor)

    return why


def _as_xnnpack_takes_it(tensor: TensorAudit, bits: int, distinct: Callable[[TensorAudit], int]) -> bool:
    """Whether a filter of `bits` bits is in the wider type that `encode` chose for XNNPACK, not by a layer rule.

    Its values are then those of the narrow codes: in INT8 the codes themselves, in FLOAT16 a table's values.
    """
    if len(tensor.shape) != 4 or tensor.shape[1:3] == (1, 1) or tensor.stored <= bits:
        return False
    if tensor.encoding == "float16":
        return distinct(tensor) <= (1 << bits) * max(tensor.shape[0], tensor.shape[-1])
    return tensor.encoding.startswith(("affine int8", "symmetric int8")) and distinct(tensor) <= 1 << bits
