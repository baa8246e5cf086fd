"""Distinct values of a tensor in order, and codes by a table's edges: a few passes each.

With numpy's sort and search these take most of the time of k-means.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mobconv.quantize.kernels import compiled

_DIGIT = 11  # bits; a key of 32 bits has three digits
_FEW = 4096  # values up to here are sorted by numpy
_FEW_EDGES, _BUCKETS = 7, 8192


@compiled
def by_digits(values: Any) -> Any:
    """Values (n,) fp32 in ascending order: radix sort by bits, which are mapped so that they ascend with the values."""
    keys, others = np.empty(len(values), np.uint32), np.empty(len(values), np.uint32)
    top, mask = np.uint32(1 << 31), np.uint32((1 << _DIGIT) - 1)
    places = np.zeros((3, 1 << _DIGIT), np.int64)
    patterns = values.view(np.uint32)
    for index in range(len(values)):
        bits = patterns[index]
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
    """The distinct values of (n,) ascending ones, and the number of times that each occurs, int64."""
    distinct, counts = np.empty_like(ordered), np.zeros(len(ordered), np.int64)
    last = -1
    for value in ordered:
        if last < 0 or value != distinct[last]:
            last += 1
            distinct[last] = value
        counts[last] += 1
    return distinct[: last + 1], counts[: last + 1]


def distinct(values: Any) -> tuple[Any, Any]:
    """Distinct values and their counts, as of `np.unique`, of values (n,) fp32 without NaN."""
    ordered = np.sort(values) if len(values) <= _FEW else by_digits(values)
    return runs(ordered)


@compiled
def bucket(value: float, first: float, per_unit: float) -> int:
    """Index of the bucket of a value; it never decreases as values ascend."""
    return int(min(max((value - first) * per_unit, 0.0), _BUCKETS - 1.0))


@compiled
def count_lower(values: Any, edges: Any, codes: Any) -> None:
    """Set codes (n,) uint8 to the number of edges (m,) fp64 that are lower than each of values (n,) fp32.

    edges: ascending, at most 255. Where they are many, a table of buckets of one width has the number of edges in lower
    buckets, and edges in the value's own bucket are compared one by one.
    """
    if len(edges) <= _FEW_EDGES:
        codes[:] = 0
        for edge in edges:
            for index in range(len(values)):
                codes[index] += np.uint8(values[index] > edge)
        return
    first, per_unit = edges[0], _BUCKETS / (edges[-1] - edges[0])
    if not np.isfinite(per_unit):
        per_unit = 0.0
    lower = np.zeros(_BUCKETS + 1, np.uint8)
    for edge in edges:
        lower[bucket(edge, first, per_unit) + 1] += 1
    for index in range(1, _BUCKETS):
        lower[index] += lower[index - 1]
    for index in range(len(values)):
        value = values[index]
        code = int(lower[bucket(value, first, per_unit)])
        while code < len(edges) and edges[code] < value:
            code += 1
        codes[index] = code
