"""What linear and symmetric share: rounding of parameters, and the search grid for scales.

Squared error as a function of the scale is a row of basins, one each time a weight changes its
code; neighbouring basins are about 1 / (largest factor) of the scale apart. A grid about as fine as
that finds the best basins, least squares inside a basin (fixed codes) finds its bottom, and a look at
the next few fp16 numbers accounts for rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import CellError

Floats = NDArray[np.float32]
Grouped = NDArray[np.float32]  # (groups, weights per group)

_KEPT, _KEPT_SHORT = 3, 6  # basins that are refined
_ROUNDS = 2  # of refinement
_SPLITS = 8  # ways to share what must be clipped between the two tails
_LONG = 2048  # weights: groups of tensors and of 16 channels, whose tails are longer than a channel's
_LOWEST, _HIGHEST, _COARSE = 0.01, 1.25, 32  # a grid for those, relative to the scale of min/max, and its size
_NEAR = 1.2  # how far from the best of that grid, 17 % a step, the best may be
_FINE = 768  # ways to choose a scale near it, times ways to share

FP16_SMALLEST_NORMAL = 2.0**-14
FP16_LARGEST = 65504.0


def round_to(values: NDArray[np.floating], fp16: bool) -> Floats:
    """Parameters as the files hold them: the nearest fp16 number, or the nearest fp32 one.

    What fp16 would turn into zero or infinity stays as it is, for `fits_fp16` to find.
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


def ratios(largest: int, short: bool) -> Floats:
    """Scales to try, relative to that of min/max, for factors up to `largest` on either side.

    Two or three for each basin. Short groups have ragged basins, and luck may favour a wider scale.
    """
    lowest = max(0.2, 1 - 6 / (largest + 2))  # heavy tails are worth clipping, the more so the fewer the levels
    highest, each, fewest, most = (1.6, 3, 96, 176) if short else (1.2, 2, 64, 112)
    count = int(np.clip(np.ceil((highest - lowest) * largest * each), fewest, most))
    return np.geomspace(lowest, highest, count, dtype=np.float32)


def search(
    weights: Grouped, start: Floats, zero_point: Floats, levels: int, free: bool, fp16: bool
) -> tuple[Floats, Floats]:
    """Scales and zero points (groups,) of least squared error, from those of min/max on.

    Codes run over 0 .. levels. free: the zero point is searched for, too; else it stays as it is.
    """
    from mobconv.quantize import kernels

    short = weights.shape[1] <= 64  # a depthwise filter, a narrow layer: a finer search pays
    kept, top = _KEPT_SHORT if short else _KEPT, np.float32(levels)
    weights = np.pad(weights, ((0, 0), (0, -weights.shape[1] % kernels.STEP)))  # zeros change no error

    def tried(start: Floats, grid: Floats, splits: int, kept: int) -> tuple[Floats, Floats]:
        found: tuple[Floats, Floats] = kernels.best_scales(
            weights, start, grid, zero_point, top, splits if free else -1, kept
        )
        return found

    if weights.shape[1] > _LONG:
        # heavy tails: clipping a few weights pays at any width (a whole layer at 8 bits: 0.8 of the scale of min/max
        # and less), and the error is smooth enough in the scale for a coarse look to tell where to search
        coarse, _ = tried(start, np.geomspace(_LOWEST, _HIGHEST, _COARSE, dtype=np.float32), _SPLITS, 1)
        centre = np.where(coarse[:, 0] > 0, coarse[:, 0], start)
        count = int(np.clip(levels, 32, 96))
        near, zero = tried(centre, np.geomspace(1 / _NEAR, _NEAR, count, dtype=np.float32), _FINE // count, kept)
    else:
        near, zero = tried(start, ratios(levels // 2 + free, short), _SPLITS, kept)
    steps = np.array([-1, 0, 1] if free else [0], np.float32)
    scales, zeros = [start[:, None]], [zero_point[:, None]]
    least, best, best_zero = np.full(len(start), np.inf), start, zero_point
    for _ in range(_ROUNDS):
        around = neighbours(round_to(near, fp16), fp16)
        scales += [each for each in around for _ in steps]
        zeros += [zero + step for _ in around for step in steps]
        error, scale, at, near, zero = kernels.best_of(
            weights, np.concatenate(scales, axis=1), np.concatenate(zeros, axis=1), top, kept
        )
        better = error < least
        least = np.where(better, error, least)
        best, best_zero = np.where(better, scale, best), np.where(better, at, best_zero)
        scales, zeros = [], []
    return best, best_zero


def neighbours(scale: Floats, fp16: bool) -> list[Floats]:
    """The scale and the representable numbers on both sides of it (in fp16; in fp32 itself alone)."""
    if not fp16:
        return [scale]
    half = scale.astype(np.float16)
    ends = (np.nextafter(half, end).astype(np.float32) for end in (np.float16(0), np.float16(np.inf)))
    return [scale, *(np.where(scale > 0, end, scale) for end in ends)]
