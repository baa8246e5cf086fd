"""Regression: numbers, judged by the mean absolute error (MAE) or the root of the mean squared error (RMSE)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.data.arrays import Samples
from mobconv.errors import InputError
from mobconv.evaluate.tasks.base import Metric, Outputs, Scores, first_output, only_target
from mobconv.evaluate.tasks.measured import Measure, MeasuredTask


def _errors(outputs: Outputs, data: Samples) -> NDArray[np.float64]:
    """Output less target of the first output, (N, numbers)."""
    output, target = first_output(outputs), only_target(data)
    return np.asarray(output.astype(np.float64).reshape(target.shape) - target, np.float64).reshape(len(target), -1)


def _absolute(outputs: Outputs, data: Samples) -> Scores:
    """Mean absolute error of each sample, (N,)."""
    return np.asarray(np.abs(_errors(outputs, data)).mean(axis=1))


def _squared(outputs: Outputs, data: Samples) -> Scores:
    """Mean squared error of each sample, (N,)."""
    return np.asarray((_errors(outputs, data) ** 2).mean(axis=1))


def _root(squared: Scores, counts: NDArray[np.int64]) -> float:
    return float(np.sqrt(counts @ squared / counts.sum()))


class Regression(MeasuredTask):
    """The first output and the only target have the same numbers; all of them count alike.

    MAE and RMSE are over all numbers of all samples (scikit-learn's mean_absolute_error, and root_mean_squared_error of
    the flattened arrays), in the unit of the target.
    """

    name = "regression"
    measures = (
        Measure(Metric("MAE", "", "", higher_is_better=False, decimals=4), _absolute),
        Measure(Metric("RMSE", "", "", higher_is_better=False, decimals=4), _squared, _root),
    )

    def check(self, outputs: Outputs, data: Samples) -> None:
        """Raise InputError where output and target have other shapes; a length of 1 may be absent."""
        name, output = next(iter(outputs.items()))
        target = only_target(data)
        if _squeezed(output.shape) != _squeezed(target.shape):
            raise InputError(
                f"{data.source}: the target has shape {target.shape}, and output {name!r} has {output.shape}; "
                "regression compares the first output with a target of the same numbers"
            )
        super().check({name: output}, data)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape (N, ...) without lengths of 1 behind the first."""
    return shape[0], *(length for length in shape[1:] if length != 1)


task = Regression()
