"""The one way that a file is measured: run on data, scored by the task, compared with a reference, timed.

`export`, `evaluate`, `sweep` and `compare` all call `measure`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from mobconv.backends.base import Runner
from mobconv.data.arrays import Arrays, Samples
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError, setting
from mobconv.evaluate.inference import (
    Feed,
    Outputs,
    of_runner,
    predict_in_torch,
    predict_side_by_side,
    rows,
    single,
)
from mobconv.evaluate.input_spec import array_feed, check_arrays, image_feed
from mobconv.evaluate.latency import Latency, latency
from mobconv.evaluate.tasks import Scores, Task
from mobconv.pipeline.artifact import EMULATED, Artifact


@dataclass
class Seconds:
    """Seconds spent, by stage."""

    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[stage] = round(self.spent.get(stage, 0.0) + time.perf_counter() - start, 4)


@dataclass(frozen=True)
class Scored:
    """Outputs and their scores on data.

    scores   of each sample, (N,), in the metric's unit, or of resamples; score: the metric of all of them
    metrics  further metrics by name
    """

    outputs: Outputs
    scores: Scores
    score: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Measurement:
    """A file, measured. scored: None without data; latency: None where it was not timed (emulated, or not asked)."""

    scored: Scored | None
    latency: Latency | None


def score(task: Task, outputs: Outputs, data: Samples) -> Scored:
    """Score outputs by a task. Raises InputError where they do not fit the data."""
    task.check(outputs, data)
    scores = task.scores(outputs, data)
    return Scored(outputs, scores, task.aggregate(scores), task.more(outputs, data))


def measure(
    artifact: Artifact,
    task: Task | None = None,
    data: Samples | None = None,
    preprocessing: Preprocessing | None = None,
    example: Mapping[str, NDArray[Any]] | None = None,
    baseline: Runner | None = None,
    timing: bool = True,
    seconds: Seconds | None = None,
) -> Measurement:
    """Run a file on data, score its outputs, and time it.

    data: with its task, and with what the caller of the file does to pixels where it has images; None only to time it.
    example: one sample at the file's inputs, to be timed without data. baseline: the runner whose latency is
    the ratio's denominator; None for the file itself. Raises InputError where data and file do not fit.
    """
    seconds = seconds or Seconds()
    scored = None
    if data is not None and task is not None:
        feed = feed_of(artifact, preprocessing, data)
        with seconds.of("run"):
            outputs = run_on(artifact, data, feed)
        scored = score(task, outputs, data)
        example = feed(rows(data.fed, slice(0, 1)))
    if not timing or artifact.verified == EMULATED or example is None:
        return Measurement(scored, None)
    with seconds.of("latency"):
        return Measurement(scored, _time(artifact, example, baseline))


def run_on(artifact: Artifact, data: Samples, feed: Feed) -> Outputs:
    """Outputs for all samples of data, in their order; closes the artifact's runner."""
    threads = artifact.threads
    if artifact.verified == EMULATED:
        # predict_in_torch has `threads` batches at a time, and each would use as many threads again
        runner = artifact.reopen(1) if threads > 1 or artifact.runner is None else artifact.runner
        try:
            return predict_in_torch(of_runner(runner, feed), data.fed, threads)
        finally:
            if runner is not artifact.runner:
                runner.close()
            artifact.close()
    artifact.close()
    workers = threads or os.cpu_count() or 1
    return predict_side_by_side(lambda: artifact.reopen(1), data.fed, workers, feed)


def feed_of(artifact: Artifact, preprocessing: Preprocessing | None, data: Samples | None = None) -> Feed:
    """Samples -> the file's inputs: pixels (n, H, W, C) uint8 behind preprocessing, or arrays as they are.

    preprocessing: of the file's caller, for images; data: what is fed, None for images. Raises InputError for arrays
    that do not fit the file, or where it takes pixels, and for images where it has several inputs.
    """
    if isinstance(data, Arrays):
        _check_no_pixels(artifact, data)
        specs, where = artifact.inputs, str(artifact.path)
        feed = array_feed(specs, list(data.inputs), where)
        names = list(data.inputs) if len(specs) == 1 else [spec.name for spec in specs]
        check_arrays(data, {name: spec.shape for name, spec in zip(names, specs, strict=True)}, where)
        return feed
    assert preprocessing is not None
    return image_feed(preprocessing, single(artifact.inputs, str(artifact.path), "input"))


def _check_no_pixels(artifact: Artifact, data: Arrays) -> None:
    """Raise InputError for the network's own arrays where a file takes pixels, and normalises them inside."""
    record = artifact.record
    if "input" not in record or "preprocessing" not in record:
        return
    taken, network = (Preprocessing.from_json(record[name]) for name in ("input", "preprocessing"))
    if taken.untouched and not network.untouched:
        raise InputError(
            f"{artifact.path} takes pixels of 0 to 255 and normalises them inside, and {data.source} has arrays of "
            f"{next(iter(data.inputs.values())).dtype}: give images, or an .npz with bytes (N, height, width, "
            f"channels); for the network's own arrays export with {setting('input', 'tensor')}"
        )


def _time(artifact: Artifact, example: Mapping[str, NDArray[Any]], baseline: Runner | None) -> Latency:
    """On one thread: some kernels leave a second one idle, and a busy machine then decides the ratio."""
    runner = artifact.reopen(1)
    try:
        return latency(runner, baseline or runner, example)
    finally:
        runner.close()
