"""ONNX files read with onnx and numpy: packed weights by the layout that the backend documents.

A weight is the second input of Conv or Gemm. In a packed file a node of domain `mobconv` makes it,
whose op type says form and width: `Linear3`, `Table8`, with a scale or table for 16 channels `Linear16_3`; its
attribute `d` is the weight's shape. In a native file DequantizeLinear makes it.
"""

import re

import numpy as np
import onnx
from onnx import numpy_helper
from stored import Stored, spread

USERS = ("Conv", "Gemm")


def read(path):
    """The parameters in the order of the ops that use them, as `Stored`."""
    model = onnx.load(str(path))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type in USERS:
            name = node.input[1]
            if _is_float(name, made_by):
                stored = _float(name, constants, made_by)
            elif made_by[name].op_type == "DequantizeLinear":
                stored = _native(made_by[name], tensors, constants)
            else:
                stored = _packed(made_by[name], constants)
            found.append(_as_parameter(stored, node))
    return found


def biases(path):
    """The biases of convolutions and linear layers in the order of the ops that add them, float32 or float16."""
    model = onnx.load(str(path))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    names = [node.input[2] for node in model.graph.node if node.op_type in USERS and len(node.input) > 2]
    return [constants[made_by[name].input[0] if name in made_by else name].reshape(-1) for name in names]


def weight_bytes(path):
    """Bytes of everything that the quantized weights brought into the file, as protobuf writes it:
    initializers, decoding nodes, functions, and the domain's entry in the list of opsets."""
    model = onnx.load(str(path))
    nodes = [node for node in model.graph.node if node.domain == "mobconv"]
    read_by = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in read_by]
    domains = [entry for entry in model.opset_import if entry.domain == "mobconv"]
    return sum(map(_field, [*nodes, *tensors, *domains])) + sum(_field(each, tag=2) for each in model.functions)


def _field(message, tag=1):
    """Bytes of a message as a field of another: its tag (2 bytes for field numbers above 15), length, content."""
    size = message.ByteSize()
    return tag + (max(size.bit_length(), 1) + 6) // 7 + size


def _is_float(name, made_by):
    return name not in made_by or made_by[name].op_type == "Cast"


def _float(name, constants, made_by):
    """An fp32 initializer, or an fp16 one behind a Cast."""
    source = made_by[name].input[0] if name in made_by else name
    held = constants[source]
    assert held.dtype == (np.float16 if name in made_by else np.float32)
    return Stored(held.dtype.itemsize * 8, values=held.astype(np.float32), wide=name not in made_by, name=name)


def _packed(node, constants):
    assert node.domain == "mobconv"
    form, groups, digits = re.fullmatch(r"([A-Za-z]+)(16_)?([1-8])", node.op_type).groups()
    stream, parameter = (constants[name] for name in node.input)
    assert stream.dtype == np.uint8 and parameter.dtype in (np.float16, np.float32)
    shape = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "d")
    bits, count = int(digits), int(np.prod(shape))
    stored = Stored(bits, wide=parameter.dtype == np.float32, name=node.name)
    ahead = 0
    if form.startswith("Table"):
        stored.table = parameter.reshape(-1, parameter.shape[-1]).astype(np.float32)
    else:
        stored.scales = parameter.reshape(-1).astype(np.float32)
        ahead = stored.scales.size if form == "Linear" else 0
    fields = spread(stream, bits, ahead + count)
    if form == "Linear":
        stored.zero_points = fields[:ahead]
    stored.codes = fields[ahead:].reshape(shape)
    if groups:
        lengths = parameter.shape[: len(shape)]
        axis = int(np.argmax(lengths))
        assert np.prod(lengths) == lengths[axis] == -(-shape[axis] // 16) > 1
        stored.rows = np.arange(shape[axis]) // 16
    return stored


def _native(node, tensors, constants):
    """DequantizeLinear of 8 or 4 bits, signed without zero points or unsigned with them.

    A scale is a scalar, or one for each channel. Below a byte two fields lie in one, the first in its low bits.
    Signed ones are two's complement.
    """
    codes, bits, signed = _fields(tensors[node.input[0]])
    scales = constants[node.input[1]]
    assert scales.dtype == np.float32 and not any(a.name in ("block_size", "output_dtype") for a in node.attribute)
    stored = Stored(bits, codes=codes, scales=scales.reshape(-1), name=node.name)
    assert signed == (len(node.input) == 2)
    if not signed:
        zero_points, zero_bits, zero_signed = _fields(tensors[node.input[2]])
        assert (zero_bits, zero_signed, zero_points.shape) == (bits, False, scales.shape)
        stored.zero_points = zero_points.reshape(-1)
    if scales.ndim:
        axis = next(a.i for a in node.attribute if a.name == "axis")
        assert scales.shape == (codes.shape[axis],)
        stored.rows = np.arange(scales.size)
    return stored


def _fields(tensor):
    """Codes as unsigned fields: of signed ones, k - 2^(n-1), the top bit is flipped."""
    kind = onnx.TensorProto.DataType.Name(tensor.data_type)
    signed, bits = not kind.startswith("U"), int(kind.removeprefix("U").removeprefix("INT"))
    fields = spread(np.frombuffer(tensor.raw_data, np.uint8), bits, int(np.prod(tensor.dims)))
    return (fields ^ np.uint8(2 ** (bits - 1) * signed)).reshape(tuple(tensor.dims)), bits, signed


def _as_parameter(stored, user):
    """Conv reads OIHW, as the parameter; Gemm reads OI where transB says so, else IO."""
    turned = user.op_type == "Gemm" and not any(a.name == "transB" and a.i == 1 for a in user.attribute)
    if turned:
        for part in ("values", "codes"):
            held = getattr(stored, part)
            setattr(stored, part, None if held is None else np.ascontiguousarray(held.T))
    return stored
