"""Symmetric: w = scale * q with integer |q| <= 2^(n-1) - 1; at 1 bit w is -scale or +scale.

At 1 bit the least-squares scale is the mean magnitude (Rastegari et al. 2016, XNOR-Net, section 3.1).
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

_KEPT = 8  # basins that are refined; twice as many in short groups


def _factors(weights: Grouped, scale: Floats, top: int) -> Grouped:
    factors: Grouped = np.clip(np.rint(weights / scale[:, None]), -top, top)
    return factors


def _start(weights: Grouped, top: int, fp16: bool) -> Floats:
    """The min/max scale of each group; 1 for a group of zeros."""
    scale = round_to(np.abs(weights).max(axis=1) / np.float32(top), fp16)
    return np.where(scale > 0, scale, np.float32(1)).astype(np.float32)


def fit(weights: Grouped, bits: int, algorithm: Algorithm, fp16: bool) -> tuple[NDArray[np.uint8], Floats]:
    """Codes (groups, k) uint8 and scales (groups,) float32 of weights (groups, k) float32.

    `mse` minimises each group's squared error over representable scales; `minmax` takes the largest
    magnitude. At 1 bit both are the least-squares scale. fp16: scales are fp16 numbers.
    Code k stands for scale * (k - 2^(bits-1)), at 1 bit for scale * (2 k - 1).
    """
    if bits == 1:
        scale = round_to(np.abs(weights).mean(axis=1, dtype=np.float64), fp16)
        return (weights >= 0).astype(np.uint8), scale
    top = 2 ** (bits - 1) - 1
    scale = _start(weights, top, fp16)
    if algorithm is Algorithm.MSE:
        scale = _search(weights, scale, top, fp16)
    codes = _factors(weights, scale, top) + np.float32(2 ** (bits - 1))
    return codes.astype(np.uint8), scale


def _search(weights: Grouped, start: Floats, top: int, fp16: bool) -> Floats:
    short = is_short(weights)
    tried, refined = Candidates(), Candidates()

    def try_out(scale: Floats, into: Candidates) -> None:
        usable = np.where((scale > 0) & np.isfinite(scale), scale, start).astype(np.float32)
        into.add(squared_error(weights, usable, _factors(weights, usable, top)), usable)

    try_out(start, tried)
    for ratio in ratios(top, short):
        try_out(round_to(start * ratio, fp16), tried)
    for scale, _ in tried.best(2 * _KEPT if short else _KEPT):
        fitted = scale
        try_out(scale, refined)
        for _ in range(3):
            fitted = least_squares(weights, _factors(weights, fitted, top), fitted, fp16)
            for near in neighbours(fitted, fp16):
                try_out(near, refined)
    return refined.best(1)[0][0]
