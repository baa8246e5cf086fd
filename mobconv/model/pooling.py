"""Average pooling with a divisor of its own, which converters ignore or refuse, as pooling and a factor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import GraphModule

_DIVISOR = 6  # position of divisor_override among the arguments


def rewrite(module: GraphModule) -> None:
    """Replace avg_pool2d with divisor_override by one that divides by the window's size, times size / divisor.

    Windows must be whole: one that `ceil_mode` cuts has another size.
    """
    import torch

    aten, graph = torch.ops.aten, module.graph
    for node in list(graph.nodes):
        arguments: tuple[Any, ...] = node.args
        if str(node.target) != "aten.avg_pool2d.default" or len(arguments) <= _DIVISOR or arguments[4]:
            continue
        kernel, divisor = arguments[1], arguments[_DIVISOR]
        if divisor is None:
            continue
        with graph.inserting_after(node):
            scaled = graph.call_function(aten.mul.Tensor, (node, kernel[0] * kernel[-1] / divisor))
        scaled.meta = dict(node.meta)
        node.replace_all_uses_with(scaled, delete_user_cb=lambda user, scaled=scaled: user is not scaled)
        node.args = (*arguments[:4], False, True)
