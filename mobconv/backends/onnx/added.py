"""Bytes that quantized weights add to an ONNX file: the file, less the same network with weights that take none.

That network is the file with a float initializer under each weight's name in place of what decodes it, less the bytes
of these floats. Its size is added up from those of messages.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from mobconv.backends.byte_attribution import framed
from mobconv.backends.onnx.functions import DOMAIN

if TYPE_CHECKING:
    import onnx


def added_bytes(model: onnx.ModelProto, weights: Collection[str]) -> int:
    """Bytes of a model of ours without its record, less those of the network with weights that take none.

    weights: names of the values that the network reads as weights: of float initializers, or outputs of decoding nodes.
    Raises ValueError where a decoding node is not of one of them.
    """
    graph = model.graph
    if any(node.domain == DOMAIN and not {*node.output} <= {*weights} for node in graph.node):
        raise ValueError("it decodes what the network does not read as a weight")
    constants = {tensor.name: tensor for tensor in graph.initializer}
    decoders = {node.output[0]: node for node in graph.node if node.output and node.output[0] in weights}
    names = {output: node.name or output for output, node in decoders.items()}
    inside = graph.ByteSize()
    floats = sum(4 * math.prod(constants[name].dims) for name in weights if name in constants)
    for output, node in decoders.items():
        header, count = _header(names[output], node, constants)
        inside += framed(header + framed(4 * count)) - framed(node.ByteSize())
        floats += 4 * count
    for name in {name for node in decoders.values() for name in node.input if name in constants}:
        inside -= framed(constants[name].ByteSize())
    for node in graph.node:
        if node.output and node.output[0] in decoders:
            continue
        if any(name in names for name in node.input):
            longer = sum(_text(names[name]) - _text(name) for name in node.input if name in names)
            inside += framed(node.ByteSize() + longer) - framed(node.ByteSize())
        elif node.op_type == "Cast" and node.input[0] in constants:
            inside -= _frames(node, constants[node.input[0]])
    others = sum(framed(function.ByteSize(), 2) for function in model.functions)
    others += sum(framed(entry.ByteSize()) for entry in model.opset_import if entry.domain == DOMAIN)
    return int(framed(graph.ByteSize()) - framed(inside) + others + floats)


def _header(name: str, decoder: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> tuple[int, int]:
    """Bytes of a float initializer in place of a decoding node, without its values; and their number."""
    from onnx import TensorProto

    stated = [list(attribute.ints) for attribute in decoder.attribute if attribute.name == "d"]
    shape = stated[0] if stated else list(constants[decoder.input[0]].dims)
    return TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT).ByteSize(), math.prod(shape)


def _frames(cast: onnx.NodeProto, half: onnx.TensorProto) -> int:
    """Tags and lengths by which a bias in fp16 is longer than its messages: rows count them with the weights."""
    values = len(half.raw_data)
    single = half.ByteSize() + framed(2 * values) - framed(values) - len(cast.input[0]) + len(cast.output[0])
    return _frame(cast.ByteSize()) - _frame(single) + _frame(half.ByteSize())


def _frame(size: int) -> int:
    return framed(size) - size


def _text(name: str) -> int:
    return framed(len(name.encode()))
