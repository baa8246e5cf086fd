"""Scales and tables that files can contain: rounding to fp16, and what fp16 cannot represent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import CellError
from mobconv.quantize.weights import Floats

FP16_SMALLEST_NORMAL = 2.0**-14
FP16_LARGEST = 65504.0


def round_to(values: NDArray[np.floating], fp16: bool) -> Floats:
    """Parameters as the files contain them, float32: the nearest fp16 number, or the nearest fp32 one.

    A value that fp16 would turn into zero or infinity is not rounded; `fits_fp16` is False for it.
    """
    single = values.astype(np.float32)
    if not fp16:
        return single
    with np.errstate(over="ignore"):
        half = single.astype(np.float16).astype(np.float32)
    lost = ~np.isfinite(half) | ((half == 0) & (single != 0))
    return np.where(lost, single, half).astype(np.float32)


def to_fp16(name: str, values: Floats) -> Floats:
    """Float weights rounded to fp16, as float32. Raises CellError naming a tensor that overflows."""
    largest = float(np.abs(values).max(initial=0))
    if largest > FP16_LARGEST:
        raise CellError(f"{name}: values up to {largest:g} do not fit in fp16; keep the layer fp32 or use a w8 scheme")
    return values.astype(np.float16).astype(np.float32)


def fits_fp16(values: Floats) -> bool:
    """Whether every value is zero or a normal, finite fp16 number's magnitude."""
    size = np.abs(values[values != 0])
    return size.size == 0 or bool(float(size.min()) >= FP16_SMALLEST_NORMAL and float(size.max()) <= FP16_LARGEST)


def neighbours(scale: Floats, fp16: bool) -> list[Floats]:
    """The scale and the representable numbers on both sides of it (in fp16; in fp32 itself alone)."""
    if not fp16:
        return [scale]
    half = scale.astype(np.float16)
    ends = (np.nextafter(half, end).astype(np.float32) for end in (np.float16(0), np.float16(np.inf)))
    return [scale, *(np.where(scale > 0, end, scale) for end in ends)]
