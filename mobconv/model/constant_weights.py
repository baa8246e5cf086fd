"""Weights that a network computes from parameters, and weights of products: made into weights of ordinary layers.

A standardised convolution computes its weight in `forward`; `x @ parameter` and `einsum` are linear layers in all but
name. Where a weight depends on constants alone it is computed once, here, and quantized like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mobconv.model import graph_edit
from mobconv.model.weight_ops import WEIGHT_OPS, weight_argument, weighted

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule, Node

_PRODUCTS = ("aten.matmul.default", "aten.mm.default")
_ADDMM = "aten.addmm.default"
_EINSUM = "aten.einsum.default"
_RANDOM = ("rand", "bernoulli", "dropout", "multinomial", "normal")


def fold(module: GraphModule) -> None:
    """Replace computed weights by parameters, and products with a parameter by linear layers."""
    graph = module.graph
    for node in list(graph.nodes):
        read = weight_argument(node)
        if read is not None and getattr(read[0], "op", "") == "call_function":
            _fold_computed(module, node, WEIGHT_OPS[str(node.target)][0])
        elif graph_edit.is_call(node, *_PRODUCTS):
            _fold_product(module, node, node.args[0], node.args[1], None)
        elif graph_edit.is_call(node, _ADDMM) and not node.kwargs:
            _fold_product(module, node, node.args[1], node.args[2], node.args[0])
        elif graph_edit.is_call(node, _EINSUM):
            _fold_einsum(module, node)
    graph.eliminate_dead_code()
    _fold_constants_of_weights(module)
    graph.eliminate_dead_code()


def unquantized(module: GraphModule) -> dict[str, str]:
    """Parameters of two or more dimensions that no weight op reads, by name, and what reads them instead."""
    sites = {name for _, name, _ in weighted(module)}
    users: dict[str, str] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr" and node.users:
            users.setdefault(str(node.target), graph_edit.place(next(iter(node.users))))
    return {
        name: users[name]
        for name, value in module.named_parameters()
        if name not in sites and name in users and value.dim() > 1 and value.is_floating_point()
    }


def _constant(node: Any, seen: set[Node]) -> bool:
    """Whether a node depends on parameters and buffers alone; `seen` collects the nodes that it is computed from."""
    if getattr(node, "op", "") == "get_attr":
        seen.add(node)
        return True
    if getattr(node, "op", "") != "call_function" or any(word in str(node.target) for word in _RANDOM):
        return False
    seen.add(node)
    return bool(node.all_input_nodes) and all(_constant(each, seen) for each in node.all_input_nodes)


def _only_here(module: GraphModule, parts: set[Node], end: Node) -> bool:
    """Whether nothing else reads the parameters that a constant is computed from, or a step on the way to it."""
    readers = graph_edit.readers(module)
    for part in parts - {end}:
        if any(user not in parts for user in part.users):
            return False
        if part.op == "get_attr":
            value = graph_edit.attribute(module, str(part.target))
            if readers[value.untyped_storage().data_ptr()] > len(part.users):
                return False
    return True


def _store(module: GraphModule, parts: set[Node], value: torch.Tensor, mine: bool) -> str:
    """Keep a computed weight under the name of the parameter that it comes from; `mine`: nothing else reads that."""
    sources = [str(part.target) for part in parts if part.op == "get_attr"]
    largest = max(sources, key=lambda name: (graph_edit.attribute(module, name).numel(), name))
    names = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    path = largest
    while not mine and path in names:
        path += "_computed"
    graph_edit.set_parameter(module, path, value.detach().contiguous().clone())
    return path


def _fold_computed(module: GraphModule, node: Node, index: int) -> None:
    parts: set[Node] = set()
    weight: Any = node.args[index]
    if not _constant(weight, parts):
        return
    others = len(weight.users) > 1
    mine = not others and _only_here(module, parts, weight)
    path = _store(module, parts, graph_edit.value(module, weight), mine)
    with module.graph.inserting_before(node):
        parameter = module.graph.get_attr(path)
    parameter.meta = dict(weight.meta)
    weight.replace_all_uses_with(parameter)


def _fold_constants_of_weights(module: GraphModule) -> None:
    """Compute what else depends on the weight of a layer alone, a mean over it for one.

    A converter would compute it from whatever stands in the weight's place while it converts.
    """
    weights = {graph_edit.attribute(module, name).untyped_storage().data_ptr() for _, name, _ in weighted(module)}
    for node in list(module.graph.nodes):
        parts: set[Node] = set()
        if (
            node.op != "call_function"
            or not _constant(node, parts)
            or all(_constant(each, set()) for each in node.users)
        ):
            continue
        leaves = [graph_edit.attribute(module, str(part.target)) for part in parts if part.op == "get_attr"]
        value = graph_edit.value(module, node)
        if not hasattr(value, "untyped_storage") or not any(e.untyped_storage().data_ptr() in weights for e in leaves):
            continue
        path = _store(module, parts, value, mine=False)
        with module.graph.inserting_before(node):
            constant = module.graph.get_attr(path)
        constant.meta = dict(node.meta)
        node.replace_all_uses_with(constant)
        _erase(module, parts)


def _erase(module: GraphModule, parts: set[Node]) -> None:
    """Remove those of some nodes that nothing reads any more, in-place operations too, which PyTorch would leave."""
    for part in reversed(list(module.graph.nodes)):
        changed = [each for each in part.all_input_nodes if each.op == "call_function"]
        if part in parts and not part.users and all(parts.issuperset(each.users) for each in changed):
            module.graph.erase_node(part)


def _fold_product(module: GraphModule, node: Node, left: Any, right: Any, bias: Any) -> None:
    """Replace x @ w, of a constant matrix w, by a linear layer."""
    parts: set[Node] = set()
    if not _constant(right, parts) or (bias is not None and getattr(bias, "op", "") != "get_attr"):
        return
    if _constant(left, set()):
        return
    value = graph_edit.value(module, right)
    if value.dim() != 2 or not value.is_floating_point():
        return
    if bias is not None and graph_edit.attribute(module, str(bias.target)).dim() != 1:
        return
    _replace(node, left, _as_linear(module, node, right, parts, value.t()), bias)


def _as_linear(module: GraphModule, node: Node, right: Node, parts: set[Node], value: torch.Tensor) -> Node:
    """A node for the weight (out, in): the parameter itself where it has that layout."""
    import torch

    mine = len(right.users) == 1 and _only_here(module, parts, right)
    leaves = [part for part in parts if part.op == "get_attr"]
    if len(leaves) == 1:
        parameter = graph_edit.attribute(module, str(leaves[0].target))
        if parameter.shape == value.shape and torch.equal(parameter, value):
            return leaves[0]  # as in a head that shares the weight of an embedding
    path = _store(module, parts, value, mine)
    with module.graph.inserting_before(node):
        return module.graph.get_attr(path)


def _replace(node: Node, x: Any, weight: Node, bias: Any = None) -> Node:
    import torch

    graph = node.graph
    with graph.inserting_before(node):
        linear = graph.call_function(torch.ops.aten.linear.default, (x, weight) if bias is None else (x, weight, bias))
    linear.meta = dict(node.meta)
    node.replace_all_uses_with(linear)
    graph.erase_node(node)
    return linear


def _fold_einsum(module: GraphModule, node: Node) -> None:
    """Replace an einsum of an input and a parameter by a linear layer, where no index is in both and in the result."""
    import torch

    equation, operands = str(node.args[0]).replace(" ", ""), node.args[1]
    terms, arrow, result = equation.partition("->")
    names = terms.split(",")
    if not arrow or "." in equation or len(names) != 2 or any(len(set(each)) < len(each) for each in (*names, result)):
        return
    sides = list(zip(names, operands, strict=True))  # type: ignore[arg-type]
    constant = [_constant(operand, set()) for _, operand in sides]
    if constant == [True, False]:
        sides.reverse()
    elif constant != [False, True]:
        return
    (x_name, x), (w_name, w) = sides
    summed = [index for index in w_name if index in x_name and index not in result]
    rest = [index for index in w_name if index not in x_name]
    kept = [index for index in x_name if index not in w_name]
    # an index of the weight that no other term has would have to be summed first
    if len(summed) + len(rest) != len(w_name) or not summed or set(rest) - set(result) or set(kept) - set(result):
        return
    parts: set[Node] = set()
    _constant(w, parts)
    value = graph_edit.value(module, w)
    size = dict(zip(w_name, value.shape, strict=True))
    matrix = value.permute([w_name.index(index) for index in (*rest, *summed)]).reshape(
        int(torch.tensor([size[index] for index in rest]).prod()) if rest else 1, -1
    )
    weight = _as_linear(module, node, w, parts, matrix)
    aten, graph = torch.ops.aten, module.graph
    val = x.meta["val"]
    length = dict(zip(x_name, val.shape, strict=True)) | size
    with graph.inserting_before(node):
        flat = graph.call_function(aten.permute.default, (x, [x_name.index(index) for index in (*kept, *summed)]))
        # -1 is the batch: other batches run too
        lengths = [-1 if place == 0 and kept else int(length[index]) for place, index in enumerate(kept)]
        flat = graph.call_function(aten.reshape.default, (flat, [*lengths, int(matrix.shape[1])]))
        linear = graph.call_function(aten.linear.default, (flat, weight))
        linear.meta = dict(node.meta)
        out = graph.call_function(aten.reshape.default, (linear, [*lengths, *(int(length[index]) for index in rest)]))
        order = [*kept, *rest]
        out = graph.call_function(aten.permute.default, (out, [order.index(index) for index in result]))
    node.replace_all_uses_with(out)
    graph.erase_node(node)
