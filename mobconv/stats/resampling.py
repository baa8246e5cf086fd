"""Bootstrap resamples of samples, for metrics that are not the mean of scores of samples.

Such a metric (mIoU, F1, RMSE, mAP) is computed again on each resample. The draws depend on the number of samples and
their groups alone: two files that were run on the same samples have the same resamples, so their metrics are paired.

Source: Efron and Tibshirani 1993, ch. 6 and 13; Field and Welsh 2007 for drawing whole groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

ROUNDS = 1000
_SEED = 0  # the same samples give the same resamples


def draws(samples: int, groups: NDArray[np.int64] | None, rounds: int = ROUNDS) -> Iterator[NDArray[np.int64]]:
    """How often each sample is in each resample, (samples,), `rounds` times; groups: as in scores.npz, or None.

    The first rounds are the same for any number of them.
    """
    rng = np.random.default_rng(_SEED)
    numbers = np.arange(samples) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    for _ in range(rounds):
        yield np.bincount(rng.integers(0, count, count), minlength=count)[numbers]


def recomputed(
    metric: Callable[[NDArray[np.int64]], float],
    samples: int,
    groups: NDArray[np.int64] | None = None,
    rounds: int = ROUNDS,
) -> NDArray[np.float64]:
    """A metric of all samples, then of each resample: (1 + rounds,).

    metric: from how often each sample counts, (samples,), to its value.
    """
    whole = metric(np.ones(samples, np.int64))
    return np.array([whole, *(metric(counts) for counts in draws(samples, groups, rounds))], np.float64)
