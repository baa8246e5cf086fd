"""Exact one-dimensional k-means of weighted values: the K intervals of least squared error.

Clusters of an optimum are intervals of the sorted values, and the least error f(K) is convex in K since the
cost of an interval is concave Monge (Aggarwal, Schieber and Tokuyama 1994, "Finding a minimum-weight k-link path in
graphs with the concave Monge property"). So K need not be a dimension of the dynamic programme: with a price on
each cluster the best partition takes O(n log n) time and O(n) memory, and the price that makes it K
clusters is found by search. Where a price has several optima, with fewer and with more clusters than K, two
of them are joined (same paper, theorem 3.4). The table of the usual programme would be n * K (1 GB at 8 bits).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.kernels import compiled

_NARROW = 6  # clusters between two partitions, up to which the price is where both are as good
_LEAST = 1e-17  # of the sum of squares, a price below which errors are those of rounding
_STEPS = 200  # of the search for the price; about ten are needed
_BINS = 4096  # of equal counts, for the density of values
_POINTS = 32  # for each cluster, in a coarse problem that tells the price


@compiled
def running(values: Any, weights: Any) -> tuple[float, Any]:
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
    """What values first .. last - 1 add to the sum of w v^2 when each is replaced by their mean.

    Their squared error is the sum of w v^2 itself less that, so that gains alone tell partitions apart.
    """
    total = sums[1, last] - sums[1, first]
    return float(total * total / (sums[0, last] - sums[0, first]))


@compiled
def beats(sums: Any, start: int, value: float, rival: int, other: float, end: int) -> bool:
    """Whether it is better to begin the cluster up to `end` at `start`, of best cost `value`, than at `rival`."""
    return bool(value - gain(sums, start, end) < other - gain(sums, rival, end))


@compiled
def crossing(sums: Any, start: int, value: float, rival: int, other: float, low: int, high: int, down: bool) -> int:
    """The least end above low, up to high, from which on `start` beats the rival. It does not at low; it does at high,
    or high is past the last end. `down`: looks near high first, else near low."""
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
def priced(sums: Any, price: float, starts: Any, best: Any, queue: Any, until: Any) -> int:
    """Number of clusters of a partition with least cost plus `price` a cluster; of equals one with few.

    starts (n + 1,) int32 is filled: where the last cluster of the best partition of the first j values
    begins. best (n + 1,) fp64: its cost, less the sum of w v^2. queue and until (n + 1,) int32 are scratch.

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
        value = best[start] - gain(sums, start, end) + price
        best[end] = value
        if end == count:
            break
        # from which end on is it better to begin a cluster here? `first`, which moves down while rivals are beaten
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
    """Where clusters begin, and the end: (clusters + 1,) int64 ascending from 0."""
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
    middle, sums = running(values, weights)
    ends, _ = _partition(sums, clusters, _price(sums, clusters))
    total, weight = (np.diff(sums[power][ends]) for power in (1, 0))
    means: NDArray[np.float64] = total / weight + middle
    return means


@dataclass
class _Found:
    """The best partition at a price; error: less that of one cluster a value."""

    price: float
    count: int
    error: float
    edges: NDArray[np.int64]


def _price(sums: NDArray[np.float64], clusters: int) -> float:
    """What a cluster more is worth, or almost: found with few places where clusters may begin."""
    price, coarse = _smooth(sums, clusters)
    if 4 * clusters < coarse.shape[1] < sums.shape[1] // 3:  # far outliers draw all places to themselves
        _, price = _partition(coarse, clusters, price)
    return price


def _smooth(sums: NDArray[np.float64], clusters: int) -> tuple[float, NDArray[np.float64]]:
    """As if values had a smooth density p: what a cluster more is worth; sums at up to `_POINTS` places a cluster.

    The error is f(K) = (integral of p^(1/3))^3 / (12 K^2), and clusters are as wide as p^(-1/3).
    Panter and Dite 1951, "Quantization distortion in pulse-count modulation with nonuniform spacing of levels".
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


def _partition(sums: NDArray[np.float64], clusters: int, price: float) -> tuple[NDArray[np.int64], float]:
    """Edges of the best partition into that many clusters, and a price at which it is best."""
    size = sums.shape[1]
    starts = np.zeros(size, np.int32)
    best, queue, until = np.empty(size), np.empty(size, np.int32), np.empty(size, np.int32)
    low: _Found | None = None  # with more clusters
    high: _Found | None = None  # with fewer
    for step in range(_STEPS):
        count = priced(sums, price, starts, best, queue, until)
        here = _Found(price, count, float(best[-1]) - price * count, edges(starts, count))
        if count == clusters:
            return here.edges, price
        if count > clusters:
            low = here
        else:
            high = here
        if low is None and price < _LEAST * -here.error:  # nothing is left but rounding: all values by themselves
            low = _Found(0.0, size - 1, 0.0, np.arange(size))
            break
        if low is None or high is None:
            # the error falls with the square of the number, its slope with the cube; and a little further
            price *= (count / clusters) ** 3.3
            continue
        if high.price - low.price < 1e-13 * low.price:
            break
        more, fewer = low.count / clusters, clusters / high.count
        if low.count - high.count <= _NARROW and step % 4 != 3:
            # where both are as good, what lies between them is better: f is convex
            price = (high.error - low.error) / (low.count - high.count)
            price = min(max(price, low.price), high.price)
        else:
            share = 0.5 if step % 4 == 3 else min(max(np.log(more) / np.log(more * fewer), 0.02), 0.98)
            price = low.price * (high.price / low.price) ** share
    assert low is not None and high is not None
    return join(high.edges, low.edges, clusters), price
