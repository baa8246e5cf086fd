"""How far outputs are from those of a reference, whatever they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class OutputDeviation:
    """The distance of outputs from a reference's.

    snr_db     10 log10(sum reference^2 / sum difference^2); None where they are equal or it is undefined
    max_error  the largest |difference| of a sample over that sample's largest |reference|, of the worst sample
    """

    snr_db: float | None
    max_error: float


def output_error(outputs: Mapping[str, NDArray[Any]], reference: Mapping[str, NDArray[Any]]) -> OutputDeviation:
    """Compare named outputs, each (N, ...), with a reference's of the same names or order; all outputs together."""
    noise = signal = worst = 0.0
    for value, wanted in zip(outputs.values(), reference.values(), strict=True):
        against = wanted.astype(np.float64).reshape(len(wanted), -1)
        difference = value.astype(np.float64).reshape(len(value), -1) - against
        noise += float((difference**2).sum())
        signal += float((against**2).sum())
        largest = np.maximum(np.abs(against).max(axis=1), np.finfo(np.float32).tiny)
        worst = float(np.maximum(worst, (np.abs(difference).max(axis=1) / largest).max()))
    defined = np.isfinite(noise) and noise > 0 and signal > 0
    return OutputDeviation(float(10 * np.log10(signal / noise)) if defined else None, worst)
