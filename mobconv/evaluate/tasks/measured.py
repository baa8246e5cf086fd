"""A task that is a list of measures: each turns statistics of samples into a metric, and one of them is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.data.arrays import Samples
from mobconv.errors import InputError, UsageError, did_you_mean, setting
from mobconv.evaluate.tasks.base import Metric, Outputs, Scores
from mobconv.stats.resampling import ROUNDS, recomputed

Statistics = Any
"""What a metric needs of each sample: an array (N, ...), or what `combine` of the same measure takes."""


def any_data(outputs: Outputs, data: Samples) -> bool:
    """Whether a measure applies: always."""
    return True


@dataclass(frozen=True)
class Measure:
    """How one metric is computed.

    statistics  of each sample; of a metric that is a mean, the scores (N,) in its unit
    combine     from statistics and how often each sample counts, (N,), to the metric; None for the mean
    applies     whether these outputs and this data have such a metric
    rounds      resamples that a metric is computed on, where it is not a mean
    judges      whether a task can be judged by it: it is finite, and a bootstrap says how sure it is
    """

    metric: Metric
    statistics: Callable[[Outputs, Samples], Statistics]
    combine: Callable[[Statistics, NDArray[np.int64]], float] | None = None
    applies: Callable[[Outputs, Samples], bool] = any_data
    rounds: int = ROUNDS
    judges: bool = True

    @property
    def stored(self) -> Metric:
        """The metric, with the number of its resamples."""
        return self.metric if self.combine is None else replace(self.metric, resamples=self.rounds)

    def value(self, outputs: Outputs, data: Samples) -> float:
        """The metric of all samples."""
        statistics = self.statistics(outputs, data)
        if self.combine is None:
            return mean(statistics)
        return self.combine(statistics, np.ones(len(data), np.int64))

    def scores(self, outputs: Outputs, data: Samples) -> Scores:
        """Scores of samples (N,), or of resamples; see `Metric.resamples`."""
        statistics, combine = self.statistics(outputs, data), self.combine
        if combine is None:
            return np.asarray(statistics, np.float64)
        return recomputed(lambda counts: combine(statistics, counts), len(data), data.groups, self.rounds)


class MeasuredTask:
    """Base of tasks that are a list of measures; see `Task`. The first measure is the metric unless one is chosen."""

    name: str
    measures: Sequence[Measure]
    compares_with_float = False
    chosen: Measure

    def __init__(self) -> None:
        self.chosen = self.measures[0]

    def judged_by(self, name: str) -> MeasuredTask:
        """The same task, judged by another of its metrics, by name without regard to case. Raises UsageError."""
        names = {measure.metric.name.casefold(): measure for measure in self.measures if measure.judges}
        if name.casefold() not in names:
            known = ", ".join(measure.metric.name for measure in self.measures if measure.judges)
            raise UsageError(
                f"{setting('metric', name)}: the task {self.name} has {known}{did_you_mean(name.casefold(), names)}; a "
                "metric of your own is package.module:name"
            )
        task = copy(self)
        task.chosen = names[name.casefold()]
        return task

    @property
    def metric(self) -> Metric:
        """That the task is judged by."""
        return self.chosen.stored

    @property
    def further(self) -> dict[str, Metric]:
        """The task's other metrics, by name."""
        return {each.metric.name: each.metric for each in self.measures if each is not self.chosen}

    def check(self, outputs: Outputs, data: Samples) -> None:
        """Raise InputError for outputs with NaN or infinity in them: no score of theirs would be a number."""
        for name, values in outputs.items():
            broken = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            if broken.any():
                raise InputError(
                    f"output {name!r} has NaN or infinity in {int(broken.sum())} of {len(values)} samples, the first "
                    f"is {int(broken.argmax())}: its {self.metric.name} is not a number"
                )

    def warning(self, score: float, outputs: Outputs) -> str:
        """Nothing is known of what a score must be."""
        return ""

    def scores(self, outputs: Outputs, data: Samples) -> Scores:
        """Of the chosen metric."""
        if not self.chosen.applies(outputs, data):
            raise InputError(
                f"{data.source}: {self.metric.name} does not apply to these outputs and targets; choose another "
                f"{setting('metric')} of the task {self.name}"
            )
        return self.chosen.scores(outputs, data)

    def aggregate(self, scores: Scores) -> float:
        """The mean, or the first of resampled scores."""
        return float(scores[0]) if self.metric.resamples else mean(scores)

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        """See `close`."""
        return close(outputs, reference)

    def more(self, outputs: Outputs, data: Samples) -> dict[str, float]:
        """The other metrics that apply."""
        others = [each for each in self.measures if each is not self.chosen and each.applies(outputs, data)]
        values = {each.metric.name: each.value(outputs, data) for each in others}
        return {name: value for name, value in values.items() if np.isfinite(value)}


def mean(scores: Scores) -> float:
    """The mean, exact for scores that count samples: 1928 of 2000 is 96.4 and not the next float to it."""
    largest = float(np.max(scores, initial=0.0))
    if largest and np.isin(scores, (0.0, largest)).all():
        return float(np.count_nonzero(scores) * largest / len(scores))
    return float(np.mean(scores))


def same(outputs: Outputs, reference: Outputs) -> float:
    """The fraction of samples whose outputs mean the same, 0 to 1, where nothing else is known of them.

    The same class where the first output is (N, classes); else see `close`.
    """
    first, wanted = (next(iter(each.values())) for each in (outputs, reference))
    if classes(wanted):
        return float((first.argmax(axis=1) == wanted.argmax(axis=1)).mean())
    return close(outputs, reference)


def close(outputs: Outputs, reference: Outputs) -> float:
    """The fraction of samples, 0 to 1, with every number within 1 % of the largest of the reference's output."""
    near = np.ones(len(next(iter(outputs.values()))), bool)
    for value, other in zip(outputs.values(), reference.values(), strict=True):
        allowed = 0.01 * float(np.abs(other).max(initial=0.0))
        near &= (np.abs(value.astype(np.float64) - other) <= allowed).reshape(len(value), -1).all(axis=1)
    return float(near.mean())


def classes(output: NDArray[Any]) -> bool:
    """Whether an output may be one number for each of several classes, (N, classes)."""
    return output.ndim == 2 and output.shape[1] > 1
