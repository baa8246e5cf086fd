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
    each = 6 if short else 5
    count = int(np.clip(np.ceil((highest - lowest) * largest * each), 160, 480 if short else 240))
    return np.geomspace(lowest, highest, count)


def is_short(weights: Grouped) -> bool:
    """Whether groups are so short (a depthwise filter, a narrow layer) that a finer search pays."""
    return bool(weights.shape[1] <= 64)


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


def squared_error(weights: Grouped, scale: Floats, factors: Grouped) -> NDArray[np.float64]:
    """Sum over each group of (w - scale * factor)^2, float64 (groups,)."""
    difference = weights - scale[:, None] * factors
    error: NDArray[np.float64] = np.einsum("gk,gk->g", difference, difference, dtype=np.float64)
    return error


def least_squares(weights: Grouped, factors: Grouped, otherwise: Floats, fp16: bool) -> Floats:
    """The scale (groups,) that fits fixed factors best; `otherwise` where all factors are zero."""
    above = np.einsum("gk,gk->g", weights, factors, dtype=np.float64)
    below = np.einsum("gk,gk->g", factors, factors, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        fitted = round_to(above / below, fp16)
    usable = (below > 0) & (fitted > 0) & np.isfinite(fitted)
    return np.where(usable, fitted, otherwise).astype(np.float32)


class Candidates:
    """Scales (and zero points) that were tried, with the squared error of each group."""

    def __init__(self) -> None:
        self._rows: list[tuple[NDArray[np.float64], Floats, Floats]] = []

    def add(self, error: NDArray[np.float64], scale: Floats, zero_point: Floats | None = None) -> None:
        """One candidate for each group: three arrays (groups,)."""
        self._rows.append((error, scale, np.zeros_like(scale) if zero_point is None else zero_point))

    def best(self, count: int) -> list[tuple[Floats, Floats]]:
        """The best `count` (scale, zero point) of each group, best first; of equals the first tried."""
        error, scale, zero_point = (np.stack(column) for column in zip(*self._rows, strict=True))
        # neighbours on the grid may round to one scale: such a repetition takes no place
        same = (scale[1:] == scale[:-1]) & (zero_point[1:] == zero_point[:-1])
        error[1:][same] = np.inf
        order = np.argsort(error, axis=0, kind="stable")[:count]
        pick = [np.take_along_axis(part, order, axis=0) for part in (scale, zero_point)]
        return list(zip(*pick, strict=True))
