"""What a task is: the meaning of a network's outputs, and the metric that they are judged by.

A task scores every sample on its own. Scores of samples give a paired interval for any metric that is their mean,
without a formula of its own: the same samples are drawn again and again (see mobconv.stats.paired). A metric that is
not a mean, such as mIoU, is computed again from statistics of the drawn samples (see mobconv.stats.resampling).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mobconv.data.arrays import Samples
from mobconv.errors import InputError, setting
from mobconv.stats import paired

Outputs = Mapping[str, NDArray[Any]]
"""Outputs of a network by name, each (N, ...)."""
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """The number that a task is judged by.

    name       as in a table's heading: 'top-1', 'MAE'
    unit       of a score: '%', 'px', or '' for a bare number
    loss_unit  of a difference of two scores: 'points' of a percentage
    higher_is_better  whether a larger score is the better one
    decimals   digits after the point in tables
    full       largest score of a metric that counts samples, each of which scores 0 or `full`: 100 for a percentage.
               None for other metrics. The share of samples gives such a metric intervals without scores of samples
    resamples  0 for a metric that is the mean of the scores of samples, (N,). For any other, the number of bootstrap
               resamples that it is computed on: its scores are (1 + resamples,), of all samples and of each resample
    """

    name: str
    unit: str
    loss_unit: str
    higher_is_better: bool = True
    decimals: int = 2
    full: float | None = None
    resamples: int = 0

    def scores_of(self, samples: int) -> int:
        """Number of scores that so many samples have."""
        return 1 + self.resamples if self.resamples else samples

    def loss(self, before: float, after: float) -> float:
        """How much worse `after` is than `before`, in `loss_unit`; negative where it is better.

        Rounded to twelve digits of the larger score: 95.3 - 90.3 is 5, not a little less.
        """
        loss = before - after if self.higher_is_better else after - before
        scale = max(abs(before), abs(after))
        if not scale or not math.isfinite(loss):
            return loss
        return round(loss, 11 - math.floor(math.log10(scale)))

    def difference(self, before: Scores, after: Scores, groups: NDArray[np.int64] | None = None) -> paired.Difference:
        """How much worse `after` is than `before`, with its interval, from scores of the same samples.

        groups: as in scores.npz.
        """
        if self.resamples:
            return paired.of_resamples(before, after, groups, self.higher_is_better)
        return paired.difference(before, after, groups, self.higher_is_better)

    def change(self, loss: float) -> float:
        """The later score less the earlier one, from the loss between them."""
        return 0.0 - loss if self.higher_is_better else loss + 0.0

    def text(self, score: float | None) -> str:
        """A score with its unit, as '96.40 %'; '-' for None."""
        return "-" if score is None else with_unit(self.number(score), self.unit)

    def number(self, score: float | None) -> str:
        """A score without its unit, as '96.40'; '-' for None."""
        return "-" if score is None else f"{score:.{self.decimals}f}"

    def loss_text(self, loss: float | None) -> str:
        """A loss or a change of score with its sign, as '+0.50'; '-' for None. What rounds to 0 is '+0.00'."""
        return "-" if loss is None else f"{round(loss, self.decimals) + 0.0:+.{self.decimals}f}"

    def amount(self, loss: float) -> str:
        """A loss with its unit, in as few digits as it has: '5 points', '1 point', '0.5 px'."""
        return with_unit(f"{loss:g}", self.loss_unit)

    def beyond(self, margin: float) -> str:
        """Scores that are worse by more than a margin: 'more than 5 points below', 'more than 0.5 px above'."""
        return f"more than {self.amount(margin)} {self.worse_side}"

    @property
    def test(self) -> str:
        """The test that gives p of a paired difference."""
        if self.resamples:
            return "the share of resamples on the other side of 0"
        return "McNemar's exact test" if self.full is not None else "sign-flip permutation test"

    @property
    def heading(self) -> str:
        """Name and unit, for the head of a column: 'top-1 %'."""
        return f"{self.name} {self.unit}".rstrip()

    @property
    def title(self) -> str:
        """The name at the start of a sentence: 'Top-1'."""
        return self.name[:1].upper() + self.name[1:]

    @property
    def losses(self) -> str:
        """The name of losses: 'points of top-1'; the metric's own name where they have no unit."""
        return f"{self.loss_unit} of {self.name}" if self.loss_unit else self.name

    @property
    def worse_side(self) -> str:
        """Where worse scores lie: 'below' or 'above'."""
        return "below" if self.higher_is_better else "above"

    @property
    def worsens(self) -> str:
        """The verb for a score that gets worse: 'falls' or 'rises'."""
        return "falls" if self.higher_is_better else "rises"


def with_unit(number: str, unit: str) -> str:
    """A number with its unit behind it, as '5 points', '+1 point' and '0.31'."""
    if unit == "points" and number.lstrip("+-") == "1":
        return f"{number} point"
    return f"{number} {unit}" if unit else number


class Task(Protocol):
    """The meaning of outputs. An object with these attributes and methods, registered in `TASKS`."""

    name: str

    @property
    def metric(self) -> Metric:
        """That the task is judged by."""
        ...

    def check(self, outputs: Outputs, data: Samples) -> None:
        """Raise InputError where outputs and targets do not fit, such as a label that no output stands for."""
        ...

    def warning(self, score: float, outputs: Outputs) -> str:
        """What stands in the way of believing a float baseline of this score, as one sentence; '' for nothing."""
        ...

    def scores(self, outputs: Outputs, data: Samples) -> Scores:
        """A score for each sample, (N,), in the metric's unit; where it is not a mean, see `Metric.resamples`."""
        ...

    def aggregate(self, scores: Scores) -> float:
        """The metric of samples with these scores: the mean of (N,), of which the stored scores are checked.

        A task computes it itself so that it can be exact, as a count over a count.
        """
        ...

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        """The fraction of samples, 0 to 1, for which both outputs mean the same."""
        ...

    def more(self, outputs: Outputs, data: Samples) -> dict[str, float]:
        """Further metrics by name, such as 'top-5', each in the unit that `further` has for it, or the metric's."""
        ...


def further(task: Task) -> dict[str, Metric]:
    """The metrics of `Task.more` that are in another unit than the task's own, by name."""
    return dict(getattr(task, "further", {}))


def compares_with_float(task: Task) -> bool:
    """Whether a task compares outputs with those of the float network, which the data then has to have."""
    return bool(getattr(task, "compares_with_float", False))


_TASK_OF = {"target": "regression", "targets": "regression", "mask": "segmentation", "masks": "segmentation"}
"""Names of targets -> the task that they are usually for."""


def labels_of(data: Samples) -> NDArray[np.int64]:
    """The label of each sample, (N,). Raises InputError where the data has none."""
    if len(data.labels) != len(data):
        targets = data.targets
        there = f"its targets are {', '.join(f'{name} {value.shape}' for name, value in targets.items()) or 'none'}"
        other = next((f"{setting('task', _TASK_OF[name])}, or " for name in targets if name in _TASK_OF), "")
        raise InputError(
            f"{data.source}: no labels, one whole number for each sample; {there}. Choose what outputs are compared "
            f"with: {other}{setting('task', 'fidelity')}, which needs no labels"
        )
    return data.labels


def only_target(data: Samples) -> NDArray[Any]:
    """The only target of the data, (N, ...). Raises InputError where it has none or several."""
    targets = data.targets or ({"label": data.labels} if len(data.labels) == len(data) else {})
    if len(targets) != 1:
        there = f"it has {', '.join(targets)}" if targets else "it has none"
        raise InputError(f"{data.source}: the task needs one target, an array `target` of the .npz; {there}")
    return next(iter(targets.values()))


def first_output(outputs: Outputs) -> NDArray[Any]:
    """The first output, (N, ...)."""
    return next(iter(outputs.values()))
