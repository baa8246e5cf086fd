"""The bits audit of a TFLite file, ours or anybody's.

Vectors are found by their place in the flatbuffer, so that what two tensors share is counted once. Codes of ours that
ops unpack (unpack.py) are one stream a width: each weight has the part that its number of weights is of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mobconv.backends.byte_attribution import CODE, REST, SCALE, TABLE, ZERO, Leaf, Site, Step, Tally, rest
from mobconv.backends.size_audit import OTHER, PROGRAM, SHARED, Audit, TensorAudit, cell_of, explained, threshold
from mobconv.backends.tflite import runner
from mobconv.backends.tflite.graph import RECORD_KEY
from mobconv.backends.tflite.unpack import WORD_BITS
from mobconv.errors import InputError
from mobconv.schemes import Storage

# op -> positions of its weights, and what it is to people
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
_DATA, _SCALE, _ZERO = 4, 8, 10  # places of Buffer.data, QuantizationParameters.scale and .zero_point in their vtables
_RANGES = (4, 6)  # and of .min and .max
_TENSORFLOW = 1024  # weights below which TensorFlow's converter leaves a tensor float
_WIDE = (
    "XNNPACK convolves with constants of INT8 or FLOAT16 only: filters wider than 1x1 lie in those, being at most 5 % "
    "of the file's weights"
)


def audit(path: Path) -> Audit:
    """Take a file apart. Raises InputError for what is no TFLite file, or a damaged one."""
    data, _, _, metadata = runner.read(path)
    record = metadata.get(RECORD_KEY, b"").decode()
    reader = _Reader(data)
    try:
        reader.read()
        tensors = reader.tally.weigh()
    except (struct.error, IndexError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"{path} is damaged or cut short: its tables point outside the file") from error
    known = [
        (OTHER, sum(leaf.bytes for leaf in reader.tally.unowned())),
        (SHARED, reader.tally.shared_bytes),
    ]
    left = len(data) - sum(tensor.bytes for tensor in tensors) - sum(count for _, count in known)
    found = Audit(path, "TFLite", len(data), tuple(tensors), rest([*known, (PROGRAM, left)], path), record)
    return explained(found, _why(found, reader.distinct))


class _Reader:
    """Fills a tally from the flatbuffer."""

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.tally = Tally()
        self._places: dict[Any, slice] = {}  # key of a leaf -> its bytes
        self._weights: dict[str, str] = {}  # what an op gives -> the weight it reads
        self._data = data
        self._model = schema.Model.GetRootAs(data, 0)
        self._kinds = {value: name.lower() for name, value in vars(schema.TensorType).items() if name.isupper()}
        self._codes = {value: name for name, value in vars(schema.BuiltinOperator).items() if name.isupper()}

    def read(self) -> None:
        """All subgraphs."""
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
        where = self._buffer(self._model.Buffers(tensor.Buffer()))
        if where is None:
            return
        kind = self._kinds.get(tensor.Type(), "")
        digits = "".join(filter(str.isdigit, kind.partition("_")[0]))
        bits = int(digits) if digits else 8
        name = (tensor.Name() or b"").decode(errors="replace")
        self._places[where] = slice(where[0], sum(where))
        used = WORD_BITS if kind == "int16" else 0
        leaf = Leaf(where, name, _shape(tensor), kind, bits, where[1], used=used)
        parameters = tensor.Quantization()
        scale = None if parameters is None else _vector(parameters, _SCALE, 4)
        if scale is None:
            self.tally.leaves[key] = leaf
            return
        self.tally.leaves[f"{key}="] = Leaf(where, name, _shape(tensor), kind, bits, where[1])
        inputs = [(f"{key}=", CODE), (f"{key}s", SCALE)]
        self.tally.leaves[f"{key}s"] = Leaf(scale, "", (scale[1] // 4,), "float32", 32, scale[1])
        zero = _vector(parameters, _ZERO, 8)
        if zero is not None:
            null = not any(self._data[zero[0] : sum(zero)])
            self.tally.leaves[f"{key}z"] = Leaf(zero, "", (zero[1] // 8,), "int64", 64, zero[1], null=null)
            inputs.append((f"{key}z", ZERO))
        for slot in _RANGES:
            if (held := _vector(parameters, slot, 4)) is not None:
                self.tally.leaves[f"{key}r{slot}"] = Leaf(held, "", (held[1] // 4,), "float32", 32, held[1])
                inputs.append((f"{key}r{slot}", REST))
        inputs += self._blocks(key, parameters)
        self.tally.steps[key] = Step(("quantized", key), "quantized", tuple(inputs), shape=_shape(tensor))

    def distinct(self, tensor: TensorAudit) -> int:
        """How many different values lie in the INT8 or FLOAT16 of a weight without a name, as ours are; else 0."""
        waiting, seen = [self._weights.get(tensor.name, "")], set()
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            leaf = self.tally.leaves.get(name)
            if leaf is not None and leaf.count == tensor.weights:
                kind = np.uint16 if tensor.is_float else np.uint8
                return len(np.unique(np.frombuffer(self._data[self._places[leaf.key]], kind)))
            waiting += [each for each, _ in self.tally.steps[name].inputs] if name in self.tally.steps else []
        return 0

    def _blocks(self, key: str, parameters: Any) -> list[tuple[str, str]]:
        """Scales and zero points of blocks are tensors of their own, named by number."""
        from ai_edge_litert import schema_py_generated as schema

        if parameters.DetailsType() != schema.QuantizationDetails.BlockwiseQuantization or parameters.Details() is None:
            return []
        blocks = schema.BlockwiseQuantization()
        blocks.Init(parameters.Details().Bytes, parameters.Details().Pos)
        graph = key.partition("/")[0]
        found = [(f"{graph}/{blocks.Scales()}", SCALE), (f"{graph}/{blocks.ZeroPoints()}", ZERO)]
        return [(name, role) for name, role in found if not name.endswith(("/-1", "/0"))]

    def _buffer(self, buffer: Any) -> tuple[int, int] | None:
        """(first byte, length) of a buffer that holds something; its data may lie behind the flatbuffer."""
        if buffer.Offset() > 1:
            if buffer.Offset() + buffer.Size() > len(self._data):
                raise ValueError("a buffer ends outside of the file")
            return (buffer.Offset(), buffer.Size()) if buffer.Size() else None
        found = _vector(buffer, _DATA, 1)
        return found if found and found[1] else None

    def _operator(self, scope: str, number: int, op: Any, kind: str, tensors: list[Any]) -> None:
        inputs = [f"{scope}{op.Inputs(i)}" if op.Inputs(i) >= 0 else "" for i in range(op.InputsLength())]
        outputs = [op.Outputs(i) for i in range(op.OutputsLength())]
        if any(inputs) and all(self.tally.constant(name) for name in inputs if name) and len(outputs) == 1:
            output = tensors[outputs[0]]
            size = 4 + _object(op._tab) + 8 + 4 * (len(inputs) + len(outputs))
            size += _object(op.BuiltinOptions()) if op.BuiltinOptions() is not None else 0
            size += 4 + _object(output._tab) + 4 + 4 * output.ShapeLength()
            held = tuple(
                (name, role) for name, role in zip(inputs, self._roles(kind, inputs, tensors), strict=True) if name
            )
            step = Step((scope, number), kind, held, size, shape=_shape(output))
            self.tally.steps[f"{scope}{outputs[0]}"] = step
            return
        positions, word = _READERS.get(kind, ((), ""))
        for position in positions:
            if position < len(inputs) and inputs[position]:
                name = (tensors[outputs[0]].Name() or b"").decode(errors="replace") if outputs else ""
                shape = _shape(tensors[op.Inputs(position)])
                name = name or f"op {number} ({kind})"
                self._weights[name] = inputs[position]
                self.tally.add(Site(inputs[position], "", word, name, shape=shape))

    def _roles(self, kind: str, inputs: list[str], tensors: list[Any]) -> list[str]:
        roles = list(_ROLES.get(kind, ()))
        if kind in ("MUL", "SUB", "ADD") and len(inputs) == 2:
            first, second = (_count(tensors[int(name.partition("/")[2])]) for name in inputs)
            small = SCALE if kind == "MUL" else ZERO
            roles = [CODE, small] if first >= second else [small, CODE]
        return [*roles, *[CODE] * len(inputs)][: len(inputs)]


def _vector(table: Any, slot: int, width: int) -> tuple[int, int] | None:
    """(first byte, length in bytes) of a vector field; None where it is not there."""
    at = table._tab.Offset(slot)
    if not at:
        return None
    return int(table._tab.Vector(at)), width * int(table._tab.VectorLen(at))


def _object(table: Any) -> int:
    """Bytes of a table without what it refers to: the second number of its vtable."""
    (back,) = struct.unpack_from("<i", table.Bytes, table.Pos)
    return int(struct.unpack_from("<H", table.Bytes, table.Pos - back + 2)[0])


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(tensor.Shape(i)) for i in range(tensor.ShapeLength()))


def _count(tensor: Any) -> int:
    found = 1
    for length in _shape(tensor):
        found *= length
    return found


def _why(found: Audit, distinct: Callable[[TensorAudit], int]) -> Callable[[TensorAudit], str]:
    """What our own files and the vendors' tools leave in wider types."""
    cell = cell_of(found)
    quantized = [tensor.stored for tensor in found.tensors if not tensor.is_float]
    narrow = min(quantized, default=32)
    small = threshold(
        found.tensors, _TENSORFLOW - 1, "fewer than 1,024 weights: TensorFlow's converter leaves such tensors float"
    )

    def why(tensor: TensorAudit) -> str:
        if cell is not None and cell.scheme.mode is not None and cell.storage is Storage.PACKED:
            return _WIDE if _as_xnnpack_takes_it(tensor, cell.scheme.bits, distinct) else ""
        if narrow < 8 and tensor.op in _FEW_OPS and tensor.stored > narrow:
            return f"ai-edge-quantizer has no {narrow:g}-bit {tensor.op}: its policy leaves these as they are"
        return small(tensor)

    return why


def _as_xnnpack_takes_it(tensor: TensorAudit, bits: int, distinct: Callable[[TensorAudit], int]) -> bool:
    """Whether a filter of so many bits lies in a wider type, as `encode` does it; else a layer rule asked for the type.

    The values are those of the narrow codes: in INT8 the codes themselves, in FLOAT16 what a table has for a channel.
    """
    if len(tensor.shape) != 4 or tensor.shape[1:3] == (1, 1) or tensor.stored <= bits:
        return False
    if tensor.encoding == "float16":
        return distinct(tensor) <= (1 << bits) * max(tensor.shape[0], tensor.shape[-1])
    return tensor.encoding.startswith(("affine int8", "symmetric int8")) and distinct(tensor) <= 1 << bits
