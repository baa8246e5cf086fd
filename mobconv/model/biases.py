"""Biases of layers: their names, and values by which a converter's file shows where each one is.

A converter's file has no names of parameters. A bias is recognised there by its values, which takes values that no
other constant has. Biases of zero, of few different values, or equal to another parameter have none, so a program is
converted with other, distinct values in these, and every file made from it gets the true ones.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from mobconv.model import graph_edit, weight_ops
from mobconv.model.program import Floats, Program

if TYPE_CHECKING:
    from torch.fx import GraphModule

_DISTINCT = 4  # different values that make a bias unlike any constant that a converter adds
# The low bits of every value of `_marked`, which the constants that a converter adds hardly have.
_LOW, _MARK = np.uint32(0xFFF), np.uint32(0x5A5)
_LEAST_SIZE = 0.1  # of marked values, where a bias is zero


def bias_names(program: Program) -> tuple[str, ...]:
    """Names of the parameters that convolutions and linear layers with a quantizable weight add, in order of use.

    A parameter with two names is given by its first.
    """
    names = biases_of(program.module).values()
    return tuple(name for name in dict.fromkeys(names) if name not in program.sites)


def biases_of(module: GraphModule) -> dict[str, str]:
    """Name of an operation with a quantizable weight -> name of the parameter that it adds, where there is one."""
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    first = {value.data_ptr(): name for name, value in reversed(list(tensors.items()))}
    names = {}
    for node, _, _ in weight_ops.weighted(module):
        bias: Any = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
        if "embedding" not in str(node.target) and getattr(bias, "op", "") == "get_attr":
            value = graph_edit.attribute(module, str(bias.target))
            names[node.name] = first.get(value.data_ptr(), str(bias.target))
    return names


def recognisable(program: Program) -> dict[str, Floats]:
    """The float parameters, quantizable weights left out, that no other parameter or constant equals; by name."""
    others = {name: value for name, value in program.floats().items() if name not in program.sites}
    counts: dict[bytes, int] = {}
    for value in others.values():
        counts[value.tobytes()] = counts.get(value.tobytes(), 0) + 1
    return {name: value for name, value in others.items() if counts[value.tobytes()] == 1 and _is_unusual(value)}


def _is_unusual(value: Floats) -> bool:
    if value.size == 0 or not np.isfinite(value).all():
        return False
    return len(np.unique(value)) >= _DISTINCT or bool((value.view(np.uint32) & _LOW == _MARK).all())


def distinct(program: Program) -> tuple[Program, dict[str, Floats]]:
    """The program with other values in the biases that are not recognisable, and the true values of these.

    The same program where all are.
    """
    known, values = recognisable(program), program.floats()
    true = {name: values[name] for name in bias_names(program) if name not in known}
    if not true:
        return program, {}
    return program.with_values({name: _marked(name, value) for name, value in true.items()}), true


def _marked(name: str, value: Floats) -> Floats:
    """Random values of about the size of a bias, the same for the same name, of which no two are equal."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))
    size = np.float32(max(_LEAST_SIZE, float(np.abs(np.nan_to_num(value)).max(initial=0.0))))
    random = (rng.normal(size=value.shape) * size).astype(np.float32)
    return ((random.view(np.uint32) & ~_LOW) | _MARK).view(np.float32)
