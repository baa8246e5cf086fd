"""Encoded images with their labels: what every kind of data gives before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mobconv.errors import setting

GROUPS = ("scan", "scan_id", "group", "patient", "subject", "scene", "video")  # columns, see labelled.Images.groups
LABELS = ("label", "labels", "fine_label")  # columns
SPLITS = {
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
    "train": ("train", "training"),
    "calibration": ("calibration", "calib"),
}  # in the order of preference to evaluate on, with the names that people give them


@dataclass(frozen=True)
class EncodedImages:
    """Rows of a data set.

    labels  of each row, as the data has them: whole numbers from 0, where all is well; None without labels
    read    the first so many images, in order: its name, such as a path, and the content; the content is an
            InputError where the row has none
    names   of the classes, empty where the data has none
    groups  of each row, None where the data has no such column
    notes   what was chosen or left out, as sentences
    split   that was read, empty where the data has none
    """

    labels: Sequence[Any]
    read: Callable[[int], Iterator[tuple[str, bytes | Exception]]]
    names: tuple[str, ...] = ()
    groups: Sequence[Any] | None = None
    notes: tuple[str, ...] = ()
    split: str = ""


NO_LABELS = f"Without labels, {setting('task', 'fidelity')} compares outputs with those of the float network"


Pick = Callable[[Sequence[str]], str]
"""Names of splits -> the one to read. May raise UsageError."""


def preferred_split(names: Sequence[str]) -> str:
    """Of several splits the one to evaluate on: test, else validation, train, calibration, else the first."""
    return _first_of(names, list(SPLITS.values()))


def split_to_calibrate_on(names: Sequence[str]) -> str:
    """Of several splits the one to calibrate on: calibration, else train, validation, test, else the first."""
    return _first_of(names, list(SPLITS.values())[::-1])


def _first_of(names: Sequence[str], kinds: Sequence[Sequence[str]]) -> str:
    for known in kinds:
        for name in names:
            if name.casefold() in known:
                return name
    return names[0]


def note_on_splits(split: str, names: Sequence[str]) -> str:
    """Say which split was read, and which others there are."""
    others = [repr(name) for name in names if name != split]
    return f"the split {split!r} is read" + (f"; there is also {', '.join(others)}" if others else "")
