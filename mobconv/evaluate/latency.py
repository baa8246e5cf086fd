"""Latency of a file beside another one, in turn on the same machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Runner


@dataclass(frozen=True)
class Latency:
    """Medians over runs of one sample: milliseconds, and the ratio to the baseline that ran in turn with it."""

    ms: float
    ratio: float


def latency(runner: Runner, baseline: Runner, feeds: Mapping[str, NDArray[Any]], seconds: float = 0.3) -> Latency:
    """Time one sample on both runners in turn, so that a busy machine slows both alike.

    feeds: the inputs of both, by name. Runs for about `seconds`, at least five rounds, after two that are not counted.
    """
    for _ in range(2):
        runner.run(feeds)
        baseline.run(feeds)
    ours: list[float] = []
    theirs: list[float] = []
    stop = time.perf_counter() + seconds
    while len(ours) < 5 or time.perf_counter() < stop:
        start = time.perf_counter()
        runner.run(feeds)
        between = time.perf_counter()
        baseline.run(feeds)
        ours.append(between - start)
        theirs.append(time.perf_counter() - between)
    ratios = np.asarray(ours) / np.asarray(theirs)
    return Latency(float(np.median(ours) * 1e3), float(np.median(ratios)))
