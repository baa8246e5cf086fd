"""Classification: top-1 and top-5."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobconv.data.labelled import Images
from mobconv.errors import InputError

Floats = NDArray[np.float32]
_CHANCE = 1.5  # times one over the number of classes


@dataclass(frozen=True)
class Accuracy:
    """Fractions of images; top5 counts a label among the five largest outputs (all, of fewer classes)."""

    top1: float
    top5: float


def check_labels(images: Images, classes: int) -> None:
    """Raise InputError when the data has labels that the network has no output for."""
    if images.labels.max() >= classes:
        row = int(images.labels.argmax())
        raise InputError(
            f"{images.source}: row {row} has label {images.labels[row]}, but the network has {classes} outputs "
            f"(0 to {classes - 1}); this data is not the network's"
        )


def check_names(images: Images, labels: Sequence[str], what: str) -> str:
    """Hold the data's names of its classes against a network's -> a warning where they may be others, or ''.

    Names are compared without case, blanks and the like. Raises InputError where they are certainly others: the same
    names in another order, some the same and some not, or none the same and not as many. (Folders may be called by
    numbers, or by WordNet's.)
    """
    if not labels or not images.names:
        return ""
    ours, theirs = ([re.sub(r"[\W_]+", "", str(name)).casefold() for name in names] for names in (labels, images.names))
    if theirs == ours[: len(theirs)]:
        return ""
    number = next(i for i, name in enumerate(theirs) if i >= len(ours) or ours[i] != name)
    own = repr(labels[number]) if number < len(labels) else "not there"
    told = f"{images.source}: class {number} is {images.names[number]!r}, and output {number} of {what} is {own}"
    if {*ours} & {*theirs} or len(ours) != len(theirs):
        order = "in another order" if {*ours} >= {*theirs} else "of other classes"
        raise InputError(f"{told}: the labels are {order}; accuracy on this data would mean nothing")
    return f"{told}: if these are not names of the same classes, accuracy on this data means nothing"


def accuracy(outputs: Floats, labels: NDArray[np.int64]) -> Accuracy:
    """Top-1 and top-5 of outputs (N, classes).

    Of equal ones the first ranks first, as argmax has it; not-a-number ranks last, so it never counts as right.
    """
    clean = np.where(np.isnan(outputs), -np.inf, outputs)
    own = np.take_along_axis(clean, labels[:, None], axis=1)
    earlier = np.arange(outputs.shape[1]) < labels[:, None]
    rank = ((clean > own) | ((clean == own) & earlier)).sum(axis=1)
    rank[np.isnan(np.take_along_axis(outputs, labels[:, None], axis=1))[:, 0]] = max(outputs.shape[1], 5)
    return Accuracy(float((rank < 1).mean()), float((rank < 5).mean()))


def guessing(top1: float, classes: int) -> str:
    """A warning where a float baseline's top-1, a fraction, is at most 1.5 times that of guessing; or ''."""
    if top1 > _CHANCE / classes:
        return ""
    return (
        f"the float baseline has a top-1 of {top1 * 100:.2f} %, no more than guessing among {classes} classes: mean "
        "and std, or the order of classes, are not those of its training. No figure here tells what conversion or "
        "quantization costs"
    )
