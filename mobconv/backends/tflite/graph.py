"""A TFLite flatbuffer as objects: constants added once, ops put before the network, bytes written compactly.

It has what the rest of the backend needs: read a file, list its constants, add constants and ops that compute
weights, let the network read these in place of its own constants, write the file. Small networks have many small
tensors, so every byte of bookkeeping counts: equal constants share one tensor, equal ops one op code, and only
inputs and outputs keep a name (a name is optional in the format).

Source of the format: schema.fbs of LiteRT (tflite/converter/schema/schema.fbs), read and written
through the classes that ai-edge-litert generates from it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# the numpy type of a constant's bytes -> its name in the schema's TensorType
_TYPES = {
    "float32": "FLOAT32",
    "float16": "FLOAT16",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
}

# op -> the class of its options, for the ops that mobconv writes
_OPTIONS = {
    "ADD": "AddOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CONCATENATION": "ConcatenationOptions",
    "DEQUANTIZE": "DequantizeOptions",
    "GATHER": "GatherOptions",
    "MUL": "MulOptions",
    "RESHAPE": "ReshapeOptions",
    "REVERSE_V2": "ReverseV2Options",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUB": "SubOptions",
    "TILE": "TileOptions",
    "TRANSPOSE": "TransposeOptions",
}

# ops that move the elements of their first input, and how; the result is reshaped to the op's output
_MOVES: dict[str, Callable[..., NDArray[Any]]] = {
    "EXPAND_DIMS": lambda values, axis: values,
    "RESHAPE": lambda values, shape=None: values,
    "REVERSE_V2": lambda values, axes: np.flip(values, tuple(axes.reshape(-1))),
    "SQUEEZE": lambda values: values,
    "TRANSPOSE": lambda values, perm: values.transpose(perm),
}

RECORD_KEY = "mobconv"  # of the metadata entry with our record


class Graph:
    """The first subgraph of a TFLite model, editable; others, which its ops call, are kept as they are.

    data: the bytes of a .tflite file.
    """

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        self._schema = schema
        self.model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
        self._graph = self.model.subgraphs[0]
        self._decoders: list[Any] = []  # ops that run before the network
        self._constants: dict[tuple[Any, ...], int] = {}
        self._codes: dict[tuple[int, int], int] = {}

    def constants(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(tensor index, values) of every float32 constant."""
        for index, tensor in enumerate(self._graph.tensors):
            data = self.model.buffers[tensor.buffer].data
            if data is None or tensor.type != self._schema.TensorType.FLOAT32:
                continue
            shape = [] if tensor.shape is None else list(tensor.shape)
            yield index, np.frombuffer(bytes(data), np.float32).reshape(shape)

    def set_constant(self, index: int, values: NDArray[np.float32]) -> None:
        """Put other values of the same shape and type in a constant."""
        self.model.buffers[self._graph.tensors[index].buffer].data = _bytes(values)

    def constant_bytes(self, indices: Iterable[int]) -> int:
        """Bytes of these constants' values in the file; those that share a buffer count once."""
        buffers = {self._graph.tensors[index].buffer for index in indices}
        return sum(len(self.model.buffers[buffer].data) for buffer in buffers)

    def constant(
        self,
        values: NDArray[Any],
        type_name: str = "",
        shape: Sequence[int] | None = None,
        quantization: tuple[NDArray[np.float32], NDArray[np.int64], int] | None = None,
    ) -> int:
        """A constant tensor; equal ones are one tensor.

        values        of the buffer, little-endian
        type_name     its TensorType, by default that of the values; INT4 and INT2 are given packed, as uint8
        shape         by default that of the values
        quantization  scales (groups,), zero points (groups,), and the axis of the groups
        """
        type_name = type_name or _TYPES[values.dtype.name]
        shape = tuple(values.shape if shape is None else shape)
        data = _bytes(values)
        extra = quantization and (quantization[0].tobytes(), quantization[1].tobytes(), quantization[2])
        key = (type_name, shape, data.tobytes(), extra)
        if key not in self._constants:
            buffer = self._schema.BufferT()
            buffer.data = data
            self.model.buffers.append(buffer)
            index = self._tensor(type_name, shape, len(self.model.buffers) - 1)
            if quantization is not None:
                self._graph.tensors[index].quantization = self._quantization(*quantization)
            self._constants[key] = index
        return self._constants[key]

    def op(
        self, code: str, inputs: Sequence[int], shape: Sequence[int], type_name: str, version: int = 1, **options: Any
    ) -> int:
        """An op that runs before the network; returns its output tensor. options: as the schema names them."""
        output = self._tensor(type_name, tuple(shape), 0)
        self._decoders.append(self._operator(code, inputs, output, version, options))
        return output

    def reshape(self, tensor: int, shape: Sequence[int], type_name: str = "INT32") -> int:
        """A tensor in another shape, before the network."""
        # in the op's options the shape takes fewer bytes than as a second input, a tensor with a buffer
        return self.op("RESHAPE", (tensor,), shape, type_name, newShape=[int(length) for length in shape])

    def arrange(self, tensor: int, view: Sequence[int], flip: Sequence[int], perm: Sequence[int]) -> int:
        """A float32 tensor reshaped to `view`, some of its axes reversed, then transposed, before the network."""
        result = self.reshape(tensor, view, "FLOAT32")
        if flip:
            result = self.op("REVERSE_V2", (result, self.constant(np.array(flip, np.int32))), view, "FLOAT32")
        moved = [view[axis] for axis in perm]
        return self.op("TRANSPOSE", (result, self.constant(np.array(perm, np.int32))), moved, "FLOAT32")

    def replace(self, old: int, new: int) -> None:
        """Let the network read tensor `new` in place of `old`. Tensors that nothing reads are left out of the file."""
        for operator in self._graph.operators:
            operator.inputs = [new if index == old else index for index in operator.inputs]
        self._graph.outputs = [new if index == old else index for index in self._graph.outputs]

    def is_pointwise(self, index: int) -> bool:
        """Whether all readers of constant `index`, [O, 1, 1, I], are convolutions that are matrix products.

        These have stride 1, one group, and a bias, whose ADD can take over the activation.
        """
        code = self._schema.BuiltinOperator.CONV_2D
        movable = [getattr(self._schema.ActivationFunctionType, name) for name in ("NONE", "RELU", "RELU6")]
        _, height, width, columns = self._graph.tensors[index].shape
        readers = [operator for operator in self._graph.operators if index in operator.inputs]
        return (
            height == width == 1
            and index not in self._graph.outputs
            and all(
                self.model.operatorCodes[operator.opcodeIndex].builtinCode == code
                and list(operator.inputs).index(index) == 1
                and len(operator.inputs) == 3
                and operator.inputs[2] >= 0
                and operator.builtinOptions.strideW == operator.builtinOptions.strideH == 1
                and operator.builtinOptions.fusedActivationFunction in movable
                and self._graph.tensors[operator.inputs[0]].shape[-1] == columns
                for operator in readers
            )
        )

    def replace_pointwise(self, old: int, new: int) -> None:
        """Replace convolutions with filter `old` (see `is_pointwise`) by BATCH_MATMUL with `new`, [O, I], and ADD."""
        operators = []
        for operator in self._graph.operators:
            if old not in operator.inputs:
                operators.append(operator)
                continue
            source, _, bias = operator.inputs
            shape = tuple(self._graph.tensors[operator.outputs[0]].shape)
            product = self._tensor("FLOAT32", shape, 0)
            activation = {"fusedActivationFunction": operator.builtinOptions.fusedActivationFunction}
            operators.append(self._operator("BATCH_MATMUL", (source, new), product, 1, {"adjY": True}))
            operators.append(self._operator("ADD", (product, bias), operator.outputs[0], 1, activation))
        self._graph.operators = operators

    def bind(self, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Make constants of inputs, by their names in the signature: these are not inputs afterwards."""
        (signature,) = self.model.signatureDefs
        for entry in list(signature.inputs):
            if entry.name.decode() in values:
                buffer = self._schema.BufferT()
                buffer.data = _bytes(values[entry.name.decode()])
                self.model.buffers.append(buffer)
                self._graph.tensors[entry.tensorIndex].buffer = len(self.model.buffers) - 1
                self._graph.inputs = [index for index in self._graph.inputs if index != entry.tensorIndex]
                signature.inputs.remove(entry)

    def fold(self) -> None:
        """Compute ops that only move the elements of a constant: the ops that read them read a constant then."""
        names = {number: name for name, number in vars(self._schema.BuiltinOperator).items() if name.isupper()}
        operators, made = [], dict[tuple[Any, ...], int]()
        for operator in self._graph.operators:
            code, output = names[self.model.operatorCodes[operator.opcodeIndex].builtinCode], operator.outputs[0]
            shape = () if self._graph.tensors[output].shape is None else tuple(self._graph.tensors[output].shape)
            read = [self._value(index) for index in operator.inputs] if code in _MOVES else []
            arguments = [values for values in read if values is not None]
            if code not in _MOVES or output in self._graph.outputs or len(arguments) < len(read):
                operators.append(operator)
                continue
            key = (code, shape, operator.inputs[0], *(each.tobytes() for each in arguments[1:]))
            if key in made:
                self.replace(output, made[key])
                continue
            made[key] = output
            buffer = self._schema.BufferT()
            buffer.data = _bytes(np.ascontiguousarray(_MOVES[code](*arguments).reshape(shape)))
            self.model.buffers.append(buffer)
            self._graph.tensors[output].buffer = len(self.model.buffers) - 1
        self._graph.operators = operators

    def _value(self, index: int) -> NDArray[Any] | None:
        """The values of a float32 or int32 constant; None for any other tensor."""
        if index < 0:
            return None
        tensor = self._graph.tensors[index]
        kinds = {self._schema.TensorType.FLOAT32: np.float32, self._schema.TensorType.INT32: np.int32}
        data = self.model.buffers[tensor.buffer].data
        if data is None or tensor.type not in kinds:
            return None
        return np.frombuffer(bytes(data), kinds[tensor.type]).reshape([] if tensor.shape is None else tensor.shape)

    def strip(self, inputs: dict[str, str], outputs: dict[str, str]) -> None:
        """Rename inputs and outputs, and drop metadata, description and names of inner tensors.

        inputs, outputs: the converter's name in the signature -> ours, in order. The converter's metadata has a
        `min_runtime_version`, which is that of the float network, not of the files that are encoded from it.
        """
        self.model.metadata = None
        self.model.metadataBuffer = None
        self.model.description = None
        for tensor in self._graph.tensors:
            tensor.name = None
        for signature in self.model.signatureDefs or []:
            for entries, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
                for entry in entries:
                    entry.name = names[entry.name.decode()].encode()
                    self._graph.tensors[entry.tensorIndex].name = entry.name
            # the converter sorts its names as text, output_10 before output_2
            numbers = {entry.name.decode(): entry.tensorIndex for entry in signature.outputs}
            if len(set(numbers.values())) == len(self._graph.outputs):
                self._graph.outputs = [numbers[name] for name in outputs.values()]

    def set_metadata(self, key: str, data: bytes) -> None:
        """Add bytes to the file's metadata under a key."""
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.model.buffers.append(buffer)
        entry = self._schema.MetadataT()
        entry.name, entry.buffer = key, len(self.model.buffers) - 1
        self.model.metadata = [*(self.model.metadata or []), entry]

    def to_bytes(self) -> bytes:
        """The bytes of the file, equal for equal edits. The graph can be edited further."""
        from ai_edge_litert.tools import flatbuffer_utils

        graph, model = self._graph, self.model
        kept = graph.operators, graph.tensors, model.buffers, model.metadata, graph.inputs, graph.outputs
        others = [(other, other.tensors) for other in model.subgraphs[1:]]
        ties = [(entry, entry.tensorIndex) for entry in self._signature_entries()]
        graph.operators = [_copied(operator) for operator in [*self._decoders, *graph.operators]]
        try:
            self._drop_unused()
            return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
        finally:
            graph.operators, graph.tensors, model.buffers, model.metadata, graph.inputs, graph.outputs = kept
            for other, tensors in others:
                other.tensors = tensors
            for entry, index in ties:
                entry.tensorIndex = index

    def _signature_entries(self) -> list[Any]:
        return [
            entry for sig in self.model.signatureDefs or [] for entry in [*(sig.inputs or []), *(sig.outputs or [])]
        ]

    def _drop_unused(self) -> None:
        """Drop tensors and buffers that nothing reads, and renumber the others in order."""
        graph, model = self._graph, self.model
        used = {*graph.inputs, *graph.outputs}
        for operator in graph.operators:
            used.update(operator.inputs, operator.outputs)
        tensors = {old: new for new, old in enumerate(i for i in range(len(graph.tensors)) if i in used)}
        tensors[-1] = -1  # an optional input that is not given
        graph.tensors = [_copied(graph.tensors[old]) for old in tensors if old >= 0]
        for operator in graph.operators:
            operator.inputs = [tensors[i] for i in operator.inputs]
            operator.outputs = [tensors[i] for i in operator.outputs]
        graph.inputs = [tensors[i] for i in graph.inputs]
        graph.outputs = [tensors[i] for i in graph.outputs]
        for entry in self._signature_entries():
            entry.tensorIndex = tensors[entry.tensorIndex]
        # by the format's rule, buffer 0 is empty and belongs to all tensors that are computed
        buffers = {0: 0}
        for other in model.subgraphs[1:]:
            other.tensors = [_copied(tensor) for tensor in other.tensors]
        for tensor in itertools.chain(*(each.tensors for each in model.subgraphs)):
            if model.buffers[tensor.buffer].data is None:
                tensor.buffer = 0
            tensor.buffer = buffers.setdefault(tensor.buffer, len(buffers))
        model.metadata = model.metadata and [_copied(entry) for entry in model.metadata]
        for entry in model.metadata or []:
            entry.buffer = buffers.setdefault(entry.buffer, len(buffers))
        model.buffers = [model.buffers[old] for old in buffers]

    def _tensor(self, type_name: str, shape: tuple[int, ...], buffer: int) -> int:
        tensor = self._schema.TensorT()
        tensor.type = getattr(self._schema.TensorType, type_name)
        tensor.shape = [int(length) for length in shape]
        tensor.buffer = buffer
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _operator(self, code: str, inputs: Sequence[int], output: int, version: int, options: dict[str, Any]) -> Any:
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._op_code(code, version)
        operator.inputs = list(inputs)
        operator.outputs = [output]
        name = _OPTIONS[code]
        operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, name)
        operator.builtinOptions = getattr(self._schema, name + "T")()
        for option, value in options.items():
            setattr(operator.builtinOptions, option, value)
        return operator

    def _quantization(self, scale: NDArray[np.float32], zero_point: NDArray[np.int64], axis: int) -> Any:
        parameters = self._schema.QuantizationParametersT()
        parameters.scale = scale
        parameters.zeroPoint = zero_point
        parameters.quantizedDimension = axis
        return parameters

    def _op_code(self, code: str, version: int) -> int:
        number = getattr(self._schema.BuiltinOperator, code)
        if (number, version) not in self._codes:
            entry = self._schema.OperatorCodeT()
            entry.builtinCode = number
            entry.deprecatedBuiltinCode = min(number, 127)  # the one-byte field of old readers
            entry.version = version
            self.model.operatorCodes.append(entry)
            self._codes[number, version] = len(self.model.operatorCodes) - 1
        return self._codes[number, version]


def _copied(table: Any) -> Any:
    """A shallow copy of a schema object: its fields can be renumbered without changing the original."""
    twin = type(table)()
    twin.__dict__.update(table.__dict__)
    return twin


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return np.frombuffer(little.tobytes(), np.uint8)
