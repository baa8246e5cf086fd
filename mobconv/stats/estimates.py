"""How sure a top-1 is, and a difference of two: paired where both sides predicted the same images, else not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mobconv.stats.paired import difference

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Estimate:
    """Points of top-1 that one side is below the other: above 0 is a loss.

    low, high  95 % interval
    p          two-sided: McNemar's exact test where paired, else Fisher's
    paired     whether image by image; else from the two counts alone, which is the wider of the two
    """

    points: float
    low: float
    high: float
    p: float
    paired: bool

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high


def wilson(top1: float, images: int) -> tuple[float, float]:
    """95 % interval of a fraction counted on so many images, as fractions (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(_right(top1, images), images).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


@lru_cache(maxsize=4096)
def unpaired(before: float, after: float, images_before: int, images_after: int) -> Estimate:
    """Two top-1 (fractions), each of its own images, taken as independent.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.
    """
    from scipy.stats import fisher_exact

    (low1, high1), (low2, high2) = wilson(before, images_before), wilson(after, images_after)
    gap = before - after
    low = gap - np.hypot(before - low1, high2 - after)
    high = gap + np.hypot(high1 - before, after - low2)
    right = _right(before, images_before), _right(after, images_after)
    p = fisher_exact([[right[0], images_before - right[0]], [right[1], images_after - right[1]]]).pvalue
    return Estimate(round(gap * 100, 9), float(low) * 100, float(high) * 100, float(p), paired=False)


class Pairs:
    """Differences of predictions of the same images; equal ones, as of backends of the same weights, are drawn once."""

    def __init__(self, labels: Ints, groups: Ints | None = None) -> None:
        """labels, groups: (N,), as in predictions.npz."""
        self.labels, self.groups = labels, groups
        self._known: dict[tuple[bytes, bytes], Estimate] = {}

    def __call__(self, before: Ints, after: Ints) -> Estimate:
        """Compare predicted classes (N,); see mobconv.paired."""
        one, other = before == self.labels, after == self.labels
        key = one.tobytes(), other.tobytes()
        if key not in self._known:
            found = difference(before, after, self.labels, self.groups)
            self._known[key] = Estimate(round(found.points, 9), found.low, found.high, found.p, paired=True)
        return self._known[key]


def _right(top1: float, images: int) -> int:
    return min(max(round(top1 * images), 0), images)
