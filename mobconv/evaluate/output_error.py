"""How near outputs are to the reference's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Closeness:
    """How near outputs are to the reference's.

    agreement  fraction of images with the same top-1
    snr_db     10 log10(sum reference^2 / sum difference^2); None when exact or undefined
    max_error  the largest |difference| of an image over that image's largest |reference|, worst image
    """

    agreement: float
    snr_db: float | None
    max_error: float


def closeness(outputs: Floats, reference: Floats) -> Closeness:
    """Outputs against the reference's, both (N, classes)."""
    wide, against = outputs.astype(np.float64), reference.astype(np.float64)
    difference = wide - against
    noise, signal = float((difference**2).sum()), float((against**2).sum())
    defined = np.isfinite(noise) and noise > 0 and signal > 0
    largest = np.maximum(np.abs(against).max(axis=1), np.finfo(np.float32).tiny)
    return Closeness(
        float((outputs.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        float(10 * np.log10(signal / noise)) if defined else None,
        float((np.abs(difference).max(axis=1) / largest).max()),
    )
