"""Which operation of a file has which weight of the checkpoint, by the weights' values and not by names.

Weights are compared up to axes of length 1 and permutations of the others, by the cosine of each output channel.
The score of a pair is the median magnitude of these cosines, so that one wrong channel, a factor for each channel
(batch norm that is not folded) or one bit a weight still leave a weight recognisable. Pairs are formed from the best
score down, equal scores in order of execution. Operations and uses without a partner are then paired by their place
between matched neighbours, or reported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import Op
from mobconv.compare.program_view import WeightUse
from mobconv.errors import InputError

Floats = NDArray[np.float32]
_CHANNELS = 64  # that are compared, evenly spaced, of a wide weight
_EQUAL = 1e-4  # scores nearer than this are equal


@dataclass(frozen=True)
class WeightMatch:
    """An operation of the file, and the use of a checkpoint's weight that it corresponds to.

    score   median magnitude of the cosine of channels, 1.0 for the same weight up to factors
    by      'content', or 'place': its weight is unlike the checkpoint's, but it is where the checkpoint's should be
    weight  of the file, decoded, in the site's shape
    """

    op: Op
    use: WeightUse
    score: float
    by: str
    weight: Floats


@dataclass(frozen=True)
class WeightMatches:
    """All pairs in the program's order of execution; operations of the file, and uses, without a partner."""

    pairs: tuple[WeightMatch, ...]
    ops: tuple[Op, ...]
    uses: tuple[WeightUse, ...]


def match_weights(
    ops: Sequence[Op],
    weights: Mapping[str, Floats],
    uses: Sequence[WeightUse],
    values: Mapping[str, Floats],
    path: Path,
) -> WeightMatches:
    """Pair operations with weights (in order of execution) with uses.

    weights: of the file, decoded, by tensor; values: of the checkpoint, by site. Raises InputError where less than
    half of the uses have a partner: the file is of another network.
    """
    if not uses:
        raise InputError("The checkpoint has no convolution, linear layer or embedding to compare")
    places = {op: i for i, op in enumerate(ops)}
    fits: dict[tuple[str, str], tuple[float, Floats]] = {}
    ranked = []
    for op, use in itertools.product(ops, uses):
        assert op.weight is not None
        key = op.weight, use.site.name
        if key not in fits:
            fits[key] = _best_layout(weights[op.weight], values[use.site.name], use.site.axis)
        score = fits[key][0]
        if score >= _threshold(use):
            other = (op.family == "embedding") != (use.family == "embedding")
            ranked.append((-round(score / _EQUAL) + other, places[op], use.index, op, use))
    pairs: dict[int, WeightMatch] = {}
    matched: set[int] = set()
    for _, place, index, op, use in sorted(ranked, key=lambda candidate: candidate[:3]):
        if place not in matched and index not in pairs:
            matched.add(place)
            score, weight = fits[op.weight or "", use.site.name]
            pairs[index] = WeightMatch(op, use, score, "content", weight)
    if 2 * len(pairs) < len(uses):
        raise InputError(
            f"{path}: of the checkpoint's {len(uses)} layers with weights, {len(pairs)} are in this file, which has "
            f"{len(ops)}: it is another network, or another training of it. Give the checkpoint that it was made from"
        )
    _match_by_place(ops, uses, weights, values, pairs, matched)
    return WeightMatches(
        tuple(pairs[index] for index in sorted(pairs)),
        tuple(op for op in ops if places[op] not in matched),
        tuple(use for use in uses if use.index not in pairs),
    )


def _match_by_place(
    ops: Sequence[Op],
    uses: Sequence[WeightUse],
    weights: Mapping[str, Floats],
    values: Mapping[str, Floats],
    pairs: dict[int, WeightMatch],
    matched: set[int],
) -> None:
    """Pair unmatched uses between matched neighbours, where there are as many unmatched operations of fitting shape.

    Adds to `pairs` and to `matched`, the positions of matched operations.
    """
    position = {op: i for i, op in enumerate(ops)}
    unmatched = [use for use in uses if use.index not in pairs]
    for _, group in itertools.groupby(unmatched, key=lambda use: use.index - unmatched.index(use)):
        gap = list(group)
        before, after = pairs.get(gap[0].index - 1), pairs.get(gap[-1].index + 1)
        first = position[before.op] + 1 if before else 0
        last = position[after.op] if after else len(ops)
        free = [op for op in ops[first:last] if position[op] not in matched]
        if len(free) != len(gap):
            continue
        for op, use in zip(free, gap, strict=True):
            score, weight = _best_layout(weights[op.weight or ""], values[use.site.name], use.site.axis)
            if weight.shape == use.site.shape:
                matched.add(position[op])
                pairs[use.index] = WeightMatch(op, use, score, "place", weight)


def _threshold(use: WeightUse) -> float:
    """A score that two unrelated weights hardly reach; the shorter the rows, the higher it is."""
    length = math.prod(use.site.shape) / use.site.shape[use.site.axis]
    return min(0.75, max(0.4, 2 / math.sqrt(length)))


def _best_layout(weight: Floats, value: Floats, axis: int) -> tuple[float, Floats]:
    """The best score over the layouts of a file's weight that have the shape of `value`, and the weight in that layout.

    (-1, an empty array) where no layout has that shape.
    """
    shape = tuple(length for length in value.shape if length > 1)
    squeezed = weight.reshape([length for length in weight.shape if length > 1])
    best, layout = -1.0, cast(Floats, np.empty(0, np.float32))
    if squeezed.size != value.size:
        return best, layout
    for perm in itertools.permutations(range(squeezed.ndim)):
        if tuple(squeezed.shape[i] for i in perm) != shape:
            continue
        candidate = squeezed.transpose(perm).reshape(value.shape)
        score = _score(candidate, value, axis)
        if score > best:
            best, layout = score, candidate
    return best, np.ascontiguousarray(layout)


def _score(weight: Floats, value: Floats, axis: int) -> float:
    """Median over output channels of the cosine's magnitude; of the whole tensor where a channel is one number."""
    channels = value.shape[axis]
    some = np.unique(np.linspace(0, channels - 1, min(channels, _CHANNELS)).astype(int))
    rows = [np.take(tensor, some, axis).swapaxes(0, axis).reshape(len(some), -1) for tensor in (weight, value)]
    rows = [row.astype(np.float64) for row in rows]
    if rows[0].shape[1] == 1:
        rows = [row.reshape(1, -1) for row in rows]
    products = np.abs((rows[0] * rows[1]).sum(axis=1))
    norms = np.linalg.norm(rows[0], axis=1) * np.linalg.norm(rows[1], axis=1)
    live = norms > 0
    return float(np.median(products[live] / norms[live])) if live.any() else 0.0
