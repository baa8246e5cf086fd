"""The operators whose weights are quantized, and the weights that a graph reads through them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mobconv.model.graph_edit import attribute

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule, Node

# Position of the weight among the arguments, and the axis of its output channels. The weight of a transposed
# convolution is (in, out / groups, ...); an embedding's channels are its rows, one output vector each, as in TFLite's
# EMBEDDING_LOOKUP.
WEIGHT_OPS: dict[str, tuple[int, int]] = {
    "aten.conv1d.default": (1, 0),
    "aten.conv2d.default": (1, 0),
    "aten.conv3d.default": (1, 0),
    "aten.conv1d.padding": (1, 0),
    "aten.conv2d.padding": (1, 0),
    "aten.conv3d.padding": (1, 0),
    "aten.convolution.default": (1, 0),  # axis 1 where its `transposed` argument is set
    "aten.conv_transpose1d.default": (1, 1),
    "aten.conv_transpose2d.input": (1, 1),
    "aten.conv_transpose3d.input": (1, 1),
    "aten.linear.default": (1, 0),
    "aten.embedding.default": (0, 0),
}


def weight_argument(node: Node) -> tuple[Node, int] | None:
    """The node that gives an operator its weight, parameter or not, and the channel axis; None for other operators."""
    if node.op != "call_function" or str(node.target) not in WEIGHT_OPS:
        return None
    index, axis = WEIGHT_OPS[str(node.target)]
    if str(node.target) == "aten.convolution.default" and node.args[6]:
        axis = 1
    return node.args[index], axis  # type: ignore[return-value]


def weight_of(node: Node) -> tuple[Node, int] | None:
    """The parameter's node and channel axis; None for an operator that reads no parameter as its weight."""
    read = weight_argument(node)
    return read if read is not None and getattr(read[0], "op", "") == "get_attr" else None


def weighted(module: GraphModule) -> Iterator[tuple[Node, str, int]]:
    """Yield the operations that read a quantizable weight, in order: node, name of the parameter, channel axis.

    A parameter with two names is given by its first.
    """
    tensors: dict[str, torch.Tensor] = dict([*module.named_parameters(), *module.named_buffers()])
    by_storage = {value.data_ptr(): name for name, value in reversed(list(tensors.items()))}
    for node in module.graph.nodes:
        weight = weight_of(node)
        if weight is None:
            continue
        path, axis = str(weight[0].target), weight[1]
        value = attribute(module, path)
        if value.is_floating_point():
            yield node, by_storage.get(value.data_ptr(), path), axis
