"""How sure a score is, and a difference of two scores: paired where both sides have scores of the same samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mobconv.stats.paired import difference, of_resamples

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """How much worse one side is than the other, in the metric's unit; negative where it is better.

    low, high  95 % interval; NaN where nothing gives one
    p          two-sided: see `stats.paired` where paired, else Fisher's exact test; NaN where nothing gives one
    paired     whether sample by sample; else from the two counts alone, which gives the wider interval
    """

    loss: float
    low: float
    high: float
    p: float
    paired: bool

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return not math.isnan(self.low)

    @property
    def within_noise(self) -> bool:
        """Whether the interval contains 0; False where there is none."""
        return self.low <= 0 <= self.high


def without_interval(loss: float) -> Estimate:
    """A loss that nothing gives an interval: of a metric that is not a share, without scores of samples."""
    return Estimate(loss, math.nan, math.nan, math.nan, paired=False)


def wilson(share: float, samples: int) -> tuple[float, float]:
    """95 % interval of a share (0 to 1) counted on `samples` samples (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(_count(share, samples), samples).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


@lru_cache(maxsize=4096)
def unpaired_shares(before: float, after: float, samples_before: int, samples_after: int) -> Estimate:
    """How much lower the share `after` is than `before` (each 0 to 1), in points of 100, on independent samples.

    Source: Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.
    """
    from scipy.stats import fisher_exact

    (low1, high1), (low2, high2) = wilson(before, samples_before), wilson(after, samples_after)
    gap = before - after
    low = gap - np.hypot(before - low1, high2 - after)
    high = gap + np.hypot(high1 - before, after - low2)
    right = _count(before, samples_before), _count(after, samples_after)
    p = fisher_exact([[right[0], samples_before - right[0]], [right[1], samples_after - right[1]]]).pvalue
    return Estimate(round(gap * 100, 9), float(low) * 100, float(high) * 100, float(p), paired=False)


class PairedScores:
    """Differences of scores of the same samples; equal ones, as of formats with the same weights, are drawn once."""

    def __init__(
        self, groups: NDArray[np.int64] | None = None, higher_is_better: bool = True, resamples: int = 0
    ) -> None:
        """groups: (N,), as in scores.npz; resamples: of a metric that is not a mean, see Metric."""
        self.groups, self.higher_is_better, self.resamples = groups, higher_is_better, resamples
        self._estimates: dict[tuple[bytes, bytes], Estimate] = {}

    def __call__(self, before: Scores, after: Scores) -> Estimate:
        """Compare scores (N,), or of resamples; see mobconv.stats.paired."""
        key = before.tobytes(), after.tobytes()
        if key not in self._estimates:
            if self.resamples:
                lost = of_resamples(before, after, self.groups, self.higher_is_better)
            else:
                lost = difference(before, after, self.groups, self.higher_is_better)
            self._estimates[key] = Estimate(lost.loss, lost.low, lost.high, lost.p, paired=True)
        return self._estimates[key]


def _count(share: float, samples: int) -> int:
    return min(max(round(share * samples), 0), samples)
