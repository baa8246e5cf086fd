"""Loops over weights and candidate scales, compiled with numba: numpy would write and read an array for each.

They are compiled on first use, which takes about ten seconds, and cached on disk where a folder can be written. They
release the GIL, so that tensors are quantized in parallel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])
STEP = 4  # the number of weights of a group is a multiple of it
_BLOCK = 64  # weights summed in fp32 before they are added in fp64; a multiple of STEP
_LANES = 16  # fp32 numbers in the widest registers
_SAME = 2.0**-12  # scales with a smaller relative difference count as equal: half a step of fp16


def compiled(function: Function) -> Function:
    """Compile a function to machine code. A product and a sum may be rounded once, together (fused multiply-add)."""
    return machine_code(function, fastmath={"contract", "nsz"})


def machine_code(function: Function, **options: Any) -> Function:
    """Compile a function, cached on disk where that is possible; without options each operation rounds as written."""
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        code: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder for the cache can be written
        code = numba.njit(**options)(function)
    return code


@compiled
def factor(weight: Any, inverse: Any, low: Any, high: Any) -> Any:
    """The integer in low .. high that is nearest to weight * inverse, the inverse being that of the scale."""
    return min(max(np.rint(weight * inverse), low), high)


@compiled
def error_sums(row: Any, count: int, candidates: Any, sums: Any, parts: Any) -> None:
    """Fill sums (3, ..) fp64 with those of r^2, r f and f^2 over a group's weights, for the first `count` candidates.

    f is the factor of a weight w and r = w - scale f its error. row: the group (k,) fp32, k a multiple of STEP.
    candidates (4, ..) fp32: scales, their inverses, the least and the largest factors. parts (3, ..) fp32 is scratch.

    The inner loop runs over candidates: groups are as short as 9 weights, and each weight is read only once.
    """
    scales, inverses = candidates[0, :count], candidates[1, :count]
    lows, highs = candidates[2, :count], candidates[3, :count]
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
def least_squares(count: int, candidates: Any, sums: Any, errors: Any) -> None:
    """Replace the inverses of candidates by the scales of least squared error for the same factors.

    errors (..) fp64 is filled with the squared errors under these scales. sums: those of `error_sums`.
    """
    for index in range(count):
        power = sums[2, index]
        step = sums[1, index] / power if power > 0 else 0.0
        errors[index] = sums[0, index] - sums[1, index] * step if power > 0 else np.inf
        candidates[1, index] = candidates[0, index] + step


@compiled
def keep_best(count: int, candidates: Any, errors: Any, least: Any, best: Any, zeros: Any) -> None:
    """Insert a group's best candidates into best and zeros (kept,), by ascending error; least (kept,) fp64 is scratch.

    Of candidates with one zero point and almost equal scales the first is kept: they have the same factors. Unused
    places have a scale of 0.
    """
    least[:] = np.inf
    last = len(least) - 1
    for index in range(count):
        error = errors[index]
        if not error < least[last]:
            continue
        scale, zero = candidates[1, index], -candidates[2, index]
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
def append(candidates: Any, count: int, scale: Any, zero: Any, levels: Any) -> int:
    """Append a candidate whose scale and inverse are positive and finite, ignore others; returns the new count."""
    inverse = np.float32(1) / scale
    if not (scale > 0 and np.isfinite(scale) and np.isfinite(inverse)):
        return count
    zero = min(max(zero, np.float32(0)), levels)
    candidates[0, count], candidates[1, count] = scale, inverse
    candidates[2, count], candidates[3, count] = -zero, levels - zero
    return count + 1


@compiled
def pad(candidates: Any, count: int) -> int:
    """Repeat the last candidate up to a multiple of the width of registers; returns the new count."""
    full = count
    while count > 0 and full % _LANES:
        candidates[:, full] = candidates[:, count - 1]
        full += 1
    return full


@compiled
def best_scales(
    weights: Any, start: Any, ratios: Any, zeros: Any, levels: Any, splits: int, kept: int
) -> tuple[Any, Any]:
    """The best of a grid for each group: scales fp32 and zero points fp32, each (groups, kept), best first.

    weights (groups, k) fp32, k a multiple of STEP; the grid is start (groups,) fp32 times ratios (n,) fp32. With
    splits -1 the zero points are zeros (groups,); else they follow from scale and range, and where a scale is so
    small that factors must be clipped, the clipped ones are shared between the two tails in `splits` ways.
    Candidates are compared, and returned, with the scale that is best for their factors. Unused places have a scale
    of 0.
    """
    groups, most = len(weights), len(ratios) * (max(splits, 0) + 1) + _LANES
    best, best_zeros = np.zeros((groups, kept), np.float32), np.zeros((groups, kept), np.float32)
    candidates, parts = np.empty((4, most), np.float32), np.empty((3, most), np.float32)
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
                count = append(candidates, count, scale, zero, levels)
        error_sums(row, pad(candidates, count), candidates, sums, parts)
        least_squares(count, candidates, sums, errors)
        keep_best(count, candidates, errors, least, best[group], best_zeros[group])
    return best, best_zeros


@compiled
def best_of(weights: Any, scales: Any, zeros: Any, levels: Any, kept: int) -> tuple[Any, Any, Any, Any, Any]:
    """The least squared error (groups,) fp64 of candidate scales and zeros (groups, n), its scale and zero point.

    And, as `best_scales` returns them, the `kept` best candidates, each with the scale that is best for its factors.
    """
    groups, most = len(weights), scales.shape[1] + _LANES
    error = np.full(groups, np.inf)
    scale, zero = np.zeros(groups, np.float32), np.zeros(groups, np.float32)
    best, best_zeros = np.zeros((groups, kept), np.float32), np.zeros((groups, kept), np.float32)
    candidates, parts = np.empty((4, most), np.float32), np.empty((3, most), np.float32)
    sums, errors, least = np.empty((3, most)), np.empty(most), np.empty(kept)
    for group in range(groups):
        count = 0
        for index in range(scales.shape[1]):
            count = append(candidates, count, scales[group, index], zeros[group, index], levels)
        error_sums(weights[group], pad(candidates, count), candidates, sums, parts)
        for index in range(count):
            if sums[0, index] < error[group]:
                error[group], scale[group], zero[group] = sums[0, index], candidates[0, index], -candidates[2, index]
        least_squares(count, candidates, sums, errors)
        keep_best(count, candidates, errors, least, best[group], best_zeros[group])
    return error, scale, zero, best, best_zeros
