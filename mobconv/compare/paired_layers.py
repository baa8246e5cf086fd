"""Layers of a file paired with those of the checkpoint: their inputs, their outputs, and the weights in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import GraphView
from mobconv.compare.folded_factors import folded_factors, without_factors
from mobconv.compare.program_view import ProgramView, WeightUse
from mobconv.compare.tensor_match import GraphWalker, TensorMatch
from mobconv.compare.weight_match import WeightMatch, WeightMatches
from mobconv.errors import BackendError

Floats = NDArray[np.float32]
Candidates = Mapping[int, list[tuple[TensorMatch, str]]]
"""Index of a use -> tensors of the file that may be its output; see GraphWalker.outputs."""

_NEAR = 1.05  # candidates whose error is up to this many times the least count as equal: the nearest is chosen


@dataclass(frozen=True)
class PairedLayer:
    """A layer of the checkpoint in the file.

    input, output  the file's tensors that are its input, and its output with bias; None where none corresponds
    weight         of the file in the site's shape, times the factors that the file applies later (batch norm that is
                   not folded), without those that come from its preprocessing (see folded_factors)
    bias           of the file, where it is read from there (see file_biases); None for the checkpoint's
    """

    match: WeightMatch
    input: TensorMatch | None
    output: TensorMatch | None
    weight: Floats
    bias: Floats | None = None

    @property
    def use(self) -> WeightUse:
        """The use of the checkpoint's weight."""
        return self.match.use


def pair_layers(
    graph_view: GraphView,
    program_view: ProgramView,
    matches: WeightMatches,
    inputs: Floats,
    first: Sequence[WeightMatch],
    biases: Mapping[str, Floats],
) -> tuple[tuple[PairedLayer, ...], dict[int, Floats]]:
    """Find input and output of every matched layer in the file.

    inputs: of the checkpoint, (n, C, H, W), on which candidates for an output are compared with the expected values;
    first: the layers that no other layer precedes; biases: of the file, by the parameter's name. Returns the layers,
    and by index of a use the preprocessing factors that are folded into the weights of first layers.
    """
    walker = GraphWalker(graph_view, program_view.batch)
    layer_inputs: dict[int, TensorMatch | None] = {}
    for pair in matches.pairs:
        nearest = walker.inputs(pair.op, pair.use, program_view.shapes[pair.use.source])
        layer_inputs[pair.use.index] = next(nearest, None)
    stops = {match.tensor for match in layer_inputs.values() if match}
    values = program_view.run(inputs, set(program_view.shapes))
    candidates = {
        pair.use.index: walker.outputs(pair.op, pair.use, program_view.shapes[pair.use.node], stops)
        for pair in matches.pairs
        if layer_inputs[pair.use.index]
    }
    later = _later_factors(graph_view, matches.pairs, candidates)
    folded = _folded_factors(first, program_view, later, candidates)
    for index, factors in folded.items():
        match = layer_inputs[index]
        layer_inputs[index] = match and replace(match, factors=tuple(map(float, factors)))
    feeds = {match.tensor: match.to_file(values[match.node]) for match in layer_inputs.values() if match}
    fetch = list(dict.fromkeys(match.tensor for choices in candidates.values() for match, _ in choices))
    results = graph_view.run(feeds, fetch) if fetch else {}
    layers = []
    for pair in matches.pairs:
        index = pair.use.index
        output, weight = _output(
            pair, candidates.get(index, []), later, folded.get(index), program_view, values, results, biases
        )
        layers.append(PairedLayer(pair, layer_inputs[index], output, weight, biases.get(pair.use.bias)))
    return tuple(layers), folded


def _output(
    pair: WeightMatch,
    candidates: Sequence[tuple[TensorMatch, str]],
    later: Mapping[str, Floats],
    folded: Floats | None,
    program_view: ProgramView,
    values: Mapping[str, NDArray[np.float32]],
    results: Mapping[str, NDArray[np.float32]],
    biases: Mapping[str, Floats],
) -> tuple[TensorMatch | None, Floats]:
    """The candidate that is nearest to the expected output, and the layer's weight as that candidate implies it.

    values: of the program by node; results: of the file by tensor, fed the program's inputs of layers.
    """
    errors: list[tuple[float, TensorMatch, Floats]] = []
    for match, scaled in candidates:
        weight = without_factors(_scaled(pair, later.get(scaled)), folded)
        try:
            expected = program_view.apply(pair.use, values[pair.use.source], weight, biases.get(pair.use.bias))
        except BackendError:
            expected = np.asarray(values[pair.use.node], np.float32)
        following = "" if match.activation else program_view.activation_after(pair.use)
        for activation in dict.fromkeys((match.activation, following or match.activation)):
            candidate = replace(match, activation=activation)
            result = candidate.to_program(results[match.tensor])
            errors.append((_distance(result, candidate.activated(expected), pair.use), candidate, weight))
    least = min((error for error, _, _ in errors), default=0.0)
    for error, candidate, weight in errors:
        if error <= _NEAR * least + 1e-6:
            return candidate, weight
    return None, without_factors(pair.weight, folded)


def _folded_factors(
    first: Sequence[WeightMatch], program_view: ProgramView, later: Mapping[str, Floats], candidates: Candidates
) -> dict[int, Floats]:
    """By index of a use, the factors that weights of first layers have from the file's preprocessing."""
    originals, folded = program_view.program.floats(), {}
    for pair in first:
        use = pair.use
        own_factors = [later[name] for _, name in candidates.get(use.index, []) if name in later]
        weight = _scaled(pair, own_factors[-1] if own_factors else None)
        factors = folded_factors(use, weight, originals[use.site.name], program_view.shapes[use.source][1:2])
        if factors is not None:
            folded[use.index] = factors
    return folded


def _distance(result: Floats, expected: Floats, use: WeightUse) -> float:
    """Median over channels of the relative error, so that one wrong channel does not count."""
    axis = channel_axis(use, expected.ndim)
    rows = [np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1).astype(np.float64) for v in (result, expected)]
    errors = np.sqrt(((rows[0] - rows[1]) ** 2).mean(axis=1))
    sizes = np.maximum(rows[1].std(axis=1), 1e-3 * rows[1].std() + 1e-12)
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.median(errors / sizes), nan=np.inf))


def channel_axis(use: WeightUse | None, rank: int) -> int:
    """Channel axis of an output: 1 of a convolution's, else the last. use: None for an operation without weights."""
    return 1 if rank > 2 and (use is None or use.family == "conv") else rank - 1


def _later_factors(graph_view: GraphView, pairs: Sequence[WeightMatch], candidates: Candidates) -> dict[str, Floats]:
    """Factors for each channel that the file applies after a layer, by the tensor that has them applied.

    Measured by running the file on 0 and on 1 behind the layer.
    """
    wanted: dict[str, tuple[WeightMatch, TensorMatch]] = {}
    for pair in pairs:
        for match, scaled in candidates.get(pair.use.index, []):
            if scaled == match.tensor and not match.activation:
                wanted[scaled] = pair, match
    if not wanted:
        return {}
    shapes = {pair.op.outputs[0]: graph_view.shapes[pair.op.outputs[0]] for pair, _ in wanted.values()}
    results = []
    for value in (0.0, 1.0):
        feeds = {
            tensor: np.full((shape[0] if shape[0] > 0 else 1, *shape[1:]), value, np.float32)
            for tensor, shape in shapes.items()
        }
        results.append(graph_view.run(feeds, list(wanted)))
    factors = {}
    for tensor, (pair, match) in wanted.items():
        difference = match.to_program(results[1][tensor]) - match.to_program(results[0][tensor])
        moved = np.moveaxis(difference, channel_axis(pair.use, difference.ndim), 0)
        factors[tensor] = moved.reshape(len(moved), -1)[:, 0]
    return factors


def _scaled(pair: WeightMatch, factors: Floats | None) -> Floats:
    """The file's weight, each output channel times its factor, as `trace` folds batch norm."""
    if factors is None:
        return pair.weight
    site, weight = pair.use.site, pair.weight
    groups = max(len(factors) // site.shape[site.axis], 1)
    shape = [-1 if axis == site.axis else 1 for axis in range(weight.ndim)]
    parts = zip(np.array_split(weight, groups), np.array_split(factors, groups), strict=True)
    return np.concatenate([part * factor.reshape(shape) for part, factor in parts]).astype(np.float32)
