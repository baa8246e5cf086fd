"""Loops over weights and candidate scales, compiled with numba: numpy would write and read an array for each.

Compiled on first use, about ten seconds, and kept on disk from then on where a folder can be written. The
GIL is released, so that tensors are quantized side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])
STEP = 4  # groups are a multiple of so many weights long
_BLOCK = 64  # weights summed in fp32 before they are added in fp64; a multiple of STEP
_LANES = 16  # fp32 numbers in the widest registers
_SAME = 2.0**-12  # scales relatively nearer than that are one: half a step of fp16


def compiled(function: Function) -> Function:
    """The function as machine code, in which a product and a sum may be rounded once, together."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
    try:
        made: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it
        made = numba.njit(**options)(function)
    return made


@compiled
def factor(weight: Any, inverse: Any, low: Any, high: Any) -> Any:
    """The integer within low .. high that is nearest to weight / scale."""
    return min(max(np.rint(weight * inverse), low), high)


@compiled
def measure(row: Any, count: int, given: Any, sums: Any, parts: Any) -> None:
    """Of a group (k,) fp32, k a multiple of STEP, at each of `count` candidates: three sums, into sums (3, ..) fp64.

    They are of r^2, r f and f^2 over the weights w, f being the factor and r = w - scale f what is left.
    given (4, ..) fp32: scales, their inverses, the least and the largest factors. parts (3, ..) fp32 is scratch.

    The inner loop runs over candidates: groups are as short as 9 weights, and a weight is read once for all.
    """
    scales, inverses, lows, highs = given[0, :count], given[1, :count], given[2, :count], given[3, :count]
    squares, slopes, powers = parts[0, :count], parts[1, :count], parts[2, :count]
    sums[:, :count] = 0
    for start in range(0, len(row), _BLOCK):
        parts[:, :count] = 0
        for place in range(start, min(start + _BLOCK, len(row)), STEP):
            a, b, c, d = row[place], row[place + 1], row[place + 2], row[place + 3]
            for index in range(count):
                scale, inverse, low, high = scales[index], inverses[index], lows[index], highs[index]
                fa, fb = factor(a, inverse, low, high), factor(b, inverse, low, high)
                fc, fd = factor(c, inverse, low, high), factor(d, inverse, low, high)
                ra, rb, rc, rd = a - scale * fa, b - scale * fb, c - scale * fc, d - scale * fd
                squares[index] += ra * ra + rb * rb + rc * rc + rd * rd
                slopes[index] += ra * fa + rb * fb + rc * fc + rd * fd
                powers[index] += fa * fa + fb * fb + fc * fc + fd * fd
        for index in range(count):
            sums[0, index] += squares[index]
            sums[1, index] += slopes[index]
            sums[2, index] += powers[index]


@compiled
def fitted(count: int, given: Any, sums: Any, errors: Any) -> None:
    """What `measure` found -> errors (..) fp64 with the scales best for the factors, by least squares; those scales."""
    for index in range(count):
        power = sums[2, index]
        step = sums[1, index] / power if power > 0 else 0.0
        errors[index] = sums[0, index] - sums[1, index] * step if power > 0 else np.inf
        given[1, index] = given[0, index] + step


@compiled
def rank(count: int, given: Any, errors: Any, least: Any, best: Any, zeros: Any) -> None:
    """The best candidates of a group into best and zeros (kept,), by ascending error; least (kept,) fp64 is scratch.

    Of those of one zero point and almost one scale only one is kept: they have the same factors. A scale of 0
    fills up.
    """
    least[:] = np.inf
    last = len(least) - 1
    for index in range(count):
        error = errors[index]
        if not error < least[last]:
            continue
        scale, zero = given[1, index], -given[2, index]
        known = False
        for place in range(len(least)):
            known |= abs(best[place] - scale) <= _SAME * scale and zeros[place] == zero
        if known:
            continue
        place = last
        while place > 0 and least[place - 1] > error:
            least[place], best[place], zeros[place] = least[place - 1], best[place - 1], zeros[place - 1]
            place -= 1
        least[place], best[place], zeros[place] = error, scale, zero


@compiled
def put(given: Any, count: int, scale: Any, zero: Any, levels: Any) -> int:
    """One more candidate, where its scale is a number that can be worked with: how many they are then."""
    inverse = np.float32(1) / scale
    if not (scale > 0 and np.isfinite(scale) and np.isfinite(inverse)):
        return count
    zero = min(max(zero, np.float32(0)), levels)
    given[0, count], given[1, count], given[2, count], given[3, count] = scale, inverse, -zero, levels - zero
    return count + 1


@compiled
def fill(given: Any, count: int) -> int:
    """A multiple of the width of registers: the last candidate again."""
    full = count
    while count > 0 and full % _LANES:
        given[:, full] = given[:, count - 1]
        full += 1
    return full


@compiled
def best_scales(
    weights: Any, start: Any, ratios: Any, zeros: Any, levels: Any, splits: int, kept: int
) -> tuple[Any, Any]:
    """The best of a grid for each group: scales fp32 and zero points fp32, each (groups, kept), best first.

    weights (groups, k) fp32, k a multiple of STEP; the grid is start (groups,) fp32 times ratios (n,) fp32. With
    splits -1 the zero points are zeros (groups,); else those that follow from scale and range, and where a scale is so
    small that factors must be clipped, the clipped ones are shared between the two tails in `splits` ways.
    Candidates are compared, and returned, with the scale that is best for their factors. A scale of 0 fills up.
    """
    groups, most = len(weights), len(ratios) * (max(splits, 0) + 1) + _LANES
    best, found = np.zeros((groups, kept), np.float32), np.zeros((groups, kept), np.float32)
    given, parts = np.empty((4, most), np.float32), np.empty((3, most), np.float32)
    sums, errors, least = np.empty((3, most)), np.empty(most), np.empty(kept)
    for group in range(groups):
        row = weights[group]
        smallest, largest = np.float32(0), np.float32(0)
        for value in row:
            smallest, largest = min(smallest, value), max(largest, value)
        count = 0
        for ratio in ratios:
            scale = start[group] * ratio
            first, clipped, shares = zeros[group], np.float32(0), 0
            if splits >= 0:
                first = -np.rint(smallest / scale)
                clipped = max(np.rint(largest / scale) + first - levels, np.float32(0))
                shares = min(splits, int(clipped))
            for share in range(shares + 1):
                zero = first - np.rint(clipped * np.float32(share) / np.float32(max(1, shares)))
                count = put(given, count, scale, zero, levels)
        measure(row, fill(given, count), given, sums, parts)
        fitted(count, given, sums, errors)
        rank(count, given, errors, least, best[group], found[group])
    return best, found


@compiled
def best_of(weights: Any, scales: Any, zeros: Any, levels: Any, kept: int) -> tuple[Any, Any, Any, Any, Any]:
    """Of candidates scales and zeros (groups, n): the least error fp64, its scale and zero point (groups,).

    And the `kept` best when each has the scale that is best for its factors: as `best_scales`.
    """
    groups, most = len(weights), scales.shape[1] + _LANES
    error = np.full(groups, np.inf)
    scale, zero = np.zeros(groups, np.float32), np.zeros(groups, np.float32)
    best, found = np.zeros((groups, kept), np.float32), np.zeros((groups, kept), np.float32)
    given, parts = np.empty((4, most), np.float32), np.empty((3, most), np.float32)
    sums, errors, least = np.empty((3, most)), np.empty(most), np.empty(kept)
    for group in range(groups):
        count = 0
        for index in range(scales.shape[1]):
            count = put(given, count, scales[group, index], zeros[group, index], levels)
        measure(weights[group], fill(given, count), given, sums, parts)
        for index in range(count):
            if sums[0, index] < error[group]:
                error[group], scale[group], zero[group] = sums[0, index], given[0, index], -given[2, index]
        fitted(count, given, sums, errors)
        rank(count, given, errors, least, best[group], found[group])
    return error, scale, zero, best, found
