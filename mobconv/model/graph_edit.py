"""Small steps that edit a traced graph: its tensors by path, who reads them, and where an operation came from."""

from __future__ import annotations

import operator
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule, Node


def is_call(node: Node, *targets: str) -> bool:
    """Whether a node calls one of these operators, named as in aten.conv2d.default."""
    return node.op == "call_function" and str(node.target) in targets


def attribute(module: GraphModule, path: str) -> torch.Tensor:
    """The tensor of a dotted path."""
    return operator.attrgetter(path)(module)  # type: ignore[no-any-return]


def set_parameter(module: GraphModule, path: str, value: torch.Tensor) -> None:
    """Put a parameter, not to be trained, at a dotted path whose owner exists."""
    import torch

    owner, _, leaf = path.rpartition(".")
    part = module.get_submodule(owner)
    part._buffers.pop(leaf, None)
    setattr(part, leaf, torch.nn.Parameter(value, requires_grad=False))


def value(module: GraphModule, node: Node, known: dict[Node, Any] | None = None) -> Any:
    """Compute a node that depends on constants alone. known: values of nodes, filled as they are needed."""
    import torch
    from torch.fx.node import map_arg

    known = {} if known is None else known
    if node not in known:
        if node.op == "get_attr":
            known[node] = attribute(module, str(node.target))
        else:
            args = map_arg(node.args, lambda each: value(module, each, known))
            kwargs = map_arg(node.kwargs, lambda each: value(module, each, known))
            with torch.no_grad():
                known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
    return known[node]


def readers(module: GraphModule) -> Counter[int]:
    """Count the nodes that read each tensor of a module, by the address of its memory, whatever its names."""
    count: Counter[int] = Counter()
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = attribute(module, str(node.target))
            if hasattr(value, "untyped_storage"):
                count[value.untyped_storage().data_ptr()] += len(node.users)
    return count


def place(node: Node) -> str:
    """Say what an operation is and where it stands in the user's module: `aten.dropout in head.drop (Dropout)`."""
    name = str(node.target).removesuffix(".default").removesuffix(".Tensor")
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = next(((p, k) for p, k in reversed(stack) if p), ("", ""))
    if not path:
        line = str(node.meta.get("stack_trace") or "").strip().rpartition("\n")[2].strip()
        return f"{name} of `{line}`" if line else name
    path = path.removeprefix("L['self'].").replace("slice(None, None, None)", ":")
    return f"{name} in {path} ({str(getattr(kind, '__name__', kind)).rpartition('.')[2]})"
