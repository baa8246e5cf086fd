"""Mse: the parameters of least squared error of each group's weights, among those that a file can contain.

    linear      min over s, z    of  sum_i (w_i - s (q_i - z))^2    q_i = clip(round(w_i / s) + z, 0, 2^n - 1)
    symmetric   min over s       of  sum_i (w_i - s q_i)^2          q_i = clip(round(w_i / s), -+(2^(n-1) - 1))
    kmeans      min over t_1..K  of  sum_i min_k (w_i - t_k)^2      K = 2^n

in the units of the weights; z is an integer, s and t are fp16 numbers where fp16 can represent them. At 1 bit, linear
is the best two values (kmeans with K = 2, every split tried), symmetric the mean magnitude.

Nagel et al. 2021, "A white paper on neural network quantization", section 3.1, "mean squared error" (there by a grid);
Rastegari et al. 2016, "XNOR-Net", section 3.1 (symmetric at 1 bit); for kmeans see `clustering`.

How the scale is found: squared error as a function of the scale is a row of basins, one each time a weight changes its
code; neighbouring basins are about 1 / (largest factor) of the scale apart. A grid about as fine as that finds the best
basins, least squares inside a basin (codes fixed) finds its bottom, and the next few fp16 numbers are tried to account
for rounding. The factor q - z of a weight does not depend on z unless it is clipped, so zero points are searched only
as far as they choose which tail is clipped.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize import clustering, kernels, kmeans, linear, sorting, symmetric
from mobconv.quantize.groups import FittedGroups, Grouped
from mobconv.quantize.scales import neighbours, round_to
from mobconv.quantize.weights import Floats
from mobconv.schemes import Mode

_BASINS, _BASINS_SHORT = 3, 6  # that are refined
_ROUNDS = 2  # of refinement
_SPLITS = 8  # ways to share clipped levels between the two tails
_SHORT = 64  # weights: a depthwise filter, a narrow layer; a finer search pays
_LONG = 2048  # weights: groups of tensors and of 16 channels, whose tails are longer than a channel's
_LOWEST, _HIGHEST, _COARSE = 0.01, 1.25, 32  # a grid for long groups, relative to the scale of minmax, and its size
_NEAR = 1.2  # how far from the best of that grid, 17 % a step, the best may be
_FINE = 768  # ways to choose a scale near it, times ways to share


def fit(weights: Grouped, mode: Mode, bits: int, fp16: bool) -> FittedGroups:
    """Codes and parameters of weights (groups, weights of a group) float32, in every mode.

    fp16: scales and tables are fp16 numbers.
    """
    if mode is Mode.KMEANS:
        centres = (clustering.centres(*sorting.distinct(group), 2**bits) for group in weights)
        return kmeans.encode(weights, centres, bits, fp16)
    if mode is Mode.SYMMETRIC and bits == 1:
        return symmetric.encode_signs(weights, fp16)
    if mode is Mode.SYMMETRIC:
        scale, top = symmetric.span(weights, bits, fp16), symmetric.top(bits)
        scale, _ = _search(weights, scale, np.full_like(scale, top), 2 * top, False, fp16)
        return symmetric.encode(weights, scale, bits)
    if bits == 1:
        return linear.encode_pair(weights, _best_pair(weights), fp16)
    scale, zero_point = _search(weights, *linear.span(weights, bits, fp16), 2**bits - 1, True, fp16)
    return linear.encode(weights, scale, zero_point, bits)


def _best_pair(weights: Grouped) -> NDArray[np.floating]:
    """The two values (groups, 2) of least squared error, lower first: every split of the sorted weights is tried."""
    ordered = np.sort(weights, axis=1)
    count = weights.shape[1]
    if count == 1:
        return np.concatenate([ordered, ordered], axis=1)
    sums = np.cumsum(ordered, axis=1, dtype=np.float64)
    below = sums[:, :-1] / np.arange(1, count)
    above = (sums[:, -1:] - sums[:, :-1]) / np.arange(count - 1, 0, -1)
    # the error of a split is a constant less the sum of n * mean^2
    gain = below**2 * np.arange(1, count) + above**2 * np.arange(count - 1, 0, -1)
    split = gain.argmax(axis=1)[:, None]
    pair: NDArray[np.floating] = np.concatenate(
        [np.take_along_axis(means, split, axis=1) for means in (below, above)], axis=1
    )
    return pair


def _ratios(largest: int, short: bool) -> Floats:
    """Scales to try, relative to that of minmax, for factors up to `largest` on either side.

    Two or three for each basin. Short groups have ragged basins, and luck may favour a wider scale.
    """
    lowest = max(0.2, 1 - 6 / (largest + 2))  # heavy tails are worth clipping, the more so the fewer the levels
    highest, each, fewest, most = (1.6, 3, 96, 176) if short else (1.2, 2, 64, 112)
    count = int(np.clip(np.ceil((highest - lowest) * largest * each), fewest, most))
    return np.geomspace(lowest, highest, count, dtype=np.float32)


def _search(
    weights: Grouped, start: Floats, zero_point: Floats, levels: int, free: bool, fp16: bool
) -> tuple[Floats, Floats]:
    """Scales and zero points (groups,) float32 of least squared error, from those of minmax on.

    Codes run over 0 .. levels. free: zero points are searched for, too; else they stay as they are.
    """
    short = weights.shape[1] <= _SHORT
    basins, top = _BASINS_SHORT if short else _BASINS, np.float32(levels)
    weights = np.pad(weights, ((0, 0), (0, -weights.shape[1] % kernels.STEP)))  # zeros change no error

    def best(start: Floats, ratios: Floats, splits: int, kept: int) -> tuple[Floats, Floats]:
        scales, zeros = kernels.best_scales(weights, start, ratios, zero_point, top, splits if free else -1, kept)
        return scales, zeros

    if weights.shape[1] > _LONG:
        # heavy tails: clipping a few weights pays at any width (a whole layer at 8 bits: 0.8 of the scale of minmax
        # and less), and the error is smooth enough in the scale for a coarse grid to say where to search
        coarse, _ = best(start, np.geomspace(_LOWEST, _HIGHEST, _COARSE, dtype=np.float32), _SPLITS, 1)
        centre = np.where(coarse[:, 0] > 0, coarse[:, 0], start)
        count = int(np.clip(levels, 32, 96))
        near, zero = best(centre, np.geomspace(1 / _NEAR, _NEAR, count, dtype=np.float32), _FINE // count, basins)
    else:
        near, zero = best(start, _ratios(levels // 2 + free, short), _SPLITS, basins)
    return _refined(weights, start, zero_point, near, zero, top, free, fp16)


def _refined(
    weights: Grouped,
    start: Floats,
    zero_point: Floats,
    near: Floats,
    zero: Floats,
    top: np.float32,
    free: bool,
    fp16: bool,
) -> tuple[Floats, Floats]:
    """The best scales and zero points (groups,) among representable ones around the candidates near and zero
    (groups, basins), and those of minmax, start and zero_point."""
    steps = np.array([-1, 0, 1] if free else [0], np.float32)
    scales, zeros = [start[:, None]], [zero_point[:, None]]
    least, best, best_zero = np.full(len(start), np.inf), start, zero_point
    for _ in range(_ROUNDS):
        around = neighbours(round_to(near, fp16), fp16)
        scales += [scale for scale in around for _ in steps]
        zeros += [zero + step for _ in around for step in steps]
        error, scale, at, near, zero = kernels.best_of(
            weights, np.concatenate(scales, axis=1), np.concatenate(zeros, axis=1), top, near.shape[1]
        )
        better = error < least
        least = np.where(better, error, least)
        best, best_zero = np.where(better, scale, best), np.where(better, at, best_zero)
        scales, zeros = [], []
    return best, best_zero
