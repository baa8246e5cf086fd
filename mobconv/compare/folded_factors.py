"""A factor on the input that a converter multiplied into the first layer's weights.

litert-torch does so with a bare factor in front of a convolution, as in pixels over 255. The weights in the file are
then the checkpoint's times 1/255. That is not quantization but preprocessing in another place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobconv.compare.program_view import WeightUse

Floats = NDArray[np.float32]

# Quantization to the nearest of a few values shrinks a weight (to 0.6 of its norm at one bit); the factors of
# preprocessing are farther from 1: over 255, over 127.5, over 255 * 0.2.
_LEAST = 8.0
# Channels share one factor unless theirs differ by more than this share of it, and by this many standard errors.
_SAME, _CERTAIN = 1e-3, 6.0


def folded_factors(use: WeightUse, weight: Floats, original: Floats, channels: Sequence[int]) -> Floats | None:
    """The factors in a first layer's weight: (1,), or (channels,) where the input's channels have different ones.

    weight, original: in the file and in the checkpoint, of the site's shape; channels: (number of the input's
    channels,), empty where the input has no such axis. Returns None where both weights are about as large. The
    estimate is the slope of the checkpoint's weights over the file's, which rounding to the nearest does not bend;
    its median over output channels, so that one wrong channel does not count.
    """
    rows = [np.moveaxis(tensor, use.site.axis, 0).astype(np.float64) for tensor in (weight, original)]
    common, _ = _slope(*(row.reshape(len(row), -1) for row in rows))
    if not np.isfinite(common) or 1 / _LEAST < abs(common) < _LEAST:
        return None
    if use.family == "conv" and use.site.axis == 0 and rows[0].shape[1:2] == tuple(channels):
        slopes = [_slope(*(row[:, c].reshape(len(row), -1) for row in rows)) for c in range(rows[0].shape[1])]
        factors, error = np.array(slopes).T
        if np.all(np.isfinite(factors)) and np.ptp(factors) > max(_SAME * abs(common), _CERTAIN * error.max()):
            return np.asarray(factors, np.float32)
    return np.array([common], np.float32)


def _slope(weight: NDArray[np.float64], original: NDArray[np.float64]) -> tuple[float, float]:
    """Median over rows of the factor of `weight` over `original`, and its standard error; NaN where all rows are 0."""
    products = (weight * original).sum(axis=1)
    squares = (weight * weight).sum(axis=1)
    live = (products != 0) & (squares != 0)
    if not live.any():
        return float("nan"), float("nan")
    factors = squares[live] / products[live]
    median = float(np.median(factors))
    # of a median of normal values: 1.253 sigma / sqrt(n), sigma being 1.483 times the median deviation
    return median, float(1.253 * 1.483 * np.median(np.abs(factors - median)) / np.sqrt(len(factors)))


def without_factors(weight: Floats, factors: Floats | None) -> Floats:
    """The weight divided by its factors; unchanged for None."""
    if factors is None:
        return weight
    shape = [1] * weight.ndim
    if len(factors) > 1:
        shape[1] = -1
    return np.asarray(weight / factors.reshape(shape), np.float32)
