"""Biases read from a file of ours whose biases are not the checkpoint's, since calibration corrected them.

Another file's biases are not read: where they differ from the checkpoint's, that is a fault of the conversion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import AFTER, SCALE, GraphView, Op
from mobconv.compare.program_view import ProgramView
from mobconv.compare.weight_match import WeightMatch

Floats = NDArray[np.float32]


def file_biases(
    graph_view: GraphView, program_view: ProgramView, pairs: Sequence[WeightMatch]
) -> tuple[dict[str, Floats], tuple[str, ...]]:
    """Biases of matched layers by the parameter's name, in its shape, and the names of those that cannot be read."""
    readers: dict[str, list[Op]] = {}
    for op in graph_view.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    tensors = {pair.use.bias: _added(pair.op, readers) for pair in reversed(pairs) if pair.use.bias}
    constants = graph_view.run({}, sorted({name for name in tensors.values() if name})) if any(tensors.values()) else {}
    shapes = {name: value.shape for name, value in program_view.program.floats().items()}
    biases = {
        name: constants[tensor].reshape(shapes[name])
        for name, tensor in tensors.items()
        if tensor and constants[tensor].size == int(np.prod(shapes[name]))
    }
    return biases, tuple(name for name in tensors if name not in biases)


def _added(op: Op, readers: Mapping[str, Sequence[Op]]) -> str:
    """The constant that a layer adds, or the first addition behind it; '' for none."""
    while op.bias is None:
        following = readers.get(op.outputs[0], [])
        if op.activation or len(following) != 1:
            return ""
        op = following[0]
        if op.role not in AFTER or op.role == SCALE:
            return ""
    return op.bias
