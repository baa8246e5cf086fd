"""Operations that coremltools refuses or gets wrong, written as others before conversion.

- lstm, gru and rnn are unsupported: they become their steps, unrolled;
- max_pool without a stride lacks an argument: the stride is stated;
- max_pool with dilation is unsupported: it becomes the maximum of slices;
- a mask computed from constants by `masked_fill` comes out inverted (coremltools issue 2506): it becomes a buffer;
- a Boolean attention mask is added to the scores as 0 and 1: it becomes 0 and minus infinity;
- new_ones, `&` of masks and `where` with a number are unsupported: they become new_full, logical_and, and `where` with
  a tensor; alias is left out;
- log_softmax is converted as the log of softmax, minus infinity where softmax underflows: it becomes x - logsumexp(x).

Networks without such an operation are converted as they are.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mobconv.model import graph_edit

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node

    from mobconv.model.program import Program

# passes of coremltools that multiply a factor behind a convolution, such as a layer's scale, into its weight
MERGING = ("common::fuse_conv_scale", "common::fuse_conv_batchnorm")
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_MASKING = ("triu", "tril", "masked_fill", "where", "logical_not", "bitwise_not")
_ATTENTION = "aten.scaled_dot_product_attention.default"


def exported(program: Program) -> ExportedProgram:
    """Export a program for coremltools: ATen operators that it has, functional ones only."""
    import torch
    from torch._decomp import get_decompositions

    operators = [getattr(torch.ops.aten, name).input for name in _RECURRENT]
    present = {node.target for node in program.module.graph.nodes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = get_decompositions([each for each in operators if each in present])
        lowered: ExportedProgram = _lowered(program).exported().run_decompositions(table)
        return lowered


def _lowered(program: Program) -> Program:
    nodes = [node.name for node in program.module.graph.nodes if _rule(node) is not None]
    if not nodes and not _masks(program.module):
        return program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = copy.deepcopy(program.module)
    for mask in _masks(module):
        _fold(module, mask)
    for node in list(module.graph.nodes):
        rule = _rule(node)
        if rule is not None:
            with module.graph.inserting_before(node):
                rule(module, node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return replace(program, module=module)


def _rule(node: Node) -> Callable[[GraphModule, Node], None] | None:
    if node.op != "call_function":
        return None
    target = str(node.target)
    if target == "aten.max_pool2d.default" and _is_dilated(node):
        return _dilated_max_pool
    if target.startswith("aten.max_pool") and len(node.args) == 2:
        return _state_stride
    if target == "aten.__and__.Tensor" and _is_boolean(node):
        return _logical_and
    if target == _ATTENTION and _is_boolean(_mask(node)):
        return _additive_mask
    return _ALWAYS.get(target)


def _state_stride(module: GraphModule, node: Node) -> None:
    node.args = (*node.args, node.args[1])


def _is_dilated(node: Node) -> bool:
    """Whether a pooling has a dilation above 1, and whole windows only (no ceil_mode)."""
    dilation: Any = node.args[4] if len(node.args) > 4 else 1
    return max(_pair(dilation)) > 1 and not (len(node.args) > 5 and node.args[5])


def _pair(value: Any) -> tuple[int, int]:
    values = [int(each) for each in (value if isinstance(value, list | tuple) else [value])]
    return values[0], values[-1]


def _dilated_max_pool(module: GraphModule, node: Node) -> None:
    import torch

    aten, graph = torch.ops.aten, module.graph
    x: Any = node.args[0]
    kernel, padding, dilation = (_pair(node.args[place]) for place in (1, 3, 4))
    stride = _pair(node.args[2] or node.args[1])
    padded = x
    if any(padding):
        rows, columns = padding
        padded = graph.call_function(aten.constant_pad_nd.default, (x, [columns, columns, rows, rows], float("-inf")))
    lengths = [int(node.meta["val"].shape[axis]) for axis in (2, 3)]
    for axis in (0, 1):
        slices = []
        for place in range(kernel[axis]):
            start = place * dilation[axis]
            end = start + (lengths[axis] - 1) * stride[axis] + 1
            slices.append(graph.call_function(aten.slice.Tensor, (padded, axis + 2, start, end, stride[axis])))
        padded = slices[0]
        for each in slices[1:]:
            padded = graph.call_function(aten.maximum.default, (padded, each))
    node.replace_all_uses_with(padded)
    graph.erase_node(node)


def _filled_with_ones(module: GraphModule, node: Node) -> None:
    import torch

    node.target = torch.ops.aten.new_full.default
    node.args = (*node.args, 1)


def _logical_and(module: GraphModule, node: Node) -> None:
    import torch

    node.target = torch.ops.aten.logical_and.default


def _where_tensor(module: GraphModule, node: Node) -> None:
    import torch

    condition, value, other = node.args
    dtype = node.meta["val"].dtype
    tensor = module.graph.call_function(torch.ops.aten.full.default, ([1], other), {"dtype": dtype})
    node.target = torch.ops.aten.where.self
    node.args = (condition, value, tensor)


def _leave_out(module: GraphModule, node: Node) -> None:
    node.replace_all_uses_with(node.all_input_nodes[0])
    module.graph.erase_node(node)


def _stable_log_softmax(module: GraphModule, node: Node) -> None:
    import torch

    x, axis = node.args[0], node.args[1]
    total = module.graph.call_function(torch.ops.aten.logsumexp.default, (x, [axis], True))
    result = module.graph.call_function(torch.ops.aten.sub.Tensor, (x, total))
    node.replace_all_uses_with(result)
    module.graph.erase_node(node)


def _mask(node: Node) -> Any:
    return node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")


def _is_boolean(mask: Any) -> bool:
    import torch

    value = getattr(mask, "meta", {}).get("val")
    return value is not None and value.dtype is torch.bool


def _additive_mask(module: GraphModule, node: Node) -> None:
    """True lets a score through: 0 is added to it, minus infinity to the others."""
    import torch

    mask: Any = _mask(node)
    names = {name for name, _ in module.named_buffers()}
    for name, value in (("attend", 0.0), ("ignore", float("-inf"))):
        if f"mobconv_{name}" not in names:
            module.register_buffer(f"mobconv_{name}", torch.tensor(value))
    yes, no = (module.graph.get_attr(f"mobconv_{name}") for name in ("attend", "ignore"))
    added = module.graph.call_function(torch.ops.aten.where.self, (mask, yes, no))
    if len(node.args) > 3:
        node.args = (*node.args[:3], added, *node.args[4:])
    else:
        node.kwargs = {**node.kwargs, "attn_mask": added}


def _masks(module: GraphModule) -> list[Node]:
    """The last node of each computation of a mask from constants."""
    constant: dict[Node, bool] = {}
    masking: dict[Node, bool] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            constant[node] = True
        elif node.op == "call_function" and "rand" not in str(node.target):
            constant[node] = all(constant.get(each, False) for each in node.all_input_nodes)
            here = any(f"aten.{name}" in str(node.target) for name in _MASKING)
            masking[node] = here or any(masking.get(each, False) for each in node.all_input_nodes)
    return [
        node
        for node, is_mask in masking.items()
        if is_mask and constant[node] and not all(constant.get(user, False) for user in node.users)
    ]


def _fold(module: GraphModule, mask: Node) -> None:
    """Replace a computed mask by a buffer of its values."""
    value = graph_edit.value(module, mask)
    name = f"mobconv_mask_{mask.name}"
    module.register_buffer(name, value.detach().clone())
    with module.graph.inserting_before(mask):
        node = module.graph.get_attr(name)
    node.meta = dict(mask.meta)
    mask.replace_all_uses_with(node)


_ALWAYS = {
    "aten.alias.default": _leave_out,
    "aten.log_softmax.int": _stable_log_softmax,
    "aten.new_ones.default": _filled_with_ones,
    "aten.where.ScalarOther": _where_tensor,
}
