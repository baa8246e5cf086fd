"""Classification: one output of a number for each class, judged by top-1, top-5 or macro F1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.data.arrays import Samples
from mobconv.errors import InputError, setting
from mobconv.evaluate.tasks.base import Metric, Outputs, Scores, labels_of
from mobconv.evaluate.tasks.measured import Measure, MeasuredTask

_GUESSING = 1.5  # times one over the number of classes


def _top(count: int) -> Callable[[Outputs, Samples], Scores]:
    """100 for each sample whose label is among the `count` largest outputs (all, of fewer classes), else 0: (N,)."""

    def scores(outputs: Outputs, data: Samples) -> Scores:
        return np.where(ranks(_logits(outputs), labels_of(data)) < count, 100.0, 0.0)

    return scores


def _label_and_class(outputs: Outputs, data: Samples) -> NDArray[np.int64]:
    """Label and class of the largest output of each sample, (N, 2); class -1 for one whose outputs are all NaN."""
    logits = _logits(outputs)
    largest = np.where(np.isnan(logits), -np.inf, logits).argmax(axis=1)
    return np.stack([labels_of(data), np.where(np.isnan(logits).all(axis=1), -1, largest)], axis=1)


def _macro_f1(pairs: NDArray[np.int64], counts: NDArray[np.int64]) -> float:
    """Mean of the F1 of each class that is a label or predicted, in percent."""
    labels, predicted = pairs.T
    size, right, there = int(pairs.max()) + 1, labels == predicted, predicted >= 0
    hits = np.bincount(labels[right], counts[right], size)
    both = np.bincount(labels, counts, size) + np.bincount(predicted[there], counts[there], size)
    return float(100 * (2 * hits[both > 0] / both[both > 0]).mean())


class Classification(MeasuredTask):
    """Top-1 of the first output, (N, classes); see `Task`. F1 is the mean of the classes' (scikit-learn's macro)."""

    name = "classification"
    measures = (
        Measure(Metric("top-1", "%", "points", full=100.0), _top(1)),
        Measure(Metric("top-5", "%", "points", full=100.0), _top(5)),
        Measure(Metric("F1", "%", "points"), _label_and_class, _macro_f1),
    )

    def check(self, outputs: Outputs, data: Samples) -> None:
        """Raise InputError for a label that the network has no output for."""
        classes, labels = _logits(outputs).shape[1], labels_of(data)
        if labels.max() >= classes:
            row = int(labels.argmax())
            raise InputError(
                f"{data.source}: row {row} has label {labels[row]}, but the network has {classes} outputs "
                f"(0 to {classes - 1}); this data is not the network's"
            )

    def warning(self, score: float, outputs: Outputs) -> str:
        """Warn of a top-1 of at most 1.5 times that of guessing."""
        classes = _logits(outputs).shape[1]
        if self.chosen is not self.measures[0] or score > 100 * _GUESSING / classes:
            return ""
        return (
            f"the float baseline has a top-1 of {score:.2f} %, no more than guessing among {classes} classes: mean "
            "and std, or the order of classes, are not those of its training. No figure here says what conversion or "
            "quantization costs"
        )

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        """Fraction of images with the same class."""
        return float((_logits(outputs).argmax(axis=1) == _logits(reference).argmax(axis=1)).mean())


def ranks(outputs: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each label (N,) among outputs (N, classes): 0 for the largest.

    Of equal outputs the first comes first, as in argmax; not-a-number comes last, so it never counts as right.
    """
    clean = np.where(np.isnan(outputs), -np.inf, outputs)
    of_label = np.take_along_axis(clean, labels[:, None], axis=1)
    earlier = np.arange(outputs.shape[1]) < labels[:, None]
    rank = np.asarray(((clean > of_label) | ((clean == of_label) & earlier)).sum(axis=1), np.int64)
    rank[np.isnan(np.take_along_axis(outputs, labels[:, None], axis=1))[:, 0]] = max(outputs.shape[1], 5)
    return rank


def _logits(outputs: Outputs) -> NDArray[Any]:
    """The first output, (N, classes). Raises InputError for an output of another rank."""
    name, values = next(iter(outputs.items()))
    if values.ndim != 2:
        raise InputError(
            f"Output {name!r} has shape {values.shape}; classification needs one number for each class, (N, classes). "
            f"Say what the outputs mean, as in {setting('task', 'segmentation')} or {setting('task', 'fidelity')}"
        )
    return values


task = Classification()
