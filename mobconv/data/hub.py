"""A data set of the Hugging Face hub, downloaded by `datasets`."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.data.encoded import GROUPS, LABELS, EncodedImages, Pick, note_on_splits, preferred_split
from mobconv.errors import InputError

if TYPE_CHECKING:
    from datasets import Dataset


def read(name: str, with_labels: bool = True, pick: Pick = preferred_split) -> EncodedImages:
    """Load a data set by its name; with_labels: whether it must have labels; pick: which of its splits is read.

    Raises InputError where it cannot be loaded, has no images or no labels.
    """
    import datasets

    with _quiet():
        try:
            splits = datasets.load_dataset(name)
        except Exception as error:  # datasets raises its own, pyarrow's, OSError and requests' errors
            cause = error.__cause__ or error
            text = str(cause).strip().partition("\n")[0] or type(cause).__name__
            raise InputError(
                f"{name}: no such file or folder here, and from the Hugging Face hub it cannot be read as a data set: "
                f"{text}"
            ) from error
    split = pick(list(splits))
    rows: Dataset = splits[split]
    images = [column for column, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    labels = [column for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    labels += [column for column in LABELS if column in rows.features and column not in labels]
    if not images or (with_labels and not labels):
        missing = "no labels" if images else "no column of images"
        raise InputError(f"{name}: {missing} (it has {', '.join(rows.features)})")
    rows = rows.cast_column(images[0], datasets.Image(decode=False))
    group = next((column for column in GROUPS if column in rows.features), None)

    def read_images(count: int) -> Iterator[tuple[str, bytes | Exception]]:
        for position in range(count):
            yield f"{name}: image {position}", _content(rows[position][images[0]])

    return EncodedImages(
        rows[labels[0]][:] if labels else [None] * len(rows),
        read_images,
        tuple(getattr(rows.features[labels[0]], "names", None) or ()) if labels else (),
        rows[group][:] if group else None,
        (note_on_splits(split, list(splits)),) if len(splits) > 1 else (),
        split,
    )


def _content(value: dict[str, Any] | None) -> bytes | Exception:
    """The bytes of an image; from a file only where `datasets` downloaded it."""
    import datasets

    value = value or {}
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    path = value.get("path")
    cache = os.path.realpath(datasets.config.HF_CACHE_HOME)
    if path and Path(os.path.realpath(path)).is_relative_to(cache):
        try:
            return Path(path).read_bytes()
        except OSError as error:
            return InputError(error.strerror or str(error))
    return InputError("the row has no bytes of an image" + (", only a path, and no other file is opened" * bool(path)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars of `datasets`, and its logs of errors that it raises as well."""
    import datasets

    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
        if bars:
            datasets.enable_progress_bars()
