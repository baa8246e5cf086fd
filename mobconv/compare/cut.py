"""Where a file is cut: in front of its first layers, behind its own preprocessing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import GraphView
from mobconv.backends.graph_view.slicing import needed
from mobconv.compare.program_view import ProgramView
from mobconv.compare.tensor_match import GraphWalker, TensorMatch
from mobconv.compare.weight_match import WeightMatch, WeightMatches
from mobconv.errors import BackendError

Floats = NDArray[np.float32]
_OTHER_AXES = 0.1  # error over standard deviation; rounding to bytes is a hundredth, other axes all of it


def first_layers(graph_view: GraphView, matches: WeightMatches) -> list[WeightMatch]:
    """The layers that no other layer precedes."""
    pairs = {pair.op: pair for pair in matches.pairs}
    behind: set[str] = set()
    first = []
    for op in graph_view.ops:
        if any(name in behind for name in op.inputs):
            behind.update(op.outputs)
        elif op in pairs:
            first.append(pairs[op])
            behind.update(op.outputs)
    return first


def cut_in_front(
    graph_view: GraphView,
    program_view: ProgramView,
    first: Sequence[WeightMatch],
    output: str,
    folded: Mapping[int, Floats],
    inputs: Floats,
) -> tuple[TensorMatch, ...]:
    """Tensors in front of the first layers that the output follows from, as near to the file's input as possible.

    output: the file's tensor that is the program's output; folded: by index of a use, the factors folded into a first
    layer's weights; inputs: of the checkpoint, (n, C, H, W), to check that tensors correspond. Raises BackendError
    where no such tensors correspond to the program's.
    """
    walker = GraphWalker(graph_view, program_view.batch)
    choices = []
    for pair in first:
        factors = tuple(map(float, folded.get(pair.use.index, ())))
        matches = walker.inputs(pair.op, pair.use, program_view.shapes[pair.use.source])
        choices.append(
            _corresponding(graph_view, program_view, [replace(match, factors=factors) for match in matches], inputs)
        )
    for pick in (-1, 0):
        cut = tuple({matches[pick].tensor: matches[pick] for matches in choices if matches}.values())
        if cut and computable(graph_view, {match.tensor for match in cut}, output):
            return cut
    raise BackendError(f"{graph_view.path}: no tensor in front of its first layer corresponds to the checkpoint's")


def computable(graph_view: GraphView, fed: Collection[str], tensor: str) -> bool:
    """Whether a tensor of the file follows from fed tensors and constants alone."""
    edges = [(op.inputs, op.outputs) for op in graph_view.ops]
    computed = {name for _, outputs in edges for name in outputs} | set(graph_view.inputs)
    constants = {name for inputs, _ in edges for name in inputs} - computed
    try:
        needed(edges, fed, [tensor], constants)
    except BackendError:
        return False
    return True


def _corresponding(
    graph_view: GraphView, program_view: ProgramView, matches: list[TensorMatch], inputs: Floats
) -> list[TensorMatch]:
    """The nearest match, and those in front of it from which its values follow.

    A file may turn the axes between two tensors, and shapes do not distinguish height from width.
    """
    if len(matches) < 2:
        return matches
    nearest, corresponding = matches[0], matches[:1]
    values = np.asarray(program_view.run(inputs, {nearest.node})[nearest.node])
    for match in matches[1:]:
        results = graph_view.run({match.tensor: match.to_file(values)}, [nearest.tensor])
        error = nearest.to_program(results[nearest.tensor]) - values
        if float(np.sqrt((error**2).mean())) > _OTHER_AXES * float(values.std()):
            break
        corresponding.append(match)
    return corresponding
