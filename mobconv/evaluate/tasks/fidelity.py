"""Fidelity: how close outputs are to those of the float network; needs no labels and takes any network.

The relative error is sqrt(sum (y - f)^2 / sum f^2) over all outputs and samples, in percent: an SNR of -20 log10 of it
in dB, so 1 % is 40 dB. It is 0 for the float network, whose SNR is infinite. Agreement, for outputs (N, classes), is
the share of samples with the same class.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mobconv.data.arrays import Samples
from mobconv.errors import InputError
from mobconv.evaluate.tasks.base import Metric, Outputs, Scores, first_output
from mobconv.evaluate.tasks.measured import Measure, MeasuredTask, classes, same


def _float(data: Samples) -> Outputs:
    """Outputs of the float network. Raises InputError where the data has none."""
    if data.float_outputs is None:
        raise InputError(f"{data.source}: outputs are compared with those of the float network, which was not run")
    return data.float_outputs


def _noise_and_signal(outputs: Outputs, data: Samples) -> NDArray[np.float64]:
    """Sums of squares of difference and of the float network's outputs, (N, 2)."""
    sums = np.zeros((len(data), 2))
    for value, wanted in zip(outputs.values(), _float(data).values(), strict=True):
        against = wanted.astype(np.float64).reshape(len(data), -1)
        sums[:, 0] += ((value.reshape(len(data), -1) - against) ** 2).sum(axis=1)
        sums[:, 1] += (against**2).sum(axis=1)
    return sums


def _relative(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """100 sqrt(noise / signal); 0 where there is no noise, infinite where only the signal is 0."""
    noise, signal = counts @ sums
    return 100 * math.sqrt(noise / signal) if signal else math.inf if noise else 0.0


def _snr(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """SNR in dB, infinite for equal outputs."""
    error = _relative(sums, counts)
    return -20 * math.log10(error / 100) if error else math.inf


def _largest(outputs: Outputs, data: Samples) -> Scores:
    """Largest absolute error of each sample over the output's largest absolute value, in percent, (N,).

    That of all outputs stands in for an output that is 0 throughout.
    """
    worst, wanted = np.zeros(len(data)), _float(data)
    largest = {name: float(np.abs(value).max(initial=0)) for name, value in wanted.items()}
    for value, (name, against) in zip(outputs.values(), wanted.items(), strict=True):
        difference = (value.astype(np.float64) - against).reshape(len(data), -1)
        scale = largest[name] or max(largest.values()) or 1.0
        worst = np.maximum(worst, 100 * np.abs(difference).max(axis=1) / scale)
    return worst


def _maximum(worst: Scores, counts: NDArray[np.int64]) -> float:
    return float(worst[counts > 0].max())


def _agreement(outputs: Outputs, data: Samples) -> Scores:
    """100 for each sample with the float network's class, else 0: (N,)."""
    return np.where(first_output(outputs).argmax(axis=1) == first_output(_float(data)).argmax(axis=1), 100.0, 0.0)


def _has_classes(outputs: Outputs, data: Samples) -> bool:
    return classes(first_output(outputs))


class Fidelity(MeasuredTask):
    """Compare outputs with the float network's."""

    name = "fidelity"
    compares_with_float = True
    measures = (
        Measure(Metric("error", "%", "%", higher_is_better=False, decimals=3), _noise_and_signal, _relative),
        Measure(Metric("agreement", "%", "points", full=100.0), _agreement, applies=_has_classes),
        Measure(Metric("SNR", "dB", "dB", decimals=1), _noise_and_signal, _snr, judges=False),
        Measure(
            Metric("largest-error", "%", "%", higher_is_better=False, decimals=3), _largest, _maximum, judges=False
        ),
    )

    def check(self, outputs: Outputs, data: Samples) -> None:
        """Raise InputError where outputs are not those of the float network in number and shape."""
        shapes, wanted = ([value.shape for value in each.values()] for each in (outputs, _float(data)))
        if shapes != wanted:
            raise InputError(f"outputs have shapes {shapes}, and those of the float network {wanted}")
        super().check(outputs, data)

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        """Fraction of samples of the same class, or whose numbers are all close."""
        return same(outputs, reference)


task = Fidelity()
