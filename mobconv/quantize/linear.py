"""Linear: w = scale * (q - z) with integers 0 <= q, z < 2^n; at 1 bit a table of two free values.

The factor q - z of a weight does not depend on z unless it is clipped, so the search runs over scales,
and over zero points only as far as they choose which tail is clipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.scales import (
    Candidates,
    Floats,
    Grouped,
    is_short,
    least_squares,
    neighbours,
    ratios,
    round_to,
    squared_error,
)
from mobconv.schemes import Algorithm

Codes = NDArray[np.uint8]
_KEPT = 8  # basins that are refined; twice as many in short groups
_SPLITS = 8  # ways to share what must be clipped between the two tails


def fit(weights: Grouped, bits: int, algorithm: Algorithm, fp16: bool) -> tuple[Codes, Floats, Codes]:
    """Codes (groups, k) uint8, scales (groups,) float32, zero points (groups,) uint8; 2 to 8 bits.

    `mse` minimises each group's squared error over representable scales and all zero points; `minmax`
    spans the group's range, zero included (Jacob et al. 2018, section 3). fp16: scales are fp16 numbers.
    """
    levels = 2**bits - 1
    scale, zero_point = _minmax(weights, levels, fp16)
    if algorithm is Algorithm.MSE:
        scale, zero_point = _search(weights, scale, zero_point, levels, fp16)
    codes = _factors(weights, scale, zero_point, levels) + zero_point[:, None]
    return codes.astype(np.uint8), scale, zero_point.astype(np.uint8)


def fit_one_bit(weights: Grouped, algorithm: Algorithm, fp16: bool) -> tuple[Codes, Floats]:
    """Codes (groups, k) of 0 and 1, and tables (groups, 2) float32, lower value first.

    `mse`: the exact best two values, by trying every split of the sorted weights; `minmax`: the two ends.
    """
    ordered = np.sort(weights, axis=1)
    if algorithm is Algorithm.MINMAX or weights.shape[1] == 1:
        pair = np.stack([ordered[:, 0], ordered[:, -1]], axis=1)
    else:
        count = weights.shape[1]
        sums = np.cumsum(ordered, axis=1, dtype=np.float64)
        below = sums[:, :-1] / np.arange(1, count)
        above = (sums[:, -1:] - sums[:, :-1]) / np.arange(count - 1, 0, -1)
        # the error of a split is a constant less the sum of n * mean^2
        gain = below**2 * np.arange(1, count) + above**2 * np.arange(count - 1, 0, -1)
        split = gain.argmax(axis=1)[:, None]
        pair = np.concatenate([np.take_along_axis(part, split, axis=1) for part in (below, above)], axis=1)
    table = round_to(pair, fp16)
    nearer = np.abs(weights - table[:, 1:]) < np.abs(weights - table[:, :1])
    return nearer.astype(np.uint8), table


def _minmax(weights: Grouped, levels: int, fp16: bool) -> tuple[Floats, Floats]:
    low = np.minimum(weights.min(axis=1), 0)
    high = np.maximum(weights.max(axis=1), 0)
    scale = round_to((high - low) / np.float32(levels), fp16)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return scale, np.clip(np.rint(-low / scale), 0, levels).astype(np.float32)


def _factors(weights: Grouped, scale: Floats, zero_point: Floats, levels: int) -> Grouped:
    z = zero_point[:, None]
    factors: Grouped = np.clip(np.rint(weights / scale[:, None]), -z, levels - z)
    return factors


def _search(weights: Grouped, start: Floats, start_zero: Floats, levels: int, fp16: bool) -> tuple[Floats, Floats]:
    short = is_short(weights)
    tried, refined = Candidates(), Candidates()

    def usable(scale: Floats) -> tuple[Floats, Grouped]:
        scale = np.where((scale > 0) & np.isfinite(scale), scale, start).astype(np.float32)
        return scale, np.rint(weights / scale[:, None])

    def try_out(scale: Floats, zero_point: NDArray[np.floating], near: Grouped, into: Candidates) -> None:
        held = np.clip(zero_point, 0, levels).astype(np.float32)
        z = held[:, None]
        into.add(squared_error(weights, scale, np.clip(near, -z, levels - z)), scale, held)

    try_out(start, start_zero, np.rint(weights / start[:, None]), tried)
    for ratio in ratios(levels // 2 + 1, short):
        scale, near = usable(round_to(start * ratio, fp16))
        low, high = np.minimum(near.min(axis=1), 0), np.maximum(near.max(axis=1), 0)
        clipped = np.maximum(high - low - levels, 0)
        splits = int(min(_SPLITS, clipped.max()))
        for share in range(splits + 1):
            try_out(scale, -low - np.rint(clipped * share / max(1, splits)), near, tried)
    for scale, zero_point in tried.best(2 * _KEPT if short else _KEPT):
        fitted = scale
        try_out(scale, zero_point, np.rint(weights / scale[:, None]), refined)
        for _ in range(2):
            fitted = least_squares(weights, _factors(weights, fitted, zero_point, levels), fitted, fp16)
            for neighbour in neighbours(fitted, fp16):
                candidate, near = usable(neighbour)
                for step in (-1, 0, 1):
                    try_out(candidate, zero_point + step, near, refined)
    return refined.best(1)[0]
