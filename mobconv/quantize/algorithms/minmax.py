"""Minmax: codes span the range of each group, so that no weight is clipped.

    linear      s = (max(w, 0) - min(w, 0)) / (2^n - 1),  z = round(-min(w, 0) / s)
    symmetric   s = max |w| / (2^(n-1) - 1)

in the units of the weights; s is rounded to fp16 before codes are chosen. At 1 bit, linear has the two ends of the
range as its values; symmetric has the mean magnitude, as under `mse`, since no range has to be spanned.

Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
section 3; Nagel et al. 2021, "A white paper on neural network quantization", section 3.1, "min-max".
"""

from __future__ import annotations

import numpy as np

from mobconv.quantize import linear, symmetric
from mobconv.quantize.groups import FittedGroups, Grouped
from mobconv.schemes import Mode


def fit(weights: Grouped, mode: Mode, bits: int, fp16: bool) -> FittedGroups:
    """Codes and parameters of weights (groups, weights of a group) float32. fp16: scales and tables are fp16 numbers.

    Raises ValueError for kmeans, which has no range to span.
    """
    if mode is Mode.LINEAR and bits == 1:
        return linear.encode_pair(weights, np.sort(weights, axis=1)[:, [0, -1]], fp16)
    if mode is Mode.LINEAR:
        return linear.encode(weights, *linear.span(weights, bits, fp16), bits)
    if mode is Mode.SYMMETRIC and bits == 1:
        return symmetric.encode_signs(weights, fp16)
    if mode is Mode.SYMMETRIC:
        return symmetric.encode(weights, symmetric.span(weights, bits, fp16), bits)
    raise ValueError(f"minmax does not support {mode}")
