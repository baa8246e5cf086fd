"""Latency of a file against its float one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Runner


@dataclass(frozen=True)
class Latency:
    """Medians over single-sample runs: milliseconds, and the ratio to the float file run in turn with it."""

    ms: float
    ratio: float


def latency(runner: Runner, baseline: Runner, sample: NDArray[Any], seconds: float = 0.3) -> Latency:
    """Time one sample (1, C, H, W) on both runners in turn, so that a noisy machine hits both alike.

    Runs for about `seconds`, at least five rounds, after two that are not counted.
    """
    feeds: list[dict[str, NDArray[Any]]] = [{each.inputs[0].name: sample} for each in (runner, baseline)]
    for _ in range(2):
        runner.run(feeds[0])
        baseline.run(feeds[1])
    ours: list[float] = []
    theirs: list[float] = []
    stop = time.perf_counter() + seconds
    while len(ours) < 5 or time.perf_counter() < stop:
        start = time.perf_counter()
        runner.run(feeds[0])
        between = time.perf_counter()
        baseline.run(feeds[1])
        ours.append(between - start)
        theirs.append(time.perf_counter() - between)
    ratios = np.asarray(ours) / np.asarray(theirs)
    return Latency(float(np.median(ours) * 1e3), float(np.median(ratios)))
