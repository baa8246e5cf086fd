"""Exact one-dimensional k-means in numpy, by two methods that share no code with the quantizer's solver.

The clusters of an optimum in one dimension are intervals; the error of one is sum w v^2 - (sum w v)^2 / sum w. So
the best partition of the first j values into k clusters is the best, over i, of the first i into k - 1 and one
cluster i .. j - 1.
"""

import numpy as np


def intervals(values, weights):
    """(i, j) -> squared error of values i .. j - 1 about their mean, arrays of i and j together."""
    centred = np.asarray(values, np.float64) - np.average(values, weights=weights)
    zeroth, first, second = (np.concatenate([[0], np.cumsum(weights * centred**power)]) for power in range(3))

    def cost(i, j):
        weight = np.maximum(zeroth[j] - zeroth[i], 1e-300)  # an empty interval costs nothing
        return np.maximum(second[j] - second[i] - (first[j] - first[i]) ** 2 / weight, 0.0)

    return cost


def every_split(values, weights, clusters):
    """Least squared error, every i tried for every j: O(k n^2). values (n,) ascending."""
    count = len(values)
    cost = intervals(values, weights)
    i, j = np.meshgrid(np.arange(count + 1), np.arange(count + 1), indexing="ij")
    table = np.where(i <= j, cost(np.minimum(i, j), j), np.inf)
    best = table[0]
    for _ in range(1, clusters):
        best = (best[:, None] + table).min(axis=0)
    return float(best[count])


def divide_and_conquer(values, weights, clusters):
    """Least squared error in O(k n log n): the best i does not fall when j grows, so the best i of a middle j halves
    the search for all other j. One level of halvings at a time, in arrays. values (n,) ascending."""
    count = len(values)
    cost = intervals(values, weights)
    best = cost(np.zeros(count + 1, np.int64), np.arange(count + 1))
    for _ in range(1, clusters):
        best = _one_more(best, cost, count)
    return float(best[count])


def _one_more(best, cost, count):
    """Least errors of the first j = 0 .. count values with one more cluster."""
    errors = np.empty(count + 1)
    first, last = np.array([0]), np.array([count])  # of j in each part
    low, high = np.array([0]), np.array([count])  # of the i to try in it
    while len(first):
        j = (first + last) // 2
        top = np.minimum(high, j)
        tried = top - low + 1
        start = np.concatenate([[0], np.cumsum(tried)[:-1]])
        part = np.repeat(np.arange(len(j)), tried)
        i = low[part] + np.arange(len(part)) - start[part]
        tried_errors = best[i] + cost(i, j[part])
        least = np.minimum.reduceat(tried_errors, start)
        errors[j] = least
        hits = np.flatnonzero(tried_errors == least[part])
        chosen = i[hits[np.searchsorted(hits, start)]]  # the first of each part
        first, last = np.concatenate([first, j + 1]), np.concatenate([j - 1, last])
        low, high = np.concatenate([low, chosen]), np.concatenate([chosen, high])
        kept = first <= last
        first, last, low, high = first[kept], last[kept], low[kept], high[kept]
    return errors
