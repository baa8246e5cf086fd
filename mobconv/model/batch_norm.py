"""Fold batch norms into the convolution or linear layer in front of them, once for all backends.

Folding happens here alone: a weight that a converter folds later is another one than was quantized. (The dynamo ONNX
exporter, for one, folds batch norm and keeps the old names.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobconv.model import graph_edit
from mobconv.model.weight_ops import weight_of

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule, Node

_BATCH_NORM = ("aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default")


def fold(module: GraphModule) -> None:
    """Replace conv -> batch norm by conv, where nothing else reads the conv's output and weight.

    The norm's channels must be the layer's: a batch norm behind a linear layer over (N, tokens, features) normalises
    tokens, and stays.
    """
    import torch

    graph = module.graph
    readers = graph_edit.readers(module)
    for norm in list(graph.nodes):
        if not graph_edit.is_call(norm, *_BATCH_NORM):
            continue
        training = norm.args[5] if str(norm.target) == _BATCH_NORM[0] else False
        source = norm.args[0]
        read = weight_of(source)
        if training or read is None or len(source.users) > 1:
            continue
        path, axis = str(read[0].target), read[1]
        weight = graph_edit.attribute(module, path)
        if readers[weight.untyped_storage().data_ptr()] > 1 or not _same_channels(source, weight):
            continue
        eps = norm.args[7] if str(norm.target) == _BATCH_NORM[0] else norm.args[6]
        mean = graph_edit.attribute(module, str(norm.args[3].target)).double()
        variance = graph_edit.attribute(module, str(norm.args[4].target)).double()
        gamma, beta = (
            torch.full_like(mean, default)
            if affine is None
            else graph_edit.attribute(module, str(affine.target)).double()
            for affine, default in zip(norm.args[1:3], (1.0, 0.0), strict=True)
        )
        factor = (variance + eps).rsqrt() * gamma
        old = source.args[2] if len(source.args) > 2 else source.kwargs.get("bias")
        bias = torch.zeros_like(mean) if old is None else graph_edit.attribute(module, str(old.target)).double()
        folded = (bias - mean) * factor + beta
        graph_edit.set_parameter(module, path, _scaled(weight, factor, axis))
        bias_path = _free_name(module, path.rpartition(".")[0])
        graph_edit.set_parameter(module, bias_path, folded.to(weight.dtype))
        with graph.inserting_before(source):
            bias_node = graph.get_attr(bias_path)
        arguments = list(source.args) + [None] * (3 - len(source.args))
        arguments[2] = bias_node
        source.args = tuple(arguments)
        source.kwargs = {key: value for key, value in source.kwargs.items() if key != "bias"}
        source.meta[FOLDED] = norm.name
        _replace(norm, source)


FOLDED = "mobconv_folded"
"""Key of a layer's `meta`: name of the batch norm whose output it computes now."""


def _same_channels(source: Node, weight: torch.Tensor) -> bool:
    """Whether axis 1 of a layer's output, which batch norm takes for channels, is its output channels."""
    target, rank = str(source.target), source.meta["val"].dim()
    if target == "aten.linear.default":
        return bool(rank == 2)
    return "embedding" not in target and bool(rank == weight.dim())  # a convolution of one sample has no batch


def _scaled(weight: torch.Tensor, factor: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply each output channel of a weight by its factor.

    The weight of a transposed convolution of g groups is (in, out / g, ...): output channel i of group j, which only
    the j-th part of the inputs reaches, is number j * out / g + i.
    """
    import torch

    view = [-1 if dimension == axis else 1 for dimension in range(weight.dim())]
    groups = len(factor) // weight.shape[axis]
    parts = [
        part.double() * share.view(view)
        for part, share in zip(weight.chunk(groups) if groups > 1 else [weight], factor.chunk(groups), strict=True)
    ]
    return torch.cat(parts).to(weight.dtype)


def _replace(norm: Node, source: Node) -> None:
    """Connect the users of a batch norm to its source; the native op's users read the first item of a tuple."""
    graph = norm.graph
    if str(norm.target) == _BATCH_NORM[0]:
        norm.replace_all_uses_with(source)
    for user in list(norm.users):
        user.replace_all_uses_with(source)
        graph.erase_node(user)
    graph.erase_node(norm)


def _free_name(module: GraphModule, owner: str) -> str:
    """Find a free name beside the weight for a folded bias (an old bias may be shared, and stays)."""
    taken = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    stem = f"{owner}.bias" if owner else "bias"
    return next(name for i in range(len(taken) + 1) if (name := stem + "_folded" * i) not in taken)
