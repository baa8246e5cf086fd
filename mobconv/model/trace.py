"""Trace a module with torch.export and fold its batch norms, once for all backends.

Folding happens here alone: a weight that a converter folds later is another one than was quantized. (The dynamo ONNX
exporter, for one, folds batch norm and keeps the old names.)
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from mobconv.errors import InputError
from mobconv.model.program import Program, WeightSite, output_names

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import GraphModule, Node
    from torch.utils._pytree import TreeSpec

# The ops whose weights are quantized: position of the weight among the arguments, and the axis of its output
# channels. The weight of a transposed convolution is (in, out / groups, ...); an embedding's channels are its rows,
# one output vector each, as in TFLite's EMBEDDING_LOOKUP.
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
_BATCH_NORM = ("aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default")


def trace(module: torch.nn.Module, example: Mapping[str, NDArray[Any]], structure: TreeSpec | None = None) -> Program:
    """Trace an eval-mode module with torch.export and fold its batch norms.

    example: named inputs of any dtype, of the shapes that the artifacts are to declare. structure: how they nest in
    (args, kwargs); None: they are the arguments of `forward`, in order.
    Raises InputError, with the tracer's own words, when the module cannot be traced.
    """
    import torch
    from torch.utils._pytree import tree_unflatten

    tensors = [torch.from_numpy(value) for value in example.values()]
    args, kwargs = (tensors, {}) if structure is None else tree_unflatten(tensors, structure)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module.eval(), tuple(args), kwargs, strict=False)
    except Exception as error:  # the tracer raises dozens of types
        raise InputError(f"torch.export cannot trace this module with inputs {_shapes(example)}: {error}") from error
    return from_exported(exported, example)


def from_exported(exported: ExportedProgram, example: Mapping[str, NDArray[Any]]) -> Program:
    """Make the program of an ExportedProgram, batch norms folded."""
    import torch
    from torch.utils._pytree import tree_leaves

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: GraphModule = exported.module()
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)
    _fold_batch_norms(module)
    module.graph.eliminate_dead_code()
    if not _positional(exported.call_spec.in_spec, len(example)):
        # inputs by keyword or nested: take them flat, in the order of `example`
        module.graph.set_codegen(torch.fx.graph.CodeGen())
    # a plain GraphModule: no input guards (other batches run), and only the tensors still in use
    module = torch.fx.GraphModule(module, module.graph)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    produced = tree_leaves(next(node for node in module.graph.nodes if node.op == "output").args[0])
    names = output_names(exported.call_spec.out_spec, example)
    outputs = tuple(name for name, leaf in zip(names, produced, strict=True) if isinstance(leaf, torch.fx.Node))
    return Program(module, dict(example), outputs, _sites(module))


def _positional(structure: TreeSpec | None, count: int) -> bool:
    """Whether each of `count` inputs is an argument of its own, none of them by keyword."""
    from torch.utils._pytree import tree_structure

    return structure is None or structure == tree_structure(((0,) * count, {}))


def _shapes(example: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in example.items())


def _is_call(node: Node, *targets: str) -> bool:
    return node.op == "call_function" and str(node.target) in targets


def _weight_axis(node: Node) -> tuple[Node, int] | None:
    """The weight's node and channel axis, or None for an op without a quantized weight."""
    if node.op != "call_function" or str(node.target) not in WEIGHT_OPS:
        return None
    index, axis = WEIGHT_OPS[str(node.target)]
    if str(node.target) == "aten.convolution.default" and node.args[6]:
        axis = 1
    weight = node.args[index]
    return (weight, axis) if getattr(weight, "op", "") == "get_attr" else None  # type: ignore[return-value]


def weighted(module: GraphModule) -> Iterator[tuple[Node, str, int]]:
    """Yield the operations that read a quantizable weight, in order: node, name of the parameter, channel axis.

    A parameter with two names is given by its first.
    """
    tensors: dict[str, torch.Tensor] = dict([*module.named_parameters(), *module.named_buffers()])
    by_storage = {value.data_ptr(): name for name, value in reversed(list(tensors.items()))}
    for node in module.graph.nodes:
        weight = _weight_axis(node)
        if weight is None:
            continue
        path, axis = str(weight[0].target), weight[1]
        value = _attribute(module, path)
        if value.is_floating_point():
            yield node, by_storage.get(value.data_ptr(), path), axis


def _sites(module: GraphModule) -> dict[str, WeightSite]:
    """List the quantizable parameters; one that two ops share is listed once."""
    sites: dict[str, WeightSite] = {}
    for node, name, axis in weighted(module):
        shape = tuple(_attribute(module, name).shape)
        sites.setdefault(name, WeightSite(name, shape, axis, str(node.target)))
    return sites


def _attribute(module: GraphModule, path: str) -> torch.Tensor:
    return operator.attrgetter(path)(module)  # type: ignore[no-any-return]


def _fold_batch_norms(module: GraphModule) -> None:
    """Replace conv -> batch norm by conv, where nothing else reads the conv's output and weight."""
    import torch

    graph = module.graph
    weight_users: dict[str, int] = {}
    for node in graph.nodes:
        if read := _weight_axis(node):
            path = str(read[0].target)
            weight_users[path] = weight_users.get(path, 0) + 1
    for norm in list(graph.nodes):
        if not _is_call(norm, *_BATCH_NORM):
            continue
        training = norm.args[5] if str(norm.target) == _BATCH_NORM[0] else False
        source = norm.args[0]
        read = _weight_axis(source)
        if training or read is None or "embedding" in str(source.target) or len(source.users) > 1:
            continue
        path, axis = str(read[0].target), read[1]
        if weight_users[path] > 1:
            continue
        eps = norm.args[7] if str(norm.target) == _BATCH_NORM[0] else norm.args[6]
        weight = _attribute(module, path)
        mean = _attribute(module, str(norm.args[3].target)).double()
        variance = _attribute(module, str(norm.args[4].target)).double()
        gamma, beta = (
            torch.full_like(mean, default) if affine is None else _attribute(module, str(affine.target)).double()
            for affine, default in zip(norm.args[1:3], (1.0, 0.0), strict=True)
        )
        factor = (variance + eps).rsqrt() * gamma
        old = source.args[2] if len(source.args) > 2 else source.kwargs.get("bias")
        bias = torch.zeros_like(mean) if old is None else _attribute(module, str(old.target)).double()
        folded = (bias - mean) * factor + beta
        _set_parameter(module, path, _scaled(weight, factor, axis))
        bias_path = _free_name(module, path.rpartition(".")[0])
        _set_parameter(module, bias_path, folded.to(weight.dtype))
        with graph.inserting_before(source):
            bias_node = graph.get_attr(bias_path)
        arguments = list(source.args) + [None] * (3 - len(source.args))
        arguments[2] = bias_node
        source.args = tuple(arguments)
        source.kwargs = {key: value for key, value in source.kwargs.items() if key != "bias"}
        _replace(norm, source)


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


def _set_parameter(module: GraphModule, path: str, value: torch.Tensor) -> None:
    import torch

    owner, _, leaf = path.rpartition(".")
    setattr(module.get_submodule(owner), leaf, torch.nn.Parameter(value, requires_grad=False))


def _free_name(module: GraphModule, owner: str) -> str:
    """Find a free name beside the weight for a folded bias (an old bias may be shared, and stays)."""
    taken = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    stem = f"{owner}.bias" if owner else "bias"
    return next(name for i in range(len(taken) + 1) if (name := stem + "_folded" * i) not in taken)
