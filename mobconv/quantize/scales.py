"""What linear and symmetric share: rounding of parameters, and the search grid for scales.

Squared error as a function of the scale is a row of basins, one each time a weight changes its
code; neighbouring basins are about 1 / (largest factor) of the scale apart. A grid a few times finer
than that finds the best basins, least squares inside a basin (fixed codes) finds its bottom, and a
look at the next few fp16 numbers accounts for rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import CellError

Floats = NDArray[np.float32]
Grouped = NDArray[np.float32]  # (groups, weights per group)

_KEPT = 4  # basins that are refined; four times as many in short groups
_SPLITS = 8  # ways to share what must be clipped between the two tails
_FINE_SPLITS = 48  # of long tails, far below the scale of min/max
_LONG = 2048  # weights: groups of tensors and of 16 channels, whose tails are longer than a channel's
_LOWEST = 0.01  # of the scale of min/max
_NEAR = 1.2  # how far from the best of a coarse grid, 8 % a step, the best may be

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


def ratios(largest: int, short: bool) -> NDArray[np.float64]:
    """Scales to try, relative to that of min/max, for factors up to `largest` on either side.

    A few for each basin. Short groups have ragged basins, and luck may favour a wider scale.
    """
    lowest = max(0.2, 1 - 6 / (largest + 2))  # heavy tails are worth clipping, the more so the fewer the levels
    highest = 1.6 if short else 1.25
    each = 4 if short else 3
    count = int(np.clip(np.ceil((highest - lowest) * largest * each), 120 if short else 96, 240 if short else 160))
    grid = np.geomspace(lowest, highest, count)
    # likely ones first: a candidate is given up as soon as its error is above that of the best
    return grid[np.argsort(np.abs(np.log(grid / 0.9)), kind="stable")]


def is_short(weights: Grouped) -> bool:
    """Whether groups are so short (a depthwise filter, a narrow layer) that a finer search pays."""
    return bool(weights.shape[1] <= 64)


def search(
    weights: Grouped, start: Floats, zero_point: Floats, levels: int, free: bool, fp16: bool
) -> tuple[Floats, Floats]:
    """Scales and zero points (groups,) of least squared error, from those of min/max on.

    Codes run over 0 .. levels. free: the zero point is searched for, too; else it stays as it is.
    """
    from mobconv.quantize import compiled

    short = is_short(weights)
    top = np.float32(levels)
    grid = start[:, None] * ratios(levels // 2 + 1 if free else levels // 2, short)
    scales = np.concatenate([start[:, None], round_to(grid, fp16)], axis=1)
    kept = 4 * _KEPT if short else _KEPT
    _, scale, zero = compiled.best_scales(weights, scales, zero_point, top, _SPLITS if free else -1, kept)
    scale = np.where(scale > 0, scale, start[:, None])  # fewer candidates than places
    if weights.shape[1] > _LONG:
        below, zero_below = _below(weights, scale, zero, start, zero_point, grid.min(axis=1), top, free, fp16)
        scale, zero = np.concatenate([scale, below], axis=1), np.concatenate([zero, zero_below], axis=1)
    steps = np.array([-1, 0, 1] if free else [0], np.float32)
    tried = [(scale, zero)]
    near = scale
    for _ in range(2 if free else 3):
        fitted = round_to(compiled.fitted(weights, near, zero, top), fp16)
        near = np.where((fitted > 0) & np.isfinite(fitted), fitted, near).astype(np.float32)
        tried += [(each, zero + step) for each in neighbours(near, fp16) for step in steps]
    scales, zeros = (np.concatenate(part, axis=1) for part in zip(*tried, strict=True))
    found: tuple[Floats, Floats] = compiled.best_of(weights, scales, zeros, top)
    return found


def _below(
    weights: Grouped,
    scale: Floats,
    zero: Floats,
    start: Floats,
    zero_point: Floats,
    lowest: NDArray[np.float64],
    top: np.float32,
    free: bool,
    fp16: bool,
) -> tuple[Floats, Floats]:
    """More candidates, (groups, kept), for groups whose best scale lies below the grid: long ones of heavy tails, where
    clipping a few weights pays at any width (a whole layer at 8 bits: 0.8 of the scale of min/max and less).

    The error of such groups is smooth in the scale, so that a coarse look tells where to search. Groups for
    which the grid goes down far enough get the best that they have once more.
    """
    from mobconv.quantize import compiled

    coarse = np.geomspace(1, _LOWEST, 1 + int(np.log(1 / _LOWEST) / 0.08))
    splits = _SPLITS if free else -1
    _, found, _ = compiled.best_scales(weights, round_to(start[:, None] * coarse, fp16), zero_point, top, splits, 1)
    below, zero_below = scale[:, :1].repeat(_KEPT, axis=1), zero[:, :1].repeat(_KEPT, axis=1)
    rows = np.flatnonzero((found[:, 0] > 0) & (found[:, 0] < lowest * _NEAR))
    if rows.size:
        # the first candidate is one of min/max's own, for its zero point
        near = found[rows] * np.geomspace(1 / _NEAR, _NEAR, 64)
        scales = np.concatenate([start[rows, None], round_to(near, fp16)], axis=1)
        splits = _FINE_SPLITS if free else -1
        _, more, zero_more = compiled.best_scales(weights[rows], scales, zero_point[rows], top, splits, _KEPT)
        below[rows], zero_below[rows] = (
            np.where(more > 0, more, below[rows]),
            np.where(more > 0, zero_more, zero[rows, :1]),
        )
    return below, zero_below


def neighbours(scale: Floats, fp16: bool) -> list[Floats]:
    """The scale and the representable numbers on both sides of it (in fp16; in fp32 itself alone)."""
    if not fp16:
        return [scale]
    half = scale.astype(np.float16)
    return [
        scale,
        np.nextafter(half, np.float16(0)).astype(np.float32),
        np.nextafter(half, np.float16(np.inf)).astype(np.float32),
    ]
