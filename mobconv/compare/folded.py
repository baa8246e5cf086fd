"""A factor on the input that a converter multiplied into the first layer's weights.

litert-torch does so with a bare factor in front of a convolution, as pixels over 255. The weights in the file then are
the checkpoint's times 1/255, which has nothing to do with quantization: preprocessing stands in another place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobconv.compare.traced import Use

Floats = NDArray[np.float32]

# Quantization to the nearest of a few values shrinks a weight (to 0.6 of its norm at one bit), and no factor that
# preprocessing has is as near to 1: over 255, over 127.5, over 255 * 0.2.
_LEAST = 8.0
# Channels' factors are one unless they differ by more than so much of it, and by so many times their own uncertainty.
_SAME, _CERTAIN = 1e-3, 6.0


def folded(use: Use, held: Floats, value: Floats, channels: Sequence[int]) -> Floats | None:
    """The factors in a first layer's weight, (1,) or, where each of the input's channels has its own, (channels,).

    held, value: the weight in the file and in the checkpoint, of the site's shape; channels: (of the input,), empty
    where it has no such axis. None where both weights are about as large. Each output channel tells the factor by the
    slope of the checkpoint's weights over the file's, which rounding to the nearest does not bend; the median is
    taken, so that one wrong channel does not count.
    """
    rows = [np.moveaxis(each, use.site.axis, 0).astype(np.float64) for each in (held, value)]
    common, _ = _slope(*(each.reshape(len(each), -1) for each in rows))
    if not np.isfinite(common) or 1 / _LEAST < abs(common) < _LEAST:
        return None
    if use.family == "conv" and use.site.axis == 0 and rows[0].shape[1:2] == tuple(channels):
        parts = range(rows[0].shape[1])
        told = np.array([_slope(*(each[:, c].reshape(len(each), -1) for each in rows)) for c in parts])
        own, error = told.T
        if np.all(np.isfinite(own)) and np.ptp(own) > max(_SAME * abs(common), _CERTAIN * error.max()):
            return np.asarray(own, np.float32)
    return np.array([common], np.float32)


def _slope(held: NDArray[np.float64], value: NDArray[np.float64]) -> tuple[float, float]:
    """Median over rows of the factor `held` has over `value`, and its standard error; NaN where no row tells."""
    products = (held * value).sum(axis=1)
    squares = (held * held).sum(axis=1)
    live = (products != 0) & (squares != 0)
    if not live.any():
        return float("nan"), float("nan")
    found = squares[live] / products[live]
    middle = float(np.median(found))
    # of a median of normal values: 1.253 sigma / sqrt(n), sigma being 1.483 times the median deviation
    return middle, float(1.253 * 1.483 * np.median(np.abs(found - middle)) / np.sqrt(len(found)))


def unfolded(weight: Floats, factors: Floats | None) -> Floats:
    """The weight without them."""
    if factors is None:
        return weight
    shape = [1] * weight.ndim
    if len(factors) > 1:
        shape[1] = -1
    return np.asarray(weight / factors.reshape(shape), np.float32)
