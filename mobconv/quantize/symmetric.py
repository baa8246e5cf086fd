"""Symmetric: w = scale * q with integer |q| <= 2^(n-1) - 1; at 1 bit w is -scale or +scale.

At 1 bit the least-squares scale is the mean magnitude (Rastegari et al. 2016, XNOR-Net, section 3.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.scales import Floats, Grouped, round_to, search
from mobconv.schemes import Algorithm


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
        scale, _ = search(weights, scale, np.full_like(scale, top), 2 * top, False, fp16)
    codes = _factors(weights, scale, top) + np.float32(2 ** (bits - 1))
    return codes.astype(np.uint8), scale
