"""Trace a module with torch.export, fold its batch norms and computed weights, once for all backends."""

from __future__ import annotations

import inspect
import keyword
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from mobconv.errors import InputError
from mobconv.model import batch_norm, constant_weights, graph_edit, pooling, weight_ops
from mobconv.model.program import Program, WeightSite, output_names

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import GraphModule
    from torch.utils._pytree import TreeSpec


_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def export(
    module: torch.nn.Module, example: Mapping[str, NDArray[Any]], structure: TreeSpec | None = None
) -> ExportedProgram:
    """Trace a module with torch.export, in eval mode.

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
            return torch.export.export(module.eval(), tuple(args), kwargs, strict=False)
    except Exception as error:  # the tracer raises dozens of types
        why = _other_inputs(module, example, error) if structure is None else ""
        raise InputError(
            f"torch.export cannot trace this module with inputs {_shapes(example)}: {why or error}"
        ) from error


def _other_inputs(module: torch.nn.Module, example: Mapping[str, NDArray[Any]], error: Exception) -> str:
    """Say that a module takes several inputs, or whole numbers, where that is why it cannot be traced; else ''."""
    how = (
        "A program has its inputs' names and types in it: torch.export.save(torch.export.export(net, inputs), "
        "'net.pt2') writes one; from Python, `mobconv.export` takes the module and an example of its inputs"
    )
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ""
    needed = [each.name for each in parameters if each.kind in _BY_POSITION and each.default is inspect.Parameter.empty]
    if len(needed) > len(example):
        return f"its `forward` takes {len(needed)} inputs, {', '.join(needed)}. {how}"
    if "indices" in str(error) and "Long" in str(error):
        return f"it looks up rows by whole numbers, and the example has {_types(example)}. {how}"
    return ""


def _types(example: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(dict.fromkeys(str(value.dtype) for value in example.values()))


def trace(module: torch.nn.Module, example: Mapping[str, NDArray[Any]], structure: TreeSpec | None = None) -> Program:
    """Trace a module and fold its batch norms and computed weights. See `export`."""
    return from_exported(export(module, example, structure), example)


def unfolded(exported: ExportedProgram, inputs: int) -> GraphModule:
    """The graph of an ExportedProgram without guards on its inputs, which it takes flat; nothing folded."""
    import torch

    _without_keywords(exported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: GraphModule = exported.module()
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            module.graph.erase_node(node)
    if not _positional(exported.call_spec.in_spec, inputs):
        # inputs by keyword or nested: take them flat, in order
        module.graph.set_codegen(torch.fx.graph.CodeGen())
    return torch.fx.GraphModule(module, module.graph)


def from_exported(exported: ExportedProgram, example: Mapping[str, NDArray[Any]]) -> Program:
    """Make the program of an ExportedProgram, batch norms and computed weights folded."""
    import torch
    from torch.utils._pytree import tree_leaves

    module = unfolded(exported, len(example))
    constant_weights.fold(module)
    pooling.rewrite(module)
    batch_norm.fold(module)
    module.graph.eliminate_dead_code()
    # again: only the tensors still in use
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


def _sites(module: GraphModule) -> dict[str, WeightSite]:
    """List the quantizable parameters; one that two ops share is listed once."""
    sites: dict[str, WeightSite] = {}
    for node, name, axis in weight_ops.weighted(module):
        shape = tuple(graph_edit.attribute(module, name).shape)
        sites.setdefault(name, WeightSite(name, shape, axis, str(node.target)))
    return sites


def _without_keywords(exported: ExportedProgram) -> None:
    """Rename parts of a module that are called as Python's keywords are, `class` for one: torch.fx generates code
    from these names."""
    names: dict[str, str] = {}
    for tensors in (exported.state_dict, exported.constants):
        for name in list(tensors):
            parts = [part + "_" * keyword.iskeyword(part) for part in name.split(".")]
            if (new := ".".join(parts)) != name:
                names[name] = new
                tensors[new] = tensors.pop(name)
    for spec in exported.graph_signature.input_specs:
        if spec.target in names:
            spec.target = names[spec.target]
    for entry in exported.module_call_graph:
        entry.fqn = ".".join(part + "_" * keyword.iskeyword(part) for part in entry.fqn.split("."))
