"""Exact one-dimensional k-means of weighted values: the K intervals of least squared error.

Clusters of an optimum are intervals of the sorted values, and the least error f(K) is convex in K since the
cost of an interval is concave Monge (Aggarwal, Schieber and Tokuyama 1994, "Finding a minimum-weight k-link path in
graphs with the concave Monge property"). So K need not be a dimension of the dynamic programme: with a price on
each cluster the best partition takes O(n log n) time and O(n) memory, and the price that makes it K
clusters is found by search. Where a price has several optima, with fewer and with more clusters than K, two
of them are joined (same paper, theorem 3.4). The table of the usual programme would be n * K (1 GB at 8 bits).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.compiled import compiled

_STEPS = 200  # of the search for the price; about ten are needed
_BINS = 512


@compiled
def cost(sums: Any, first: int, last: int) -> float:
    """Squared error of values first .. last - 1 about their mean; sums (3, n + 1): of weights, w v, w v^2."""
    total = sums[1, last] - sums[1, first]
    weight = sums[0, last] - sums[0, first]
    return float(sums[2, last] - sums[2, first] - total * total / weight)


@compiled
def priced(sums: Any, price: float, starts: Any, best: Any, queue: Any, until: Any) -> int:
    """Number of clusters of a partition with least cost plus `price` a cluster; of equals one with few.

    starts (n + 1,) int32 is filled: where the last cluster of the best partition of the first j values
    begins. best (n + 1,) fp64, queue and until (n + 1,) int32 are scratch.

    queue holds starts that are best for some end to come, each up to the end in `until`.
    """
    count = sums.shape[1] - 1
    best[0] = 0.0
    front, back = 0, 0
    queue[0], until[0] = 0, count
    for end in range(1, count + 1):
        while until[front] < end:
            front += 1
        start = queue[front]
        starts[end] = start
        best[end] = best[start] + cost(sums, start, end) + price
        if end == count:
            break
        # from which end on is it better to begin a cluster here?
        first = count + 1
        while back >= front:
            rival = queue[back]
            low = end + 1 if back == front else max(end + 1, until[back - 1] + 1)
            if best[end] + cost(sums, end, low) < best[rival] + cost(sums, rival, low):
                first = low
                back -= 1
                continue
            # worse at low, and better ever after some end up to until[back], or not
            high, step = until[back] + 1, 1
            while low + step < high:
                if best[end] + cost(sums, end, low + step) < best[rival] + cost(sums, rival, low + step):
                    high = low + step
                    break
                low += step
                step *= 2
            while high - low > 1:
                middle = (low + high) // 2
                if best[end] + cost(sums, end, middle) < best[rival] + cost(sums, rival, middle):
                    high = middle
                else:
                    low = middle
            until[back] = high - 1
            first = high
            break
        if first <= count:
            back += 1
            queue[back], until[back] = end, count
    clusters = 0
    end = count
    while end > 0:
        end = starts[end]
        clusters += 1
    return clusters


def edges(starts: NDArray[np.int32], clusters: int) -> NDArray[np.int64]:
    """Where clusters begin, and the end: (clusters + 1,) ascending from 0."""
    found = np.zeros(clusters + 1, np.int64)
    end = len(starts) - 1
    for place in range(clusters, 0, -1):
        found[place] = end
        end = starts[end]
    return found


def join(fewer: NDArray[np.int64], more: NDArray[np.int64], clusters: int) -> NDArray[np.int64]:
    """A partition of that many clusters from two of one price, edges each: the first part of one, the rest of
    the other, at an interval of `more` that lies within one of `fewer`."""
    skip = len(more) - 1 - clusters
    place = np.arange(len(fewer) - 1)
    nested = (fewer[:-1] <= more[place + skip]) & (more[place + skip + 1] <= fewer[1:])
    at = int(np.flatnonzero(nested)[0])
    return np.concatenate([fewer[: at + 1], more[at + skip + 1 :]])


def centres(values: NDArray[np.floating], weights: NDArray[np.integer], clusters: int) -> NDArray[np.float64]:
    """Means of the optimal clusters, ascending, float64.

    values (n,) ascending and distinct, weights (n,) above zero, n >= clusters.
    """
    if len(values) <= clusters:
        return values.astype(np.float64)
    middle = float(np.average(values, weights=weights))
    centred = values.astype(np.float64) - middle
    sums = np.zeros((3, len(values) + 1))
    for power in range(3):
        np.cumsum(weights * centred**power, out=sums[power, 1:])
    ends = _partition(sums, clusters, _first_price(centred, weights, clusters))
    total, weight = (np.diff(sums[power][ends]) for power in (1, 0))
    means: NDArray[np.float64] = total / weight + middle
    return means


def _first_price(values: NDArray[np.float64], weights: NDArray[np.integer], clusters: int) -> float:
    """What a cluster more is worth for a smooth density p: f(K) = (integral of p^(1/3))^3 / (12 K^2).

    Panter and Dite 1951, "Quantization distortion in pulse-count modulation with nonuniform spacing of levels".
    """
    counts, bins = np.histogram(values, _BINS, weights=weights)
    width = bins[1] - bins[0]
    spread = float((np.cbrt(counts / width) * width).sum()) ** 3
    return spread / (6 * clusters**3)


def _partition(sums: NDArray[np.float64], clusters: int, price: float) -> NDArray[np.int64]:
    """Edges of the best partition into that many clusters."""
    size = sums.shape[1]
    best, queue, until = np.empty(size), np.empty(size, np.int32), np.empty(size, np.int32)
    low = high = None  # (log of a price, log of how many clusters it makes, edges): with more, and with fewer
    for step in range(_STEPS):
        starts = np.zeros(size, np.int32)
        found = priced(sums, price, starts, best, queue, until)
        if found == clusters:
            return edges(starts, found)
        here = (np.log(price), np.log(found), edges(starts, found))
        if found > clusters:
            low = here
        else:
            high = here
        if low is None or high is None:
            # the error falls with the square of the number, its slope with the cube
            price *= (found / clusters) ** 3 * (1.1 if found > clusters else 0.9)
            continue
        if high[0] - low[0] < 1e-13 * max(1, abs(low[0])):
            break
        share = (low[1] - np.log(clusters)) / (low[1] - high[1])
        # halving now and then, for a search that crawls
        share = 0.5 if step % 4 == 3 else min(max(share, 0.02), 0.98)
        price = float(np.exp(low[0] + (high[0] - low[0]) * share))
    assert low is not None and high is not None
    return join(high[2], low[2], clusters)
