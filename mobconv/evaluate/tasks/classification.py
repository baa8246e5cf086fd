"""Classification: one output of a number for each class, judged by top-1."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.data.labelled import Images
from mobconv.errors import InputError
from mobconv.evaluate.tasks.base import Metric, Outputs, Scores

_GUESSING = 1.5  # times one over the number of classes


class Classification:
    """Top-1 of the first output, (N, classes); see `Task`."""

    name = "classification"
    metric = Metric("top-1", "%", "points", full=100.0)

    def check(self, outputs: Outputs, data: Images) -> None:
        """Raise InputError for a label that the network has no output for."""
        classes = _logits(outputs).shape[1]
        if data.labels.max() >= classes:
            row = int(data.labels.argmax())
            raise InputError(
                f"{data.source}: row {row} has label {data.labels[row]}, but the network has {classes} outputs "
                f"(0 to {classes - 1}); this data is not the network's"
            )

    def warning(self, score: float, outputs: Outputs) -> str:
        """Warn of a top-1 of at most 1.5 times that of guessing."""
        classes = _logits(outputs).shape[1]
        if score > 100 * _GUESSING / classes:
            return ""
        return (
            f"the float baseline has a top-1 of {score:.2f} %, no more than guessing among {classes} classes: mean "
            "and std, or the order of classes, are not those of its training. No figure here says what conversion or "
            "quantization costs"
        )

    def scores(self, outputs: Outputs, data: Images) -> Scores:
        """100 for each image whose label has the largest output, else 0: (N,)."""
        return np.where(ranks(_logits(outputs), data.labels) < 1, 100.0, 0.0)

    def aggregate(self, scores: Scores) -> float:
        """Percentage of images, 0 to 100."""
        # a count over a count, so that 1928 of 2000 is 96.4 and not the next float to it
        return float(np.count_nonzero(scores) * 100 / len(scores))

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        """Fraction of images with the same class."""
        return float((_logits(outputs).argmax(axis=1) == _logits(reference).argmax(axis=1)).mean())

    def more(self, outputs: Outputs, data: Images) -> dict[str, float]:
        """Top-5: a label among the five largest outputs (all, of fewer classes), in percent."""
        right = ranks(_logits(outputs), data.labels) < 5
        return {"top-5": float(np.count_nonzero(right) * 100 / len(right))}


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
            f"Output {name!r} has shape {values.shape}; classification needs one number for each class, (N, classes)"
        )
    return values


task = Classification()
