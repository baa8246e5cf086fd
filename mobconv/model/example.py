"""Example inputs: from the shape that a user or a file states, and what a wrong shape may have been meant as."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError, UsageError, setting

_COLOURS = (1, 3, 4)  # channels of images
_HOW = (
    f"say the input's shape, for one image, as in {setting('input_shape', (1, 3, 224, 224))} "
    "(batch, channels, height, width)"
)


def zeros(shape: Any, name: str) -> NDArray[np.float32]:
    """Zeros of a stated shape, float32.

    name: of the checkpoint. Raises UsageError where no shape is stated (None), InputError for one that is not a list
    of at least two lengths, each 1 or more.
    """
    if shape is None:
        raise UsageError(f"{name} does not say what shape its input has: {_HOW}")
    try:
        lengths = [int(length) for length in shape]
        if len(lengths) < 2 or min(lengths) < 1:
            raise ValueError("too short")
        return np.zeros(lengths, np.float32)
    except (TypeError, ValueError, MemoryError) as error:
        raise InputError(f"{name}: invalid input shape {shape!r}; {_HOW}") from error


def fitted(preprocessing: Preprocessing | None, shape: tuple[int, ...], name: str) -> Preprocessing | None:
    """Give a mean and a std to each channel of an input of images; for any other input return the same.

    Raises InputError where mean and std are of several channels, and the input has another number.
    """
    if preprocessing is None or len(shape) != 4:
        return preprocessing
    last = preprocessing.layout == "nhwc"
    if _channels_last(shape) and not last:
        return preprocessing
    try:
        return preprocessing.for_channels(shape[3 if last else 1])
    except InputError as error:
        raise InputError(f"{name} has an input of shape {shape}: {error.text}") from error


def hint(shape: tuple[int, ...]) -> str:
    """Say what a shape may have been meant as, for networks that do not run on it; '' for no guess."""
    meant: tuple[int, ...] = ()
    if _channels_last(shape):
        meant = shape[0], shape[3], *shape[1:3]
    elif len(shape) == 3 and shape[0] in _COLOURS:
        meant = 1, *shape
    elif len(shape) == 3 and shape[2] in _COLOURS:
        meant = 1, shape[2], *shape[:2]
    if not meant:
        return ""
    return f"The shape of images is batch, channels, height, width: did you mean {setting('input_shape', meant)}?"


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Whether a shape looks like (N, H, W, C)."""
    return len(shape) == 4 and shape[3] in _COLOURS and shape[1] not in _COLOURS
