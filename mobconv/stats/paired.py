"""How sure a difference of two accuracies on the same images is: paired bootstrap and McNemar's test.

Both look at the images that one side gets right and the other wrong; all others say nothing about the difference.
Images of one scan (patient, scene) err together, so the bootstrap draws groups where the data names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 10_000
_SEED = 0  # the same predictions give the same interval


@dataclass(frozen=True)
class Difference:
    """Points of top-1 that `after` is below `before`: above 0 is a loss.

    points     of the images at hand
    low, high  95 % interval, percentile bootstrap over images or groups of them
    p          McNemar's exact test, two-sided: of so uneven a split of the images that changed, if neither were better
    lost, won  images that only `before`, only `after` gets right
    groups     independent groups that were drawn from; images where the data names none
    """

    points: float
    low: float
    high: float
    p: float
    lost: int
    won: int
    groups: int

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high


def difference(
    before: NDArray[np.int64],
    after: NDArray[np.int64],
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None = None,
) -> Difference:
    """Compare predicted classes (N,) with labels (N,); groups (N,) as data.Images has them.

    Sources: Efron and Tibshirani 1993, ch. 13 (percentile interval); Field and Welsh 2007 (drawing clusters);
    McNemar 1947, in its exact binomial form.
    """
    from scipy.stats import binomtest

    change = (before == labels).astype(np.int64) - (after == labels)
    lost, won = int((change > 0).sum()), int((change < 0).sum())
    p = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    total = float(change.mean() * 100)
    if groups is None:
        sums, sizes = change, np.ones_like(change)
    else:
        numbers = np.unique(groups, return_inverse=True)[1]
        sums, sizes = np.bincount(numbers, change).astype(np.int64), np.bincount(numbers)
    if lost + won == 0:
        return Difference(total, 0.0, 0.0, p, lost, won, len(sums))
    means = _means(sums, sizes)
    low, high = np.percentile(means, [2.5, 97.5]) * 100
    return Difference(total, float(low), float(high), p, lost, won, len(sums))


def _means(sums: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means of as many groups as there are, drawn with replacement, again and again.

    Groups that are alike in sum and size are drawn as one kind, so that a round is one multinomial draw of few
    numbers.
    """
    kinds, counts = np.unique(np.stack([sums, sizes]), axis=1, return_counts=True)
    drawn = np.random.default_rng(_SEED).multinomial(len(sums), counts / len(sums), size=_ROUNDS)
    return np.asarray((drawn @ kinds[0]) / (drawn @ kinds[1]), np.float64)


def holm(values: Sequence[float]) -> list[float]:
    """p values of a family of tests, adjusted so that each may be held against 5 % (Holm 1979)."""
    order = np.argsort(values)
    found, largest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, float(values[index]) * (len(values) - place)))
        found[int(index)] = largest
    return found
