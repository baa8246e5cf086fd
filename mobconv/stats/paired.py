"""Paired comparison of two lists of scores of the same samples: how much is lost, and how sure that is.

Only samples whose score changed say anything about the difference. Samples of one group (the images of one scan,
patient or scene) err together, so the bootstrap draws whole groups where the data names them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 10_000
_SEED = 0  # the same scores give the same interval
_AT_A_TIME = 1 << 18  # numbers that a part of the bootstrap has in memory: few enough for the processor's cache
_KINDS = 512


@dataclass(frozen=True)
class Difference:
    """How much worse `after` is than `before`, in the metric's unit; negative where it is better.

    loss       of the samples at hand
    low, high  95 % interval of it, percentile bootstrap over samples or groups of them
    p          two-sided: McNemar's exact test where a sample is right or wrong, else a sign-flip permutation test; of a
               metric that is not a mean, twice the share of resamples on the other side of 0
    worse, better  samples whose score is worse, or better, in `after`; of a metric that is not a mean, resamples
    groups     independent groups that were drawn; the number of samples where the data names none, or 0 for a metric
               that is not a mean
    """

    loss: float
    low: float
    high: float
    p: float
    worse: int
    better: int
    groups: int

    @property
    def within_noise(self) -> bool:
        """Whether the interval contains 0."""
        return self.low <= 0 <= self.high

    @property
    def changed(self) -> bool:
        """Whether any sample has another score."""
        return self.worse + self.better > 0


def of_resamples(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    groups: NDArray[np.int64] | None = None,
    higher_is_better: bool = True,
) -> Difference:
    """Compare a metric of all samples and of the same bootstrap resamples, each (1 + rounds,); see `resampling`.

    groups: those that the resamples draw, None where they draw samples.

    Sources: Efron and Tibshirani 1993, ch. 13 (percentile interval) and ch. 16 (its achieved significance level).
    """
    rounds = min(len(before), len(after))  # the first resamples are the same for any number of them
    change = np.asarray(before, np.float64)[:rounds] - np.asarray(after, np.float64)[:rounds]
    change = change if higher_is_better else -change
    loss, drawn = float(f"{change[0]:.12g}"), change[1:]
    worse, better = int((drawn > 0).sum()), int((drawn < 0).sum())
    number = 0 if groups is None else len(np.unique(groups))
    if worse + better == 0 and loss == 0:
        return Difference(loss, 0.0, 0.0, 1.0, 0, 0, number)
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
    return Difference(loss, float(low), float(high), p, worse, better, number)


def difference(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    groups: NDArray[np.int64] | None = None,
    higher_is_better: bool = True,
) -> Difference:
    """Compare scores (N,) of the same samples; groups: (N,), equal for samples of one group.

    Sources: Efron and Tibshirani 1993, ch. 13 (percentile interval) and ch. 15 (permutation test); Field and Welsh
    2007 (drawing clusters); McNemar 1947, in its exact binomial form.
    """
    change = np.asarray(before, np.float64) - np.asarray(after, np.float64)
    change = change if higher_is_better else -change
    worse, better = int((change > 0).sum()), int((change < 0).sum())
    step = float(np.abs(change).max(initial=0))
    binary = bool(step) and bool(np.isin(np.abs(change), (0.0, step)).all())
    unit = step if binary else 1.0  # whole numbers of it sum without rounding
    scaled = np.rint(change / unit) if binary else change
    if groups is None:
        sums, sizes = scaled, np.ones(len(scaled), np.int64)
    else:
        numbers = np.unique(groups, return_inverse=True)[1]
        sums, sizes = np.bincount(numbers, scaled), np.bincount(numbers)
    loss = float(f"{scaled.mean() * unit:.12g}")  # 0.07 x 100 is 7, not a little more
    if worse + better == 0:
        return Difference(loss, 0.0, 0.0, 1.0, worse, better, len(sums))
    low, high = np.percentile(_means(sums, sizes), [2.5, 97.5]) * unit
    p = _mcnemar(worse, better) if binary else _sign_flip(sums)
    return Difference(loss, float(low), float(high), p, worse, better, len(sums))


def _mcnemar(worse: int, better: int) -> float:
    """Probability of so uneven a split of the samples that changed, if neither side were better."""
    from scipy.stats import binomtest

    return float(binomtest(worse, worse + better).pvalue)


def _sign_flip(sums: NDArray[np.float64]) -> float:
    """Share of random signs of the groups' sums (groups,) that give a total at least as far from 0."""
    changed = sums[sums != 0]
    rng, total = np.random.default_rng(_SEED), float(changed.sum())
    count, width = 0, -(-len(changed) // 8)
    for rounds in _parts(len(changed)):
        signs = np.frombuffer(rng.bytes(rounds * width), np.uint8).reshape(rounds, width)
        positive = np.unpackbits(signs, axis=1, count=len(changed)).astype(np.float64) @ changed
        # the rounding of a sum in another order must not decide
        count += int((np.abs(2 * positive - total) >= abs(total) * (1 - 1e-12)).sum())
    return (count + 1) / (_ROUNDS + 1)


def _means(sums: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Means (rounds,) of as many groups as there are, drawn with replacement.

    Groups of the same sum and size are drawn as one kind, so that a round is one multinomial draw of few numbers;
    where most groups are alone of their kind, drawing the groups themselves is faster.
    """
    kinds, counts = np.unique(np.stack([sums, sizes.astype(np.float64)]), axis=1, return_counts=True)
    rng, groups = np.random.default_rng(_SEED), len(sums)
    means = []
    if len(counts) <= _KINDS:
        for rounds in _parts(len(counts)):
            drawn = rng.multinomial(groups, counts / groups, size=rounds)
            means.append((drawn @ kinds[0]) / (drawn @ kinds[1]))
    else:
        for rounds in _parts(groups):
            places = rng.integers(0, groups, (rounds, groups), dtype=np.int32)
            means.append(sums[places].sum(axis=1) / sizes[places].sum(axis=1))
    return np.asarray(np.concatenate(means), np.float64)


def _parts(numbers: int) -> Iterator[int]:
    """Rounds of each part of the work; numbers: of one round."""
    part = max(1, _AT_A_TIME // numbers)
    for start in range(0, _ROUNDS, part):
        yield min(part, _ROUNDS - start)


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p values of a family of tests, so that each may be compared with 5 % (Holm 1979)."""
    order = np.argsort(values)
    adjusted, largest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, float(values[index]) * (len(values) - place)))
        adjusted[int(index)] = largest
    return adjusted
