"""Linear codes: w = scale * (q - z) with integers 0 <= q, z < 2^n; at 1 bit a table of two free values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.groups import FittedGroups, Grouped
from mobconv.quantize.scales import round_to
from mobconv.quantize.weights import Floats


def span(weights: Grouped, bits: int, fp16: bool) -> tuple[Floats, Floats]:
    """Scales and zero points (groups,) float32 of codes that span each group's range, zero included; 2 to 8 bits.

    Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
    section 3. The scale of a group of zeros is 1. fp16: scales are fp16 numbers.
    """
    levels = 2**bits - 1
    low = np.minimum(weights.min(axis=1), 0)
    high = np.maximum(weights.max(axis=1), 0)
    scale = round_to((high - low) / np.float32(levels), fp16)
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return scale, np.clip(np.rint(-low / scale), 0, levels).astype(np.float32)


def encode(weights: Grouped, scale: Floats, zero_point: Floats, bits: int) -> FittedGroups:
    """The nearest codes under scales and zero points (groups,) float32; 2 to 8 bits."""
    zero = zero_point[:, None]
    codes = np.clip(np.rint(weights / scale[:, None]), -zero, 2**bits - 1 - zero) + zero
    return FittedGroups(codes.astype(np.uint8), scale, zero_point.astype(np.uint8))


def encode_pair(weights: Grouped, pair: NDArray[np.floating], fp16: bool) -> FittedGroups:
    """1 bit: the nearer of two values, pair (groups, 2), lower first. fp16: the values are rounded to it before."""
    table = round_to(pair, fp16)
    codes = np.abs(weights - table[:, 1:]) < np.abs(weights - table[:, :1])
    return FittedGroups(codes.astype(np.uint8), table=table)
