"""Which operation of a file has which weight of the checkpoint: told by content, not by names.

Weights are compared up to axes of length 1 and permutations of the others, by the cosine of each output channel;
the score of a pair is the median of their magnitudes, so that one wrong channel, a factor for each channel (batch norm
that is not folded) or a single bit a weight do not hide what a weight is. Pairs are taken from the best score
down, equal ones in order of execution. What is left is paired by its place among its matched neighbours, or named.
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
from mobconv.compare.traced import Use
from mobconv.errors import InputError

Floats = NDArray[np.float32]
_CHANNELS = 64  # that are compared, evenly spaced, of a wide weight
_EQUAL = 1e-4  # scores nearer than this are equal


@dataclass(frozen=True)
class Match:
    """An operation of the file and the use of a weight that it is.

    score   median magnitude of the cosine of channels, 1.0 for the same weight up to factors
    by      'content', or 'place': its weight is unlike the checkpoint's, but it stands where the checkpoint's does
    weight  as the file has it, decoded, in the site's shape
    """

    op: Op
    use: Use
    score: float
    by: str
    weight: Floats


@dataclass(frozen=True)
class Matches:
    """All pairs, in the reference's order of execution; operations of the file and uses that have no partner."""

    pairs: tuple[Match, ...]
    ops: tuple[Op, ...]
    uses: tuple[Use, ...]


def match(
    ops: Sequence[Op], weights: Mapping[str, Floats], uses: Sequence[Use], values: Mapping[str, Floats], path: Path
) -> Matches:
    """Pair weighted operations (in order) with uses.

    weights: of the file, by tensor, decoded; values: of the checkpoint, by site. Raises InputError where less than
    half of the uses are found: the file is of another network.
    """
    if not uses:
        raise InputError("the checkpoint has no convolution, linear layer or embedding to compare")
    places = {op: i for i, op in enumerate(ops)}
    known: dict[tuple[str, str], tuple[float, Floats]] = {}
    ranked = []
    for op, use in itertools.product(ops, uses):
        assert op.weight is not None
        key = op.weight, use.site.name
        if key not in known:
            known[key] = _best(weights[op.weight], values[use.site.name], use.site.axis)
        score = known[key][0]
        if score >= _threshold(use):
            other = (op.family == "embedding") != (use.family == "embedding")
            ranked.append((-round(score / _EQUAL) + other, places[op], use.index, op, use))
    pairs: dict[int, Match] = {}
    taken: set[int] = set()
    for _, place, index, op, use in sorted(ranked, key=lambda each: each[:3]):
        if place not in taken and index not in pairs:
            taken.add(place)
            score, weight = known[op.weight or "", use.site.name]
            pairs[index] = Match(op, use, score, "content", weight)
    if 2 * len(pairs) < len(uses):
        raise InputError(
            f"{path}: of the checkpoint's {len(uses)} layers with weights, {len(pairs)} are in this file, which has "
            f"{len(ops)}: it is another network, or another training of it. Give the checkpoint that it was made from"
        )
    _by_place(ops, uses, weights, values, pairs, taken)
    return Matches(
        tuple(pairs[index] for index in sorted(pairs)),
        tuple(op for op in ops if places[op] not in taken),
        tuple(use for use in uses if use.index not in pairs),
    )


def _by_place(
    ops: Sequence[Op],
    uses: Sequence[Use],
    weights: Mapping[str, Floats],
    values: Mapping[str, Floats],
    pairs: dict[int, Match],
    taken: set[int],
) -> None:
    """Pair what is left between matched neighbours, where as many operations of a fitting shape stand as uses."""
    position = {op: i for i, op in enumerate(ops)}
    left = [use for use in uses if use.index not in pairs]
    for _, group in itertools.groupby(left, key=lambda use: use.index - left.index(use)):
        gap = list(group)
        before, after = pairs.get(gap[0].index - 1), pairs.get(gap[-1].index + 1)
        first = position[before.op] + 1 if before else 0
        last = position[after.op] if after else len(ops)
        free = [op for op in ops[first:last] if position[op] not in taken]
        if len(free) != len(gap):
            continue
        for op, use in zip(free, gap, strict=True):
            score, weight = _best(weights[op.weight or ""], values[use.site.name], use.site.axis)
            if weight.shape == use.site.shape:
                taken.add(position[op])
                pairs[use.index] = Match(op, use, score, "place", weight)


def _threshold(use: Use) -> float:
    """What two weights that have nothing to do with each other hardly reach: the shorter the rows, the more."""
    length = math.prod(use.site.shape) / use.site.shape[use.site.axis]
    return min(0.75, max(0.4, 2 / math.sqrt(length)))


def _best(held: Floats, value: Floats, axis: int) -> tuple[float, Floats]:
    """The best score over the layouts of `held` that have the shape of `value`, and it in that layout.

    (-1, an empty array) where there is none.
    """
    shape = tuple(n for n in value.shape if n > 1)
    squeezed = held.reshape([n for n in held.shape if n > 1])
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


def _score(held: Floats, value: Floats, axis: int) -> float:
    """Median over output channels of the cosine's magnitude; of all in one where a channel is one number."""
    channels = value.shape[axis]
    some = np.unique(np.linspace(0, channels - 1, min(channels, _CHANNELS)).astype(int))
    rows = [np.take(each, some, axis).swapaxes(0, axis).reshape(len(some), -1) for each in (held, value)]
    rows = [each.astype(np.float64) for each in rows]
    if rows[0].shape[1] == 1:
        rows = [each.reshape(1, -1) for each in rows]
    products = np.abs((rows[0] * rows[1]).sum(axis=1))
    norms = np.linalg.norm(rows[0], axis=1) * np.linalg.norm(rows[1], axis=1)
    live = norms > 0
    return float(np.median(products[live] / norms[live])) if live.any() else 0.0
