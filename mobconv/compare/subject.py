"""A checkpoint and a file made from it, side by side: layers paired, tensors that correspond, weights decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mobconv import backends
from mobconv.backends.graph_view import Anatomy
from mobconv.compare.cuts import Cut, Walker
from mobconv.compare.folded import folded, unfolded
from mobconv.compare.match import Match, Matches, match
from mobconv.compare.traced import Reference, Use
from mobconv.errors import BackendError, InputError
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.trace import Program
from mobconv.pipeline.reference import faster

Floats = NDArray[np.float32]
_NEAR = 1.05  # a candidate so much worse than the best is as good: the nearest to the operation is taken


@dataclass(frozen=True)
class Layer:
    """A layer of the checkpoint in the file.

    before  the file's tensor that is its input, after: its output with bias, None: none was found
    weight  of the file in the site's shape, times the factors that the file applies later (unfolded batch norm),
            without those that it has from its preprocessing (`folded`)
    """

    match: Match
    before: Cut | None
    after: Cut | None
    weight: Floats

    @property
    def use(self) -> Use:
        return self.match.use


@dataclass(frozen=True)
class Subject:
    """What `waterfall` and `layers` work on.

    frontier  where the file is cut to be fed the reference's tensors: in front of its first layers
    weights   the program with the weights decoded from the file
    output    the file's tensor that is the program's output
    """

    checkpoint: Checkpoint
    path: Path
    anatomy: Anatomy
    reference: Reference
    matches: Matches
    layers: tuple[Layer, ...]
    frontier: tuple[Cut, ...]
    weights: Program
    output: str

    def close(self) -> None:
        """Let go of the file."""
        self.anatomy.close()


def prepare(
    checkpoint: Checkpoint,
    path: Path,
    inputs: Floats,
    feed: NDArray[Any] | None = None,
    threads: int = 0,
    program: Program | None = None,
) -> Subject:
    """Open a file beside its checkpoint.

    inputs: some of the checkpoint's inputs (n, C, H, W), on which tensors that may correspond are told apart; feed:
    one sample at the file's own input, where its shape is open; program: the checkpoint's, where it is traced already.
    Raises InputError for a damaged file or one of
    another network, BackendError where a backend cannot do it.
    """
    backend = backends.for_path(path)
    opened = getattr(backend, "anatomy", None)
    if opened is None:
        raise BackendError(f"the backend {backend.name} cannot cut files, which a comparison needs")
    anatomy = cast(Anatomy, opened(path, threads))
    try:
        return _prepared(checkpoint, program or checkpoint.trace(), path, inputs, feed, anatomy)
    except BaseException:
        anatomy.close()
        raise


def _prepared(
    checkpoint: Checkpoint, program: Program, path: Path, inputs: Floats, feed: NDArray[Any] | None, anatomy: Anatomy
) -> Subject:
    if len(anatomy.inputs) != 1:
        raise InputError(f"{path} has {len(anatomy.inputs)} inputs; a comparison needs a classifier with one")
    reference = Reference(program)
    anatomy.settle({anatomy.inputs[0]: inputs[:1] if feed is None else feed})
    ops = [op for op in anatomy.ops if op.weight]
    held = anatomy.run({}, list(dict.fromkeys(cast(str, op.weight) for op in ops))) if ops else {}
    matches = match(ops, held, reference.uses, reference.program.floats(), path)
    output = _output(anatomy, reference)
    first = _first(anatomy, matches)
    layers, factors = _layers(anatomy, reference, matches, inputs, first)
    values: dict[str, Floats] = {}
    for layer in layers:
        values.setdefault(layer.use.site.name, np.array(layer.weight))
    return Subject(
        checkpoint,
        path,
        anatomy,
        reference,
        matches,
        layers,
        _frontier(anatomy, reference, first, output, factors, inputs),
        _decoded(reference, values, inputs),
        output,
    )


def _decoded(reference: Reference, values: dict[str, Floats], inputs: Floats) -> Program:
    """The program with the file's weights; faster where the network allows that (it may use `view`)."""
    found = faster(reference.program.with_values(values))
    try:
        found.run({next(iter(found.example)): np.ascontiguousarray(inputs[: reference.batch])})
    except RuntimeError:
        return reference.program.with_values(values)
    return found


def _output(anatomy: Anatomy, reference: Reference) -> str:
    """The output that has a value for each class. Raises InputError where there is none."""
    classes = math.prod(reference.shapes[reference.output]) // reference.batch
    for name in anatomy.outputs:
        shape = anatomy.shapes.get(name, ())
        count = math.prod(shape[1:]) if anatomy.batch <= 0 else math.prod(shape) // anatomy.batch
        if shape and count == classes:
            return name
    shapes = ", ".join(str(list(anatomy.shapes.get(name, ()))) for name in anatomy.outputs)
    raise InputError(
        f"{anatomy.path} gives {shapes}, and the checkpoint {classes} outputs: it is another network, or has another "
        "number of classes. Give the checkpoint that it was made from"
    )


def _layers(
    anatomy: Anatomy, reference: Reference, matches: Matches, inputs: Floats, first: Sequence[Match]
) -> tuple[tuple[Layer, ...], dict[int, Floats]]:
    """The layers, and by use the factors that are folded into weights of the first."""
    walker = Walker(anatomy, reference.batch)
    befores: dict[int, Cut | None] = {}
    for pair in matches.pairs:
        befores[pair.use.index] = next(walker.before(pair.op, pair.use, reference.shapes[pair.use.source]), None)
    stops = {cut.tensor for cut in befores.values() if cut}
    values = reference.run(inputs, set(reference.shapes))
    choices = {
        pair.use.index: walker.after(pair.op, pair.use, reference.shapes[pair.use.node], stops)
        for pair in matches.pairs
        if befores[pair.use.index]
    }
    factors = _factors(anatomy, matches.pairs, choices)
    inside = _inside(first, reference, factors, choices)
    for index, found in inside.items():
        cut = befores[index]
        befores[index] = cut and replace(cut, factors=tuple(map(float, found)))
    feeds = {cut.tensor: cut.to_file(values[cut.node]) for cut in befores.values() if cut}
    fetch = list(dict.fromkeys(cut.tensor for found in choices.values() for cut, _ in found))
    results = anatomy.run(feeds, fetch) if fetch else {}
    layers = []
    for pair in matches.pairs:
        own = inside.get(pair.use.index)
        best: list[tuple[float, Cut, Floats]] = []
        for cut, scaled in choices.get(pair.use.index, []):
            weight = unfolded(_scaled(pair, factors.get(scaled)), own)
            source = values[pair.use.source]
            try:
                expected = reference.apply(pair.use, source, weight)
            except BackendError:
                expected = np.asarray(values[pair.use.node], np.float32)
            following = "" if cut.activation else reference.following(pair.use)
            for activation in dict.fromkeys((cut.activation, following or cut.activation)):
                tried = replace(cut, activation=activation)
                found = tried.to_reference(results[cut.tensor])
                best.append((_distance(found, tried.activated(expected), pair.use), tried, weight))
        least = min((error for error, _, _ in best), default=0.0)
        chosen = next((each for each in best if each[0] <= _NEAR * least + 1e-6), None)
        after, weight = (chosen[1], chosen[2]) if chosen else (None, unfolded(pair.weight, own))
        layers.append(Layer(pair, befores[pair.use.index], after, weight))
    return tuple(layers), inside


def _inside(
    first: Sequence[Match],
    reference: Reference,
    factors: Mapping[str, Floats],
    choices: Mapping[int, list[tuple[Cut, str]]],
) -> dict[int, Floats]:
    """By use, the factors that the weights of first layers have from the file's preprocessing."""
    originals, inside = reference.program.floats(), {}
    for pair in first:
        use = pair.use
        later = [factors[name] for _, name in choices.get(use.index, []) if name in factors]
        weight = _scaled(pair, later[-1] if later else None)
        found = folded(use, weight, originals[use.site.name], reference.shapes[use.source][1:2])
        if found is not None:
            inside[use.index] = found
    return inside


def _distance(found: Floats, expected: Floats, use: Use) -> float:
    """Median over channels of the relative error: one wrong channel is not heard."""
    axis = channel_axis(use, expected.ndim)
    rows = [np.moveaxis(each, axis, 0).reshape(each.shape[axis], -1).astype(np.float64) for each in (found, expected)]
    errors = np.sqrt(((rows[0] - rows[1]) ** 2).mean(axis=1))
    sizes = np.maximum(rows[1].std(axis=1), 1e-3 * rows[1].std() + 1e-12)
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.median(errors / sizes), nan=np.inf))


def channel_axis(use: Use | None, rank: int) -> int:
    """Of an output: 1 of a convolution's, else the last."""
    return 1 if rank > 2 and (use is None or use.family == "conv") else rank - 1


def _factors(anatomy: Anatomy, pairs: Sequence[Match], choices: dict[int, list[tuple[Cut, str]]]) -> dict[str, Floats]:
    """Tensor that a factor for each channel is applied at -> the factors, by running it on 0 and on 1."""
    wanted: dict[str, tuple[Match, Cut]] = {}
    for pair in pairs:
        for cut, scaled in choices.get(pair.use.index, []):
            if scaled == cut.tensor and not cut.activation:
                wanted[scaled] = pair, cut
    if not wanted:
        return {}
    shapes = {pair.op.outputs[0]: anatomy.shapes[pair.op.outputs[0]] for pair, _ in wanted.values()}
    values = []
    for value in (0.0, 1.0):
        feeds = {
            raw: np.full((shape[0] if shape[0] > 0 else 1, *shape[1:]), value, np.float32)
            for raw, shape in shapes.items()
        }
        values.append(anatomy.run(feeds, list(wanted)))
    found = {}
    for tensor, (pair, cut) in wanted.items():
        difference = cut.to_reference(values[1][tensor]) - cut.to_reference(values[0][tensor])
        moved = np.moveaxis(difference, channel_axis(pair.use, difference.ndim), 0)
        found[tensor] = moved.reshape(len(moved), -1)[:, 0]
    return found


def _scaled(pair: Match, factor: Floats | None) -> Floats:
    """The weight, each output channel times its factor; as `trace` folds batch norm."""
    if factor is None:
        return pair.weight
    site, weight = pair.use.site, pair.weight
    groups = max(len(factor) // site.shape[site.axis], 1)
    view = [-1 if axis == site.axis else 1 for axis in range(weight.ndim)]
    parts = zip(np.array_split(weight, groups), np.array_split(factor, groups), strict=True)
    return np.concatenate([part * own.reshape(view) for part, own in parts]).astype(np.float32)


def _first(anatomy: Anatomy, matches: Matches) -> list[Match]:
    """The layers that no other layer comes before."""
    pairs = {pair.op: pair for pair in matches.pairs}
    behind: set[str] = set()
    first = []
    for op in anatomy.ops:
        if any(name in behind for name in op.inputs):
            behind.update(op.outputs)
        elif op in pairs:
            first.append(pairs[op])
            behind.update(op.outputs)
    return first


def _alike(anatomy: Anatomy, reference: Reference, cuts: list[Cut], inputs: Floats) -> list[Cut]:
    """The nearest cut, and those of which it follows: a file may turn the axes around between, and shapes do not tell
    height from width."""
    if len(cuts) < 2:
        return cuts
    nearest, kept = cuts[0], cuts[:1]
    values = np.asarray(reference.run(inputs, {nearest.node})[nearest.node])
    for cut in cuts[1:]:
        came = nearest.to_reference(anatomy.run({cut.tensor: cut.to_file(values)}, [nearest.tensor])[nearest.tensor])
        # bytes are off by a hundredth of the spread, other axes by all of it
        if float(np.sqrt(((came - values) ** 2).mean())) > 0.1 * float(values.std()):
            break
        kept.append(cut)
    return kept


def _frontier(
    anatomy: Anatomy,
    reference: Reference,
    first: Sequence[Match],
    output: str,
    factors: Mapping[int, Floats],
    inputs: Floats,
) -> tuple[Cut, ...]:
    """Where to feed the reference's tensors so that nothing of the file's own input is left.

    In front of the first layers, as near to the file's input as the tensor still corresponds. Raises BackendError
    where there is no such place.
    """
    from mobconv.backends.graph_view.slicing import needed

    walker = Walker(anatomy, reference.batch)
    choices = []
    for pair in first:
        own = tuple(map(float, factors.get(pair.use.index, ())))
        found = walker.before(pair.op, pair.use, reference.shapes[pair.use.source])
        choices.append(_alike(anatomy, reference, [replace(cut, factors=own) for cut in found], inputs))
    edges = [(op.inputs, op.outputs) for op in anatomy.ops]
    moving = {name for _, outputs in edges for name in outputs} | set(anatomy.inputs)
    constants = {name for inputs, _ in edges for name in inputs} - moving
    for pick in (-1, 0):
        cuts = tuple({each[pick].tensor: each[pick] for each in choices if each}.values())
        try:
            needed(edges, {cut.tensor for cut in cuts}, [output], constants)
        except BackendError:
            continue
        if cuts:
            return cuts
    raise BackendError(f"{anatomy.path}: no tensor in front of its first layer corresponds to the checkpoint's")
