"""Code of the user's: a metric of their own, and what makes a task's arrays of a network's outputs.

A metric `package.module:name` is one of these:

| object                                     | called as                                       | intervals by          |
|--------------------------------------------|-------------------------------------------------|-----------------------|
| a function                                 | function(outputs, targets) -> a value a sample  | scores of samples     |
| `update` and `compute`, as in torchmetrics | update(outputs, targets), then compute()        | bootstrap resamples   |
| `compute`, as in Hugging Face's evaluate   | compute(predictions=..., references=...)        | bootstrap resamples   |

A class is called without arguments first. `outputs` and `targets` are arrays (N, ...) where there is one of them, else
dicts by name; torchmetrics gets tensors. `predictions` are classes where outputs are (N, classes) and targets whole
numbers (N,). Where `compute` returns several values, `package.module:name:key` says which.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.data.arrays import Samples
from mobconv.errors import InputError, MobconvError, UsageError, did_you_mean, setting
from mobconv.evaluate.tasks.base import Metric, Outputs, Scores, Task
from mobconv.evaluate.tasks.measured import Measure, MeasuredTask, classes, same

_ROUNDS = 200  # resamples of an object whose cost nobody knows


def imported(reference: str, name: str, here: Path | None = None) -> Any:
    """The object `package.module:attribute` of a setting of this name.

    here: the folder that is searched before sys.path; None for the current one. Raises UsageError.
    """
    module, _, attribute = reference.partition(":")
    shown, folder = setting(name, reference), str(here or Path.cwd())
    if not module or not attribute:
        raise UsageError(f"{shown} is not of the form package.module:name")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        content = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise UsageError(f"{shown}: cannot import {module}: {type(error).__name__}: {error}") from error
    if not hasattr(content, attribute):
        public = [each for each in vars(content) if not each.startswith("_")]
        raise UsageError(f"{shown}: {module} has no {attribute}{did_you_mean(attribute, public)}")
    return getattr(content, attribute)


def measure_of(reference: str, higher_is_better: bool | None = None, here: Path | None = None) -> Measure:
    """The measure of a user's metric.

    higher_is_better: None where the object says it, by an attribute of that name, as torchmetrics' do. Raises
    UsageError for what is not a metric, and where nobody says which scores are better.
    """
    parts = reference.split(":")
    used = imported(":".join(parts[:2]), "metric", here)
    key = parts[2] if len(parts) > 2 else None
    try:
        used = used() if isinstance(used, type) else used
    except Exception as error:  # the user's class may raise anything
        raise UsageError(
            f"{setting('metric', reference)}: called without arguments it fails: {type(error).__name__}: {error}"
        ) from error
    better = getattr(used, "higher_is_better", None) if higher_is_better is None else higher_is_better
    if not isinstance(better, bool):
        raise UsageError(
            f"{setting('metric', reference)} does not say whether a higher score is better: add "
            f"{setting('higher_is_better', True)} or {setting('higher_is_better', False)}"
        )
    name = getattr(used, "name", None) or getattr(used, "__name__", None) or type(used).__name__
    unit = getattr(used, "unit", "")
    metric = Metric(str(key or name), str(unit), "points" if unit == "%" else str(unit), better, decimals=4)
    if callable(getattr(used, "update", None)) and callable(getattr(used, "compute", None)):
        return Measure(metric, _both, partial(_updated, used, reference, key), rounds=_ROUNDS)
    if callable(getattr(used, "compute", None)):
        return Measure(metric, _both, partial(_computed, used, reference, key), rounds=_ROUNDS)
    if callable(used):
        return Measure(metric, partial(_of_samples, used, reference))
    raise UsageError(
        f"{setting('metric', reference)} is {type(used).__name__}: a metric is a function of outputs and targets, or "
        "has `update` and `compute`, or `compute`"
    )


class UserMetric(MeasuredTask):
    """A task judged by a metric of the user's, beside the task's own where these apply."""

    def __init__(self, task: Task, measure: Measure) -> None:
        self.task, self.name = task, task.name
        self.measures = (measure, *getattr(task, "measures", ()))
        self.compares_with_float = bool(getattr(task, "compares_with_float", False))
        super().__init__()

    def check(self, outputs: Outputs, data: Samples) -> None:
        """The metric is the user's: it says itself what it cannot score."""

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        """That of the task, where outputs are of its kind."""
        try:
            return self.task.agreement(outputs, reference)
        except (MobconvError, LookupError, ValueError):
            return same(outputs, reference)

    def more(self, outputs: Outputs, data: Samples) -> dict[str, float]:
        """Metrics of the task, where outputs and data are of its kind."""
        try:
            self.task.check(outputs, data)
            return super().more(outputs, data)
        except MobconvError:
            return {}


class Postprocessed:
    """A task whose outputs a function of the user's makes of the network's; see `Task`.

    function: from the outputs of one sample, by name and without the batch's axis, to the task's, by name. Where their
    first lengths differ between samples, as numbers of boxes do, they are padded: `classes` with -1, others with 0.
    """

    def __init__(self, task: Task, reference: str, here: Path | None = None) -> None:
        self.task, self.reference = task, reference
        self.function = imported(reference, "postprocess", here)
        self.name, self.metric = task.name, task.metric
        self.compares_with_float = bool(getattr(task, "compares_with_float", False))
        self.further = dict(getattr(task, "further", {}))
        self._last: list[tuple[Outputs, Outputs]] = []

    def check(self, outputs: Outputs, data: Samples) -> None:
        self.task.check(self._made(outputs), self._data(data))

    def warning(self, score: float, outputs: Outputs) -> str:
        return self.task.warning(score, self._made(outputs))

    def scores(self, outputs: Outputs, data: Samples) -> Scores:
        return self.task.scores(self._made(outputs), self._data(data))

    def aggregate(self, scores: Scores) -> float:
        return self.task.aggregate(scores)

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        return self.task.agreement(self._made(outputs), self._made(reference))

    def more(self, outputs: Outputs, data: Samples) -> dict[str, float]:
        return self.task.more(self._made(outputs), self._data(data))

    def _data(self, data: Samples) -> Samples:
        return data if data.float_outputs is None else replace(data, float_outputs=self._made(data.float_outputs))

    def _made(self, outputs: Outputs) -> Outputs:
        """The task's outputs; those of the last few calls are kept."""
        for given, made in self._last:
            if given is outputs:
                return made
        made = self._run(outputs)
        self._last = [(outputs, made), *self._last[:2]]
        return made

    def _run(self, outputs: Outputs) -> Outputs:
        shown = setting("postprocess", self.reference)
        samples = []
        for number in range(len(next(iter(outputs.values())))):
            try:
                made = self.function({name: value[number] for name, value in outputs.items()})
                samples.append({str(name): np.asarray(value) for name, value in made.items()})
            except Exception as error:  # the user's function may raise anything
                raise InputError(f"{shown} fails on sample {number}: {type(error).__name__}: {error}") from error
            if [*samples[-1]] != [*samples[0]]:
                raise InputError(f"{shown} gives {', '.join(samples[-1])} for sample {number}, not {[*samples[0]]}")
        try:
            return {name: _stacked(name, [sample[name] for sample in samples]) for name in samples[0]}
        except ValueError as error:
            raise InputError(f"{shown}: its arrays of different samples do not fit together: {error}") from error


def _stacked(name: str, values: list[NDArray[Any]]) -> NDArray[Any]:
    """Arrays (n, ...) of samples as one, padded to the longest. Raises ValueError for other shapes."""
    if all(value.shape == values[0].shape for value in values):
        return np.stack(values)
    longest = max(len(value) for value in values)
    tail = next((value.shape[1:] for value in values if len(value)), ())
    whole = np.full((len(values), longest, *tail), -1 if name == "classes" else 0, np.result_type(*values))
    for place, value in zip(whole, values, strict=True):
        place[: len(value)] = value.reshape(len(value), *tail)
    return whole


def _targets(data: Samples) -> Mapping[str, NDArray[Any]]:
    return data.targets or ({"label": data.labels} if len(data.labels) == len(data) else {})


def _both(outputs: Outputs, data: Samples) -> tuple[Outputs, Mapping[str, NDArray[Any]]]:
    """Outputs and targets by name; those of the float network as targets where the data has no others."""
    return outputs, _targets(data) or data.float_outputs or {}


def _drawn(arrays: Mapping[str, NDArray[Any]], counts: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    places = np.repeat(np.arange(len(counts)), counts)
    return {name: value[places] for name, value in arrays.items()}


def _alone(arrays: Mapping[str, Any]) -> Any:
    """The only one of several things by name, or all by name."""
    return next(iter(arrays.values())) if len(arrays) == 1 else dict(arrays)


def _value(result: Any, reference: str, key: str | None) -> float:
    """The number in what `compute` returns. Raises InputError."""
    shown = setting("metric", reference)
    if isinstance(result, Mapping):
        key = next(iter(result)) if key is None and len(result) == 1 else key
        if key not in result:
            names = ", ".join(map(str, result))
            raise InputError(f"{shown} computes {names}: say which, as {setting('metric', f'{reference}:key')}")
        result = result[key]
    try:
        return float(result)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{shown} computes {type(result).__name__}, not one number: {error}") from error


def _updated(used: Any, reference: str, key: str | None, both: Any, counts: NDArray[np.int64]) -> float:
    """update(outputs, targets), then compute(), on a fresh copy."""
    import torch

    sides = [
        _alone({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in _drawn(side, counts).items()})
        for side in both
    ]
    metric = copy.deepcopy(used)
    try:
        if callable(getattr(metric, "reset", None)):
            metric.reset()
        metric.update(*sides)
        result = metric.compute()
    except Exception as error:  # the user's object may raise anything
        raise _failed(reference, error) from error
    return _value(result, reference, key)


def _computed(used: Any, reference: str, key: str | None, both: Any, counts: NDArray[np.int64]) -> float:
    """compute(predictions=, references=)."""
    outputs, targets = (_alone(_drawn(side, counts)) for side in both)
    arrays = isinstance(outputs, np.ndarray) and isinstance(targets, np.ndarray)
    if arrays and classes(outputs) and targets.ndim == 1 and targets.dtype.kind in "iu":
        outputs = outputs.argmax(axis=1)
    try:
        result = used.compute(predictions=outputs, references=targets)
    except Exception as error:  # the user's object may raise anything
        raise _failed(reference, error) from error
    return _value(result, reference, key)


def _of_samples(used: Any, reference: str, outputs: Outputs, data: Samples) -> Scores:
    """function(outputs, targets): a value for each sample, (N,)."""
    sides = (_alone(side) for side in _both(outputs, data))
    try:
        values = np.asarray(used(*sides), np.float64)
    except Exception as error:  # the user's function may raise anything
        raise _failed(reference, error) from error
    if values.shape != (len(data),):
        raise InputError(
            f"{setting('metric', reference)} gives an array of shape {values.shape} for {len(data)} samples: a "
            "function gives a value for each sample, and their mean is the metric; one that is not a mean is an object "
            "with `update` and `compute`"
        )
    if not np.isfinite(values).all():
        raise InputError(f"{setting('metric', reference)} gives {values[~np.isfinite(values)][0]} for a sample")
    return values


def _failed(reference: str, error: Exception) -> InputError:
    return InputError(f"{setting('metric', reference)} fails: {type(error).__name__}: {error}")
