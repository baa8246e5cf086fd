"""Symmetric codes: w = scale * q with integer |q| <= 2^(n-1) - 1; at 1 bit w is -scale or +scale.

Code k stands for scale * (k - 2^(bits-1)), at 1 bit for scale * (2 k - 1).
"""

from __future__ import annotations

import numpy as np

from mobconv.quantize.groups import FittedGroups, Grouped
from mobconv.quantize.scales import round_to
from mobconv.quantize.weights import Floats


def top(bits: int) -> int:
    """The largest factor of the scale; 2 to 8 bits."""
    return (1 << (bits - 1)) - 1


def span(weights: Grouped, bits: int, fp16: bool) -> Floats:
    """Scales (groups,) float32 under which each group's largest magnitude has the largest factor; 2 to 8 bits.

    The scale of a group of zeros is 1. fp16: scales are fp16 numbers.
    """
    scale = round_to(np.abs(weights).max(axis=1) / np.float32(top(bits)), fp16)
    return np.where(scale > 0, scale, np.float32(1)).astype(np.float32)


def encode(weights: Grouped, scale: Floats, bits: int) -> FittedGroups:
    """The nearest codes under scales (groups,) float32; 2 to 8 bits."""
    factors = np.clip(np.rint(weights / scale[:, None]), -top(bits), top(bits))
    return FittedGroups((factors + np.float32(2 ** (bits - 1))).astype(np.uint8), scale)


def encode_signs(weights: Grouped, fp16: bool) -> FittedGroups:
    """1 bit: signs as codes, and the scale of least squared error, which is the mean magnitude.

    Rastegari et al. 2016, "XNOR-Net", section 3.1. fp16: scales are fp16 numbers.
    """
    scale = round_to(np.abs(weights).mean(axis=1, dtype=np.float64), fp16)
    return FittedGroups((weights >= 0).astype(np.uint8), scale)
