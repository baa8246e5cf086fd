"""A CSV file of paths and labels, beside or above the images that it lists."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mobconv.data.encoded import GROUPS, LABELS, NO_LABELS, EncodedImages
from mobconv.data.folder import read_files
from mobconv.errors import InputError

SUFFIXES = (".csv", ".tsv")
_PATHS = ("path", "file", "filename", "file_name", "image", "image_path", "filepath", "img")
_CLASSES = (*LABELS, "class", "class_name", "target", "category")
_HOW = "it needs a first line with the names of columns, such as `path,label`"


def read(path: Path, with_labels: bool = True) -> EncodedImages:
    """Read a list of images: a first line with names of columns, and a line for each image.

    Paths are relative to the folder of the file, and lead to files below it. Labels are whole numbers from 0, or names,
    which are numbered in alphabetical order. with_labels: whether there must be a column of them. Raises InputError for
    a file that is of another form, or leads elsewhere.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not a list of images: {error}") from error
    columns = {(name or "").strip().casefold(): name for name in (rows[0] if rows else {}) if isinstance(name, str)}
    place = next((columns[name] for name in _PATHS if name in columns), None)
    label = next((columns[name] for name in _CLASSES if name in columns), None)
    if not rows or place is None or (label is None and with_labels):
        missing = "no rows" if not rows else "no column of paths" if place is None else "no column of labels"
        hint = "" if place is None or not rows else f". {NO_LABELS}"
        raise InputError(f"{path}: {missing}; {_HOW}{hint}")
    group = next((columns[name] for name in GROUPS if name in columns), None)
    for number, row in enumerate(rows):
        if not (row[place] or "").strip() or not (label is None or (row[label] or "").strip()):
            raise InputError(f"{path}: row {number} has no path or no label")
    texts = [row[label].strip() for row in rows] if label is not None else []
    paths = [_below(path, row[place].strip(), number) for number, row in enumerate(rows)]
    numbers = all(text.removeprefix("-").isdecimal() for text in texts)
    names = () if numbers else tuple(sorted(set(texts)))
    position = {name: number for number, name in enumerate(names)}

    def images(count: int) -> Iterator[tuple[str, bytes | Exception]]:
        return read_files(paths[:count])

    labels: Sequence[int | None] = [int(text) if numbers else position[text] for text in texts] or [None] * len(rows)
    return EncodedImages(labels, images, names, [row[group] for row in rows] if group else None)


def _below(listing: Path, name: str, number: int) -> Path:
    """The file that a row names. Raises InputError for one that is outside of the folder of the list."""
    folder = os.path.realpath(listing.parent)
    path = Path(os.path.normpath(Path(folder) / name))
    if "\0" in name or not path.is_relative_to(folder):
        raise InputError(
            f"{listing}: row {number} names {name!r}, which is not below {listing.parent}/: images are read from the "
            "folder of their list only. Put the list above them"
        )
    return listing.parent / path.relative_to(folder)
