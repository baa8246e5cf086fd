"""A folder of images, one folder for each class; or such folders below `train`, `val`, `test`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mobconv.common.text import plural
from mobconv.data.encoded import NO_LABELS, SPLITS, EncodedImages, Pick, note_on_splits, preferred_split
from mobconv.data.images import MOST_BYTES, SUFFIXES
from mobconv.errors import InputError


def read(folder: Path, with_labels: bool = True, pick: Pick = preferred_split) -> EncodedImages:
    """List a folder's images, sorted by class and path.

    A class is a folder; images in folders within it are of the class too. Other files are left out, and counted in a
    note. with_labels: whether there must be classes; pick: which split is read, where there are several. Raises
    InputError for a folder without images or without classes.
    """
    folder, split, notes = _of_split(folder, pick)
    classes: dict[str, list[Path]] = {}
    others: list[Path] = []
    for child in sorted(_folders(folder)):
        images: list[Path] = []
        for path in _files(child):
            (images if path.suffix.casefold() in SUFFIXES else others).append(path)
        if images or not any(child.iterdir()):  # an empty folder keeps its class's place
            classes[child.name] = images
    loose = [path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix.casefold() in SUFFIXES]
    paths = [path for images in classes.values() for path in images]
    if not paths:
        if loose and not with_labels:
            return EncodedImages([None] * len(loose), lambda count: read_files(loose[:count]), split=split)
        if loose:
            raise InputError(
                f"{folder}: no labels: its {plural(len(loose), 'image')} are in no folder of a class. A folder of "
                f"images has one folder for each class. {NO_LABELS}"
            )
        listed = f"; it has {plural(len(others), 'other file')}, such as {others[0].name}" if others else ""
        raise InputError(f"{folder}: no images in it{listed}")
    if others:
        notes.append(f"left out {plural(len(others), 'file')} of no image format that is read, such as {others[0]}")
    if loose:
        notes.append(f"left out {plural(len(loose), 'image')} in no folder of a class, such as {loose[0]}")
    labels = [number for number, images in enumerate(classes.values()) for _ in images]
    return EncodedImages(
        labels, lambda count: read_files(paths[:count]), tuple(classes), notes=tuple(notes), split=split
    )


def read_files(paths: Sequence[Path]) -> Iterator[tuple[str, bytes | Exception]]:
    """Read files one after another; an InputError in place of one that cannot be read, or is far too large."""
    for path in paths:
        try:
            size = path.stat().st_size
            if size > MOST_BYTES:
                yield str(path), InputError(f"a file of {size >> 20} MB; an image may have {MOST_BYTES >> 20} MB")
            else:
                yield str(path), path.read_bytes()
        except OSError as error:
            yield str(path), InputError(error.strerror or str(error))


def _of_split(folder: Path, pick: Pick) -> tuple[Path, str, list[str]]:
    """The folder of the split to read, its name, and a note; the folder itself where it has none."""
    known = {name for names in SPLITS.values() for name in names}
    names = sorted(child.name for child in _folders(folder))
    if not names or not all(name.casefold() in known for name in names):
        return folder, "", []
    split = pick(names)
    if (
        pick is preferred_split
        and not list(_folders(folder / split))
        and any(list(_folders(folder / name)) for name in names)
    ):
        split = next(name for name in names if list(_folders(folder / name)))
    return folder / split, split, [note_on_splits(split, names)]


def _folders(folder: Path) -> Iterator[Path]:
    """Folders in a folder, without hidden ones."""
    return (child for child in folder.iterdir() if child.is_dir() and not child.name.startswith((".", "__")))


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, sorted, without hidden ones; each folder once, where links make a circle."""
    seen = set()
    for place, below, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        below[:] = sorted(name for name in below if not name.startswith(".")) if real not in seen else []
        if real not in seen:
            yield from (
                path for name in sorted(files) if not name.startswith(".") and (path := Path(place, name)).is_file()
            )
        seen.add(real)
