"""Exact one-dimensional k-means of weighted values: the K intervals of least squared error.

The clusters of an optimum are intervals of the sorted values, and the least error f(K) is convex in K, since the cost
of an interval is concave Monge (Aggarwal, Schieber and Tokuyama 1994, "Finding a minimum-weight k-link path in graphs
with the concave Monge property"). So K need not be a dimension of the dynamic programme: with a price on each cluster
the best partition takes O(n log n) time and O(n) memory, and a search finds the price at which it has K clusters.
Where a price has several optima, with fewer and with more clusters than K, two of them are joined (same paper,
theorem 3.4). The table of the usual programme would have n * K entries (1 GB at 8 bits).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.kernels import compiled

_NARROW = 6  # difference in clusters up to which the next price is the one at which two partitions cost the same
_LEAST = 1e-17  # of the sum of squares: at a lower price, errors are those of rounding
_STEPS = 200  # limit on the search for the price; it takes about ten
_BINS = 4096  # of equal counts, for the density of values
_POINTS = 32  # places a cluster in the coarse problem that estimates the price


@compiled
def running_sums(values: Any, weights: Any) -> tuple[float, Any]:
    """The mean of weighted values (n,), and running sums (2, n + 1) fp64 of weights w and of w (v - mean)."""
    total, mean = 0.0, 0.0
    for index in range(len(values)):
        total += weights[index]
        mean += weights[index] * float(values[index])
    mean /= total
    sums = np.zeros((2, len(values) + 1))
    for index in range(len(values)):
        sums[0, index + 1] = sums[0, index] + weights[index]
        sums[1, index + 1] = sums[1, index] + weights[index] * (float(values[index]) - mean)
    return mean, sums


@compiled
def gain(sums: Any, first: int, last: int) -> float:
    """The sum of w m^2 over values first .. last - 1, m being their mean less the mean of all.

    Their squared error is the sum of w v^2 less this gain (v: values less the mean of all), so that partitions are
    compared by gains alone.
    """
    total = sums[1, last] - sums[1, first]
    return float(total * total / (sums[0, last] - sums[0, first]))


@compiled
def beats(sums: Any, start: int, value: float, rival: int, other: float, end: int) -> bool:
    """Whether the first `end` values cost less with a last cluster that begins at `start` than at `rival`.

    value and other: the least costs of the values before `start` and before `rival`.
    """
    return bool(value - gain(sums, start, end) < other - gain(sums, rival, end))


@compiled
def crossing(sums: Any, start: int, value: float, rival: int, other: float, low: int, high: int, down: bool) -> int:
    """The least end in low + 1 .. high from which on `start` beats the rival, by galloping and bisection.

    It does not beat it at low; it does at high, or high is past the last end. down: gallop from high, else from low.
    """
    step = 1
    while high - low > step:
        middle = high - step if down else low + step
        if beats(sums, start, value, rival, other, middle):
            high = middle
            if not down:
                break
        else:
            low = middle
            if down:
                break
        step *= 2
    while high - low > 1:
        middle = (low + high) // 2
        if beats(sums, start, value, rival, other, middle):
            high = middle
        else:
            low = middle
    return high


@compiled
def cheapest(sums: Any, price: float, starts: Any, best: Any, queue: Any, until: Any) -> int:
    """Number of clusters of a partition with the least error plus `price` a cluster; among equals, one with few.

    For each j, starts[j] is set to the start of the last cluster of the best partition of the first j values, and
    best[j] to its cost less the sum of w v^2: starts (n + 1,) int32, best (n + 1,) fp64. queue and until (n + 1,)
    int32 are scratch: starts that are best for some later end, each up to the end in `until`.
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
        value = best[start] - gain(sums, start, end) + price
        best[end] = value
        if end == count:
            break
        # `first`: the end from which on it is better to begin a cluster here; it falls while rivals are beaten
        first = count + 1
        while back >= front:
            rival = queue[back]
            low = end + 1 if back == front else until[back - 1] + 1
            if not beats(sums, end, value, rival, best[rival], low):
                first = crossing(sums, end, value, rival, best[rival], low, until[back] + 1, first <= count)
                until[back] = first - 1
                break
            first = low
            back -= 1
        if first <= count:
            back += 1
            queue[back], until[back] = end, count
    clusters = 0
    end = count
    while end > 0:
        end = starts[end]
        clusters += 1
    return clusters


@compiled
def edges(starts: Any, clusters: int) -> Any:
    """Starts of the clusters of the partition in `starts`, then its end: (clusters + 1,) int64 ascending from 0."""
    ascending = np.zeros(clusters + 1, np.int64)
    end = len(starts) - 1
    for place in range(clusters, 0, -1):
        ascending[place] = end
        end = starts[end]
    return ascending


def join(fewer: NDArray[np.int64], more: NDArray[np.int64], clusters: int) -> NDArray[np.int64]:
    """Edges of an optimal partition into `clusters`, from edges of two optima of one price with fewer and with more.

    It is the first part of one and the rest of the other, joined where an interval of `more` is inside one of `fewer`.
    """
    skip = len(more) - 1 - clusters
    place = np.arange(len(fewer) - 1)
    nested = (fewer[:-1] <= more[place + skip]) & (more[place + skip + 1] <= fewer[1:])
    at = int(np.flatnonzero(nested)[0])
    return np.concatenate([fewer[: at + 1], more[at + skip + 1 :]])


def centres(values: NDArray[np.floating], weights: NDArray[np.integer], clusters: int) -> NDArray[np.float64]:
    """Means (clusters,) of the optimal clusters, ascending, float64; the values themselves where they are fewer.

    values (n,) ascending and distinct; weights (n,) above zero.
    """
    if len(values) <= clusters:
        return values.astype(np.float64)
    mean, sums = running_sums(values, weights)
    ends, _ = _best_partition(sums, clusters, _price(sums, clusters))
    total, weight = (np.diff(sums[power][ends]) for power in (1, 0))
    means: NDArray[np.float64] = total / weight + mean
    return means


@dataclass
class _Partition:
    """The best partition at a price.

    error: the squared error less the sum of w v^2; edges: as of `edges`, (count + 1,)
    """

    price: float
    count: int
    error: float
    edges: NDArray[np.int64]


def _price(sums: NDArray[np.float64], clusters: int) -> float:
    """An estimate of the decrease in error by one more cluster, from a problem with few places for edges."""
    price, coarse = _smooth(sums, clusters)
    if 4 * clusters < coarse.shape[1] < sums.shape[1] // 3:  # far outliers attract all places
        _, price = _best_partition(coarse, clusters, price)
    return price


def _smooth(sums: NDArray[np.float64], clusters: int) -> tuple[float, NDArray[np.float64]]:
    """The decrease in error by one more cluster if values had a smooth density p; sums at `_POINTS` places a cluster.

    The error is then f(K) = (integral of p^(1/3))^3 / (12 K^2), and the width of a cluster is proportional to
    p^(-1/3): Panter and Dite 1951, "Quantization distortion in pulse-count modulation with nonuniform spacing of
    levels".
    """
    count = sums.shape[1] - 1
    ends = np.linspace(0, count, min(count, _BINS) + 1).astype(np.int64)
    weight, total = (np.diff(part[ends]) for part in sums)
    parts = np.cbrt(weight * np.gradient(total / weight) ** 2)
    along = np.concatenate([[0.0], np.cumsum(parts)])
    places = np.interp(np.linspace(0, along[-1], _POINTS * clusters + 1), along, ends)
    places = np.rint(places).astype(np.int64)
    coarse = np.take(sums, places[np.diff(places, append=-1) != 0], axis=1)
    return float(along[-1]) ** 3 / (6 * clusters**3), coarse


def _best_partition(sums: NDArray[np.float64], clusters: int, price: float) -> tuple[NDArray[np.int64], float]:
    """Edges of the best partition into `clusters`, and a price at which it is best; price: where the search begins."""
    size = sums.shape[1]
    starts = np.zeros(size, np.int32)
    best, queue, until = np.empty(size), np.empty(size, np.int32), np.empty(size, np.int32)
    low: _Partition | None = None  # with more clusters
    high: _Partition | None = None  # with fewer
    for step in range(_STEPS):
        count = cheapest(sums, price, starts, best, queue, until)
        here = _Partition(price, count, float(best[-1]) - price * count, edges(starts, count))
        if count == clusters:
            return here.edges, price
        if count > clusters:
            low = here
        else:
            high = here
        if low is None and price < _LEAST * -here.error:  # only rounding errors remain: each value is a cluster
            low = _Partition(0.0, size - 1, 0.0, np.arange(size))
            break
        if low is None or high is None:
            # error falls with the square of the number of clusters, its slope with the cube; go a little further
            price *= (count / clusters) ** 3.3
            continue
        if high.price - low.price < 1e-13 * low.price:
            break
        more, fewer = low.count / clusters, clusters / high.count
        if low.count - high.count <= _NARROW and step % 4 != 3:
            # at the price where both cost the same, partitions between them cost no more: f is convex
            price = (high.error - low.error) / (low.count - high.count)
            price = min(max(price, low.price), high.price)
        else:
            share = 0.5 if step % 4 == 3 else min(max(np.log(more) / np.log(more * fewer), 0.02), 0.98)
            price = low.price * (high.price / low.price) ** share
    assert low is not None and high is not None
    return join(high.edges, low.edges, clusters), price
