"""Parameters that the converter must not compute with: inputs while it runs, constants of the file afterwards.

litert-torch multiplies a factor into the weights that follow it, adds a bias through the next layer, and the like. It
knows no value of an input, so what reads one stays an operation of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch.fx import GraphModule


def lift(module: GraphModule, names: Collection[str]) -> list[NDArray[np.float32]]:
    """Make inputs of parameters and buffers, behind those that the module has, and return their values in that order.

    Outputs become a flat tuple and inputs positional arguments, as they are in the graph.
    """
    import torch

    flatten(module)
    tensors = dict([*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)])
    first = {tensor.data_ptr(): name for name, tensor in reversed(list(tensors.items()))}  # of two names of a tensor
    graph, values = module.graph, list[NDArray[np.float32]]()
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    inputs: dict[str, Any] = {}
    for node in list(graph.nodes):
        if node.op != "get_attr" or str(node.target) not in tensors:
            continue
        tensor = tensors[str(node.target)]
        name = first[tensor.data_ptr()]
        if name not in names or tensor.dtype != torch.float32:
            continue
        if name not in inputs:
            with graph.inserting_after(last):
                last = inputs[name] = graph.placeholder(f"lifted_{len(inputs)}")
            values.append(tensor.detach().numpy())
        node.replace_all_uses_with(inputs[name])
        graph.erase_node(node)
    graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
    return values


def flatten(module: GraphModule) -> None:
    """Let the module return a flat tuple of its outputs, where it returns a dict or nests them."""
    import torch

    structure = getattr(getattr(module.graph._codegen, "pytree_info", None), "out_spec", None)
    output = next(node for node in reversed(module.graph.nodes) if node.op == "output")
    leaves = torch.utils._pytree.tree_leaves(output.args[0])
    nodes = tuple(leaf for leaf in leaves if isinstance(leaf, torch.fx.Node))
    if structure is None:
        structure = torch.utils._pytree.tree_structure(output.args[0])
    flat = structure.type in (tuple, list) and all(child.is_leaf() for child in structure.children())
    if len(nodes) == len(leaves) and (flat or structure.is_leaf()):
        return
    output.args = (nodes,)
    module.graph.set_codegen(torch.fx.graph.CodeGen())
    module.recompile()
