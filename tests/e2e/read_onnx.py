"""ONNX files read with onnx and numpy: packed weights by the layout that the backend documents.

A weight is the second input of Conv or Gemm. In a packed file a node of domain `mobconv` makes it,
whose op type says form and width: `Linear3`, `Table8`; its attribute `d` is the weight's shape.
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
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type in USERS:
            name = node.input[1]
            stored = _float(name, constants, made_by) if _is_float(name, made_by) else _packed(made_by[name], constants)
            found.append(_as_parameter(stored, node))
    return found


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
    form, digits = re.fullmatch(r"([A-Za-z]+)([1-8])", node.op_type).groups()
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
    return stored


def _as_parameter(stored, user):
    """Conv reads OIHW, as the parameter; Gemm reads OI where transB says so, else IO."""
    turned = user.op_type == "Gemm" and not any(a.name == "transB" and a.i == 1 for a in user.attribute)
    if turned:
        for part in ("values", "codes"):
            held = getattr(stored, part)
            setattr(stored, part, None if held is None else np.ascontiguousarray(held.T))
    return stored
