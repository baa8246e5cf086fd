"""Samples for a network or a file: images behind preprocessing, or arrays by the names of inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mobconv.data import arrays, chosen, labelled
from mobconv.data.arrays import Arrays, Samples
from mobconv.data.chosen import CalibrationData
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError
from mobconv.evaluate.tasks import Task, compares_with_float

_COLOURS = (1, 3, 4)  # channels of images


def load(
    source: str,
    inputs: Mapping[str, tuple[int, ...]],
    preprocessing: Callable[[], Preprocessing],
    limit: int | None = None,
    task: Task | None = None,
    skip_bad: bool = False,
) -> Samples:
    """Read samples for inputs of these names and shapes.

    Bytes (N, height, width, channels) of an .npz are images where the only input takes images; other arrays go in as
    they are. preprocessing: of images, called where the data has images; may raise UsageError. limit: take the first so
    many; task: it says whether labels are needed; skip_bad: leave out images that cannot be decoded. Raises InputError
    where the data cannot be read or fits no input.
    """
    if arrays.accepts(source):
        content = arrays.load(source, list(inputs), limit)
        return as_images(content) if _pixels(content, inputs) else content
    _check_one_input(source, inputs)
    needed = task is None or not compares_with_float(task)
    taken = preprocessing()
    return labelled.load(source, limit, taken.fit, taken.channels, skip_bad, needed)


def choose(
    wanted: CalibrationData,
    inputs: Mapping[str, tuple[int, ...]],
    preprocessing: Callable[[], Preprocessing],
    skip_bad: bool = False,
) -> Samples:
    """Choose samples to calibrate on, for inputs of these names and shapes; further arguments and errors as of `load`.

    Raises UsageError for a split that the data has not.
    """
    if arrays.accepts(wanted.data):
        content = chosen.arrays(wanted, arrays.load(wanted.data, list(inputs)))
        return as_images(content) if _pixels(content, inputs) else content
    _check_one_input(wanted.data, inputs)
    taken = preprocessing()
    return chosen.images(wanted, taken.fit, taken.channels, skip_bad)


def _check_one_input(source: str, inputs: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError for images where a network has several inputs."""
    if len(inputs) != 1:
        raise InputError(
            f"{source}: images go into networks with one input, and this one has {', '.join(inputs)}; give an .npz "
            "file with an array for each input"
        )


def _pixels(content: Arrays, inputs: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether arrays are bytes of images for an input that takes images in any layout."""
    values, shapes = [*content.inputs.values()], [*inputs.values()]
    if len(values) != 1 or values[0].dtype != np.uint8 or values[0].ndim != 4 or len(shapes[0]) != 4:
        return False
    channels = values[0].shape[3]
    return channels in _COLOURS and channels in (shapes[0][1], shapes[0][3])


def as_images(content: Arrays) -> Images:
    """Arrays whose only input is bytes (N, height, width, channels), as images."""
    (pixels,) = content.inputs.values()
    labels, targets = content.labels, content.targets
    if len(labels) and labels.min() < 0:
        raise InputError(f"{content.source}: row {int(labels.argmin())} has label {labels.min()}; labels start at 0")
    return Images(
        content.source,
        pixels,
        labels,
        content.names,
        content.sha256,
        content.groups,
        notes=content.notes,
        targets=targets,
    )
