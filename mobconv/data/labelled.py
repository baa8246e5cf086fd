"""Labelled images, decoded: from a parquet file, a folder of images by class, a CSV file of paths, or the hub."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.common.text import plural
from mobconv.data import folder, hub, listing, table
from mobconv.data.encoded import EncodedImages, Pick, preferred_split
from mobconv.data.images import Fit, decode
from mobconv.errors import InputError, setting


@dataclass(frozen=True, eq=False)
class Images:
    """Images, and their labels or other targets.

    source   as the user named it
    pixels   (N, H, W, C) uint8, RGB where C is 3; labels: (N,) int64, from 0, empty where the data has none
    names    of the classes, empty where the data has none
    sha256   over pixels and labels
    groups   (N,) int64, equal for images that depend on each other (of one scan, patient or scene); None where the data
             has no such column
    split    that was read, empty where the data has none
    skipped  number of images that were left out, as they cannot be decoded
    notes    what was chosen or left out, as sentences
    targets  what outputs are compared with besides labels, such as masks (N, H, W), by name
    float_outputs  of the float network, (N, ...) by name, for tasks that compare with them; None where there are none
    """

    source: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    sha256: str
    groups: NDArray[np.int64] | None = None
    split: str = ""
    skipped: int = 0
    notes: tuple[str, ...] = ()
    targets: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    float_outputs: Mapping[str, NDArray[Any]] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def kind(self) -> str:
        """What the samples are."""
        return "images"

    @property
    def fed(self) -> NDArray[np.uint8]:
        """What is fed to a network, behind preprocessing."""
        return self.pixels


def load(
    source: str,
    limit: int | None = None,
    fit: Fit | None = None,
    channels: int = 3,
    skip_bad: bool = False,
    with_labels: bool = True,
) -> Images:
    """Read and decode labelled images.

    source: path of a parquet file, a CSV file or a folder, or a name on the hub; limit: take the first so many images;
    fit: applied to each image (see Preprocessing.fit); channels: see `images.decode`; skip_bad: leave out images that
    cannot be decoded, and count them; with_labels: False for a task that needs none, where the data may have none.
    Raises InputError where the data cannot be read, has no image or label column, an image cannot be decoded, or images
    have several sizes.
    """
    encoded = open_encoded(source, with_labels)
    count = len(encoded.labels) if limit is None else min(limit, len(encoded.labels))
    unlabelled = not with_labels and all(label is None for label in encoded.labels[:count])
    labels = np.zeros(0, np.int64) if unlabelled else _labels(encoded.labels[:count], source)
    pixels, kept, notes = decode_all(encoded, count, source, fit, channels, skip_bad)
    labels = labels if unlabelled else labels[kept]
    groups = None
    if encoded.groups is not None:
        groups = np.unique([str(value) for value in encoded.groups[:count]], return_inverse=True)[1].astype(np.int64)
        groups = groups[kept]
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes() + labels.astype("<i8").tobytes())
    return Images(
        source,
        pixels,
        labels,
        encoded.names,
        digest.hexdigest(),
        groups,
        encoded.split,
        count - len(kept),
        (*encoded.notes, *notes),
    )


def class_names(source: str) -> tuple[str, ...]:
    """Names of a data set's classes, without decoding it; empty where it has none. Raises InputError as `load`."""
    return open_encoded(source, with_labels=False).names


def open_encoded(source: str, with_labels: bool, pick: Pick = preferred_split) -> EncodedImages:
    """Open images without decoding one; pick: which split is read, where there are several. Raises InputError."""
    path = Path(source)
    if path.is_dir():
        return folder.read(path, with_labels, pick)
    if path.exists():
        if path.suffix in listing.SUFFIXES:
            return listing.read(path, with_labels)
        if path.suffix != ".parquet":
            raise InputError(
                f"{source}: data is a .parquet file, a folder of images by class, a .csv file of paths and labels, or "
                "a hub name"
            )
        return table.read(path, with_labels)
    if path.suffix or source.count("/") != 1 or source.startswith((".", "/")):
        raise InputError(f"{source}: no such file or folder")
    return hub.read(source, with_labels, pick)


def _labels(values: Sequence[Any], source: str) -> NDArray[np.int64]:
    for position, value in enumerate(values):
        if not isinstance(value, int):
            raise InputError(f"{source}: row {position} has label {value!r}; labels are whole numbers from 0")
        if not 0 <= value < 1 << 31:
            raise InputError(f"{source}: row {position} has label {value}; labels start at 0")
    return np.asarray(values, np.int64)


def decode_all(
    encoded: EncodedImages, count: int, source: str, fit: Fit | None, channels: int, skip_bad: bool
) -> tuple[NDArray[np.uint8], list[int], list[str]]:
    """Decode the first `count` images: pixels, positions of those that could be decoded, notes on the others.

    skip_bad and InputError as in `load`.
    """
    pixels = np.empty((0, 0, 0, channels), np.uint8)
    kept: list[int] = []
    bad: list[str] = []
    for position, (name, content) in enumerate(encoded.read(count)):
        try:
            if isinstance(content, Exception):
                raise content
            image = decode(content, channels, fit)
        except InputError as error:
            bad.append(f"{name} cannot be decoded: {error.text}")
            if not skip_bad:
                raise InputError(
                    f"{bad[0]}. Remove or replace it, or leave such images out: {setting('skip_bad', True)}"
                ) from error
            continue
        if not kept:
            pixels = _room(count, image.shape, source)
        if image.shape != pixels.shape[1:]:
            sizes = " and ".join(f"{width}x{height}" for height, width in (pixels.shape[1:3], image.shape[:2]))
            raise InputError(
                f"{source}: images of {sizes} in one set; resize them to what the network takes, or say how: "
                f'{setting("preprocessing")} with "size": [height, width]'
            )
        pixels[len(kept)] = image
        kept.append(position)
    if not kept:
        raise InputError(
            f"{source}: no images in it that can be decoded: {bad[0]}" if bad else f"{source}: no images in it"
        )
    notes = [f"left out {plural(len(bad), 'image')} of {count}, such as {bad[0]}"] if bad else []
    return pixels[: len(kept)], kept, notes


def _room(count: int, shape: tuple[int, ...], source: str) -> NDArray[np.uint8]:
    """An array for all images. Raises InputError where they would not fit into this machine's memory."""
    size = count * int(np.prod(shape))
    if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2:
        raise InputError(
            f"{source}: {count} images of {shape[1]}x{shape[0]} would take {size >> 30} GB of memory, more than half "
            f'of what this machine has; take fewer, or say {setting("preprocessing")} with "size": [height, width]'
        )
    return np.empty((count, *shape), np.uint8)
