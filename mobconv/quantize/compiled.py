"""Loops over weights and candidate scales, compiled with numba: numpy would write and read an array for each.

Compiled on first use, a few seconds, and kept on disk from then on where a folder can be written. The
GIL is released, so that tensors are quantized side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])
_BLOCK = 128  # weights summed in fp32 before they are added in fp64


def compiled(function: Function) -> Function:
    """The function as machine code; sums may be taken in any order, which lets them use the whole register."""
    options: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}
    try:
        made: Function = numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it
        made = numba.njit(**options)(function)
    return made


@compiled
def group_error(row: Any, scale: Any, low: Any, high: Any, limit: float) -> Any:
    """Squared error of one group (k,) at a scale, factors within low .. high; stops once above `limit`."""
    inverse = np.float32(1) / scale
    total: Any = 0.0
    for start in range(0, len(row), _BLOCK):
        part = np.float32(0)
        for index in range(start, min(start + _BLOCK, len(row))):  # by index: slices keep LLVM from vectorizing
            factor = min(max(np.rint(row[index] * inverse), low), high)
            difference = row[index] - scale * factor
            part += difference * difference
        total += part
        if total > limit:
            break
    return total


@compiled
def keep(errors: Any, scales: Any, zeros: Any, error: float, scale: Any, zero: Any) -> None:
    """Put a candidate into the best of a group, three arrays (kept,) by ascending error, if it belongs there."""
    if not error < errors[-1]:
        return
    for place in range(len(errors)):
        if scales[place] == scale and zeros[place] == zero:
            return
    place = len(errors) - 1
    while place > 0 and errors[place - 1] > error:
        errors[place], scales[place], zeros[place] = errors[place - 1], scales[place - 1], zeros[place - 1]
        place -= 1
    errors[place], scales[place], zeros[place] = error, scale, zero


@compiled
def best_scales(weights: Any, scales: Any, zeros: Any, levels: Any, splits: int, kept: int) -> tuple[Any, Any, Any]:
    """The best of a grid for each group: errors fp64, scales fp32, zero points fp32, each (groups, kept).

    weights (groups, k) fp32; scales (groups, candidates) fp32, of which those that are not above zero are
    passed over. The first candidate of a group has the zero point in zeros (groups,). With splits >= 0 the
    others have those that follow from the group's range; where a scale is so small that factors must be
    clipped, the clipped ones are shared between the two tails in `splits` ways. With splits -1 all have
    the zero point in zeros.
    """
    groups = len(weights)
    errors = np.full((groups, kept), np.inf)
    best, at = np.zeros((groups, kept), np.float32), np.zeros((groups, kept), np.float32)
    for group in range(groups):
        row, least, scale_of, zero_of = weights[group], errors[group], best[group], at[group]
        smallest, largest = np.float32(0), np.float32(0)
        for value in row:
            smallest, largest = min(smallest, value), max(largest, value)
        for index in range(scales.shape[1]):
            scale = scales[group, index]
            if not (scale > 0 and np.isfinite(scale)):
                continue
            first = zeros[group]
            clipped, shares = np.float32(0), 0
            if splits >= 0 and index > 0:
                first = -np.rint(smallest / scale)
                clipped = max(np.rint(largest / scale) + first - levels, np.float32(0))
                shares = min(splits, int(clipped))
            for share in range(shares + 1):
                zero = first - np.rint(clipped * np.float32(share) / np.float32(max(1, shares)))
                zero = min(max(zero, np.float32(0)), levels)
                error = group_error(row, scale, -zero, levels - zero, least[-1])
                keep(least, scale_of, zero_of, error, scale, zero)
    return errors, best, at


@compiled
def best_of(weights: Any, scales: Any, zeros: Any, levels: Any) -> tuple[Any, Any]:
    """Scale and zero point (groups,) of least error among scales and zeros (groups, candidates)."""
    groups, count = scales.shape
    best, at = np.zeros(groups, np.float32), np.zeros(groups, np.float32)
    for group in range(groups):
        least = np.inf
        for index in range(count):
            scale, zero = scales[group, index], min(max(zeros[group, index], np.float32(0)), levels)
            if not (scale > 0 and np.isfinite(scale)):
                continue
            error = group_error(weights[group], scale, -zero, levels - zero, least)
            if error < least:
                least, best[group], at[group] = error, scale, zero
    return best, at


@compiled
def fitted(weights: Any, scales: Any, zeros: Any, levels: Any) -> Any:
    """Least-squares scales fp64 (groups, candidates) for the factors that scales and zeros choose; 0 for none."""
    groups, count = scales.shape
    found = np.zeros((groups, count))
    for group in range(groups):
        row = weights[group]
        for index in range(count):
            scale, low = scales[group, index], -zeros[group, index]
            high = levels + low
            inverse = np.float32(1) / scale
            above: Any = 0.0
            below: Any = 0.0
            for start in range(0, len(row), _BLOCK):
                part, square = np.float32(0), np.float32(0)
                for place in range(start, min(start + _BLOCK, len(row))):
                    factor = min(max(np.rint(row[place] * inverse), low), high)
                    part += row[place] * factor
                    square += factor * factor
                above += part
                below += square
            if below > 0:
                found[group, index] = above / below
    return found
