"""TFLite files read with the schema's classes and numpy, by the layout that the backend documents.

A weight is the second input of CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED or BATCH_MATMUL. From there the
ops that decode it are followed back to constants. Integer ops (the unpacking of odd widths) are computed
here as TFLite defines them; scales, zero points and tables are taken from their constants. Where those are repeated
for the channels of a group, by GATHER at positions, the positions are kept.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from stored import Stored

FLOATS = {"FLOAT32": np.float32, "FLOAT16": np.float16}
INTEGERS = {"INT8": np.int8, "INT16": np.int16, "INT32": np.int32}


def read(path):
    """The parameters in the order of the ops that use them, as `Stored`."""
    file = _File(path.read_bytes())
    found = [_as_parameter(file.weight(op.inputs[1]), code, file, op) for code, op in file.ops if code in _LAYOUTS]
    native = [stored for stored in found if stored.native]
    # Native types have zero points in symmetric files too: the middle, which is stored as 0. A linear file
    # could have it in one tensor by chance, hence one verdict for all of them.
    if all((stored.zero_points == 2 ** (stored.bits - 1)).all() for stored in native):
        for stored in native:
            stored.zero_points = None
    return found


def biases(path):
    """The biases of convolutions and linear layers in the order of the ops that add them, float32 or float16."""
    file = _File(path.read_bytes())
    found = []
    for code, op in file.ops:
        if code not in _LAYOUTS:
            continue
        if code == "BATCH_MATMUL":  # an ADD behind it has the bias
            ((name, addition),) = [(name, each) for name, each in file.ops if op.outputs[0] in each.inputs]
            assert name == "ADD" and addition.inputs[0] == op.outputs[0]
            index = addition.inputs[1]
        else:
            index = op.inputs[2]
        if index in file.made_by:
            assert file.made_by[index][0] == "DEQUANTIZE"
            index = file.made_by[index][1].inputs[0]
        found.append(file.constant(index).reshape(-1))
    return found


def _transposed(*order):
    return lambda values: np.ascontiguousarray(values.transpose(order))


# the layout that each op reads -> the parameter's (OIHW, OI)
_LAYOUTS = {
    "CONV_2D": _transposed(0, 3, 1, 2),  # OHWI
    "DEPTHWISE_CONV_2D": _transposed(3, 0, 1, 2),  # 1HWO, one input channel an output channel: O1HW
    "FULLY_CONNECTED": np.ascontiguousarray,  # OI
    "BATCH_MATMUL": lambda values: values[:, :, None, None],  # OI of a 1x1 convolution
}


def _as_parameter(stored, code, file, op):
    if code == "BATCH_MATMUL":
        assert op.builtinOptions.adjY and not op.builtinOptions.adjX, "the weight's rows are its output channels"
    if code == "DEPTHWISE_CONV_2D":
        assert file.tensor(op.inputs[1]).shape[0] == 1 and op.builtinOptions.depthMultiplier == 1
    for part in ("values", "codes"):
        held = getattr(stored, part)
        setattr(stored, part, None if held is None else _LAYOUTS[code](held))
    return stored


class _File:
    """The model as objects, and the values of tensors that hang on constants only."""

    def __init__(self, data):
        self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
        assert len(self.model.subgraphs) == 1
        self.graph = self.model.subgraphs[0]
        self.types = _names(schema.TensorType)
        codes = _names(schema.BuiltinOperator)
        self.ops = [(codes[self.model.operatorCodes[op.opcodeIndex].builtinCode], op) for op in self.graph.operators]
        self.made_by = {index: (code, op) for code, op in self.ops for index in op.outputs}
        self.kept = {}

    def tensor(self, index):
        return self.graph.tensors[index]

    def kind(self, index):
        return self.types[self.tensor(index).type]

    def constant(self, index):
        """A constant's values; INT4 and INT2 as the unsigned fields that their bits are."""
        tensor, kind = self.tensor(index), self.kind(index)
        assert index not in self.made_by, "computed, where a constant should be"
        data = np.ascontiguousarray(self.model.buffers[tensor.buffer].data)
        shape = [] if tensor.shape is None else [int(length) for length in tensor.shape]
        if kind in ("INT4", "INT2"):
            bits = int(kind[3:])
            fields = (data[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8(2**bits - 1)
            return fields.reshape(-1)[: int(np.prod(shape))].reshape(shape)
        return data.view((FLOATS | INTEGERS)[kind]).reshape(shape)

    def weight(self, index):
        """The weight that tensor `index` is, in the layout of the op that reads it."""
        if index not in self.made_by:
            assert self.kind(index) == "FLOAT32"
            return Stored(32, values=self.constant(index))
        code, op = self.made_by[index]
        if code == "DEQUANTIZE":
            return self._native(op.inputs[0])
        if code == "GATHER":
            return self._table(op)
        assert code == "MUL", f"a weight is made by {code}"
        return self._scaled(op)

    def _native(self, index):
        """DEQUANTIZE(constant): float16, or a signed integer type with scales and zero points of its own."""
        kind = self.kind(index)
        if kind == "FLOAT16":
            return Stored(16, values=self.constant(index).astype(np.float32), wide=False)
        bits, held = int(kind[3:]), self.tensor(index).quantization
        half = 2 ** (bits - 1)
        # code k is stored as k - 2^(n-1), in two's complement: the top bit is flipped
        codes = self.constant(index).view(np.uint8) ^ np.uint8(half)
        scales, zero = np.asarray(held.scale, np.float32), np.asarray(held.zeroPoint) + half
        assert scales.size == 1 or held.quantizedDimension == self._channels(self.tensor(index).shape, scales.size)
        assert zero.min() >= 0 and zero.max() < 2**bits
        rows = np.arange(scales.size) if scales.size > 1 else None
        return Stored(bits, codes=codes, scales=scales, zero_points=zero.astype(np.uint8), rows=rows, native=True)

    def _table(self, op):
        """GATHER(table, codes): one table, or one for each channel with the axes up to it as batch dims."""
        source = op.inputs[0]
        while source in self.made_by and self.made_by[source][0] == "TILE":  # over the axes before the channel's
            source = self.made_by[source][1].inputs[0]
        table, shape, rows = self._parameters(source)
        codes = self.value(op.inputs[1])
        axis = op.builtinOptions.batchDims - 1
        assert op.builtinOptions.axis == op.builtinOptions.batchDims
        if axis >= 0:
            assert axis == self._channels(codes.shape, shape[axis]) and np.prod(shape) == np.prod(shape[-2:])
            assert shape[axis] == codes.shape[axis]
        table = table.reshape(-1, table.shape[-1])
        return Stored(_bits(table), codes=codes.astype(np.uint8), table=table, rows=rows)

    def _parameters(self, index):
        """A float constant, its shape, None; or from GATHER(constant, positions) the constant, the shape in which
        it is repeated, and the positions: the group of each channel."""
        rows = None
        if index in self.made_by:
            code, op = self.made_by[index]
            assert code == "GATHER" and op.builtinOptions.axis == 0 == op.builtinOptions.batchDims
            index, positions = op.inputs[0], self.value(op.inputs[1])
            rows = positions.reshape(-1)
        assert self.kind(index) == "FLOAT32"
        held = self.constant(index)
        return held, held.shape if rows is None else (*positions.shape, *held.shape[1:]), rows

    def _scaled(self, op):
        """MUL(values, scale): values are GATHER(factors, codes), less DEQUANTIZE(z) where there are zero points."""
        scales, shape, rows = self._parameters(op.inputs[1])
        code, op = self.made_by[op.inputs[0]]
        zero = None
        if code == "SUB" and rows is not None:
            zero, zero_shape, zero_rows = self._parameters(op.inputs[1])
            assert (
                zero_shape == shape and np.array_equal(zero_rows, rows) and np.array_equal(zero, zero.astype(np.uint8))
            )
            zero = zero.astype(np.uint8)
            code, op = self.made_by[op.inputs[0]]
        elif code == "SUB":
            made, source = self.made_by[op.inputs[1]]
            unit = self.tensor(source.inputs[0]).quantization
            assert made == "DEQUANTIZE" and list(unit.scale) == [1.0] and not any(unit.zeroPoint)
            zero = self.constant(source.inputs[0])
            assert zero.dtype == np.int8 and zero.min() >= 0 and zero.shape == scales.shape
            zero = zero.reshape(-1).astype(np.uint8)
            code, op = self.made_by[op.inputs[0]]
        assert code == "GATHER"
        factors, codes = self.constant(op.inputs[0]), self.value(op.inputs[1])
        bits = _bits(factors[None])
        k = np.arange(2**bits)
        meant = k if zero is not None else (k - 2 ** (bits - 1) if bits > 1 else 2 * k - 1)
        assert np.array_equal(factors, meant), "codes do not stand for the factors that they should"
        channels = int(np.prod(shape))
        axis = self._channels(codes.shape, channels)
        assert len(shape) == codes.ndim and channels == shape[axis] and channels in (1, codes.shape[axis])
        return Stored(bits, codes=codes.astype(np.uint8), scales=scales.reshape(-1), zero_points=zero, rows=rows)

    def value(self, index):
        """What the integer ops compute, by TFLite's definition of each."""
        if index not in self.kept:
            self.kept[index] = self.constant(index) if index not in self.made_by else self._computed(index)
        return self.kept[index]

    def _computed(self, index):
        code, op = self.made_by[index]
        inputs, options = [self.value(i) for i in op.inputs], op.builtinOptions
        if code == "GATHER":
            return _gather(*inputs, options.axis, options.batchDims)
        if code == "RESHAPE":
            return inputs[0].reshape(options.newShape)
        if code == "STRIDED_SLICE":
            assert [int(step) for step in inputs[3]] == [1] and not options.beginMask and not options.endMask
            return inputs[0][int(inputs[1][0]) : int(inputs[2][0])]
        if code == "TILE":
            return np.tile(*inputs)
        assert code == "CONCATENATION", f"{code} among the ops that unpack"
        return np.concatenate(inputs, options.axis)

    @staticmethod
    def _channels(shape, groups):
        """The axis of the output channels: the first (OHWI, OI), but the last of 1HWO."""
        if len(shape) == 4 and shape[0] == 1 and groups != 1:
            return 3
        return 0


def _gather(table, positions, axis, batch):
    """tf.gather: positions along `axis`, the first `batch` axes of both run together."""
    if batch == 0:
        return np.take(table, positions, axis)
    assert batch == 1 == axis and positions.ndim == 1, "one position a row is all that unpacking needs"
    return table[np.arange(len(table)), positions]


def _bits(table):
    bits = int(table.shape[-1]).bit_length() - 1
    assert table.shape[-1] == 2**bits
    return bits


def _names(numbers):
    return {value: name for name, value in vars(numbers).items() if isinstance(value, int)}
