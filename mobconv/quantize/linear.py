"""Linear: w = scale * (q - z) with integers 0 <= q, z < 2^n; at 1 bit a table of two free values.

The factor q - z of a weight does not depend on z unless it is clipped, so the search runs over scales,
and over zero points only as far as they choose which tail is clipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.scales import Floats, Grouped, round_to, search
from mobconv.schemes import Algorithm

Codes = NDArray[np.uint8]


def fit(weights: Grouped, bits: int, algorithm: Algorithm, fp16: bool) -> tuple[Codes, Floats, Codes]:
    """Codes (groups, k) uint8, scales (groups,) float32, zero points (groups,) uint8; 2 to 8 bits.

    `mse` minimises each group's squared error over representable scales and all zero points; `minmax`
    spans the group's range, zero included (Jacob et al. 2018, section 3). fp16: scales are fp16 numbers.
    """
    levels = 2**bits - 1
    scale, zero_point = _minmax(weights, levels, fp16)
    if algorithm is Algorithm.MSE:
        scale, zero_point = search(weights, scale, zero_point, levels, True, fp16)
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
