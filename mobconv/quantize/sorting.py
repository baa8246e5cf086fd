"""The sorted values of a tensor, and back from a table to codes: one pass each, where numpy's sort and search take most
of the time of k-means."""

from __future__ import annotations

from typing import Any

import numpy as np

from mobconv.quantize.kernels import compiled

_DIGIT = 11  # bits of a key, of which there are three digits
_FEW = 4096  # values up to here are sorted by numpy
_FEW_EDGES, _CELLS = 7, 8192


@compiled
def by_digits(values: Any) -> Any:
    """Values (n,) fp32 in ascending order: radix sort by their bits, the sign turned so that these ascend too."""
    keys, others = np.empty(len(values), np.uint32), np.empty(len(values), np.uint32)
    top, mask = np.uint32(1 << 31), np.uint32((1 << _DIGIT) - 1)
    places = np.zeros((3, 1 << _DIGIT), np.int64)
    given = values.view(np.uint32)
    for index in range(len(values)):
        bits = given[index]
        key = ~bits if bits & top else bits | top
        keys[index] = key
        for digit in range(3):
            places[digit, (key >> np.uint32(digit * _DIGIT)) & mask] += 1
    for digit in range(3):
        total = 0
        for place in range(1 << _DIGIT):
            count = places[digit, place]
            places[digit, place] = total
            total += count
        shift = np.uint32(digit * _DIGIT)
        for key in keys:
            value = (key >> shift) & mask
            others[places[digit, value]] = key
            places[digit, value] += 1
        keys, others = others, keys
    for index in range(len(values)):
        key = keys[index]
        keys[index] = key ^ top if key & top else ~key
    return keys.view(np.float32)


@compiled
def runs(ordered: Any) -> tuple[Any, Any]:
    """The distinct ones of values (n,) in ascending order, and how often each occurs, int64."""
    distinct, counts = np.empty_like(ordered), np.zeros(len(ordered), np.int64)
    last = -1
    for value in ordered:
        if last < 0 or value != distinct[last]:
            last += 1
            distinct[last] = value
        counts[last] += 1
    return distinct[: last + 1], counts[: last + 1]


def distinct(values: Any) -> tuple[Any, Any]:
    """What `np.unique` finds with counts, of values (n,) fp32 without NaN."""
    ordered = np.sort(values) if len(values) <= _FEW else by_digits(values)
    return runs(ordered)


@compiled
def cell(value: float, first: float, each: float) -> int:
    """The cell of a value, which does not descend where values ascend."""
    return int(min(max((value - first) * each, 0.0), _CELLS - 1.0))


@compiled
def codes(values: Any, edges: Any, found: Any) -> None:
    """How many of edges (m,) fp64, ascending, at most 255, lie below each of values (n,) fp32: into found (n,) uint8.

    Many: a table of cells of one width tells how many lie in lower cells, and the others are looked at one by one.
    """
    if len(edges) <= _FEW_EDGES:
        found[:] = 0
        for edge in edges:
            for index in range(len(values)):
                found[index] += np.uint8(values[index] > edge)
        return
    first, each = edges[0], _CELLS / (edges[-1] - edges[0])
    if not np.isfinite(each):
        each = 0.0
    lower = np.zeros(_CELLS + 1, np.uint8)
    for edge in edges:
        lower[cell(edge, first, each) + 1] += 1
    for index in range(1, _CELLS):
        lower[index] += lower[index - 1]
    for index in range(len(values)):
        value = values[index]
        code = int(lower[cell(value, first, each)])
        while code < len(edges) and edges[code] < value:
            code += 1
        found[index] = code
