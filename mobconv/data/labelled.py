"""Labelled images from a parquet file, a folder of images by class, or a data set of the Hugging Face hub.

`datasets` reads all three: it decodes images and knows the columns' types.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.common import file_kind
from mobconv.errors import InputError, setting

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

_SPLITS = ("test", "validation", "train")
_GROUPS = ("scan", "scan_id", "group", "patient", "subject", "scene", "video")  # columns, see Images.groups


@dataclass(frozen=True, eq=False)
class Images:
    """Images, and their labels or other targets.

    source  as the user named it
    pixels  (N, H, W, 3) uint8, RGB; labels: (N,) int64, from 0, empty where the data has none
    names   of the classes, empty where the data has none
    sha256  over pixels and labels
    groups  (N,) int64, equal for images that depend on each other (of one scan, patient or scene); None where the data
            has no such column
    targets what outputs are compared with besides labels, such as masks (N, H, W), by name
    float_outputs  of the float network, (N, ...) by name, for tasks that compare with them; None where there are none
    """

    source: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    sha256: str
    groups: NDArray[np.int64] | None = None
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
    source: str, limit: int | None = None, fit: Callable[[Image], Image] | None = None, with_labels: bool = True
) -> Images:
    """Read and decode labelled images.

    source: path of a parquet file or folder, or a name on the hub; limit: take the first so many images; fit: applied
    to each image (see Preprocessing.fit); with_labels: False for a task that needs none, where the data may have none.
    Raises InputError where the data cannot be read, has no image or label column, or has images of several sizes.
    """
    with tempfile.TemporaryDirectory(prefix="mobconv-data-") as cache, _quiet():
        rows = _open(source, cache)
        if limit is not None:
            rows = rows.select(range(min(limit, len(rows))))
        if not len(rows):
            raise InputError(f"{source}: no images in it")
        image, label = _columns(rows, source, with_labels)
        labels = np.zeros(0, np.int64) if label is None else _labels(rows, label, source)
        pixels = _pixels(rows, image, source, fit)
        groups = _groups(rows)
        names = () if label is None else tuple(getattr(rows.features[label], "names", None) or ())
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes() + labels.astype("<i8").tobytes())
    return Images(source, pixels, labels, names, digest.hexdigest(), groups)


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


def _open(source: str, cache: str) -> Dataset:
    import datasets
    from pyarrow import parquet

    path = Path(source)
    try:
        if path.is_dir():
            splits = datasets.load_dataset("imagefolder", data_dir=str(path), cache_dir=cache)
        elif path.exists():
            if path.suffix != ".parquet":
                raise InputError(f"{source}: data is a .parquet file, a folder of images by class, or a hub name")
            if not path.stat().st_size:
                raise InputError(f"{source} is empty: 0 bytes")
            file_kind.refuse(path, "parquet file")
            if not parquet.read_metadata(path).num_rows:
                raise InputError(f"{source}: no images in it, the table has no rows")
            splits = datasets.load_dataset("parquet", data_files=str(path), cache_dir=cache)
        elif path.suffix or source.count("/") != 1 or source.startswith((".", "/")):
            raise InputError(f"{source}: no such file or folder")
        else:
            splits = datasets.load_dataset(source)
    except InputError:
        raise
    except Exception as error:  # datasets raises its own, pyarrow's, OSError and requests' errors
        cause = error.__cause__ or error
        text = str(cause).strip().partition("\n")[0] or type(cause).__name__
        if "corresponds to no data" in text:
            raise InputError(f"{source}: no images in it") from error
        here = "" if path.exists() else "no such file or folder here, and from the Hugging Face hub it "
        raise InputError(f"{source}: {here}cannot be read as a data set: {text}") from error
    split = next((name for name in _SPLITS if name in splits), next(iter(splits)))
    return splits[split]


def _columns(rows: Dataset, source: str, with_labels: bool) -> tuple[str, str | None]:
    import datasets

    images = [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    if not images:
        raise InputError(f"{source}: no column of images (it has {', '.join(rows.features)})")
    labels = [name for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    labels += [name for name in ("label", "labels", "fine_label") if name in rows.features and name not in labels]
    if not labels and with_labels:
        raise InputError(
            f"{source}: no labels. A parquet file needs a column `label`; a folder of images, one folder for each "
            f"class. Without labels, {setting('task', 'fidelity')} compares outputs with those of the float network"
        )
    return images[0], labels[0] if labels else None


def _labels(rows: Dataset, column: str, source: str) -> NDArray[np.int64]:
    values = rows[column][:]
    if any(not isinstance(value, int) for value in values):
        position = next(i for i, value in enumerate(values) if not isinstance(value, int))
        raise InputError(f"{source}: row {position} has label {values[position]!r}; labels are whole numbers from 0")
    labels = np.asarray(values, np.int64)
    if labels.min() < 0:
        raise InputError(f"{source}: row {int(labels.argmin())} has label {labels.min()}; labels start at 0")
    return labels


def _groups(rows: Dataset) -> NDArray[np.int64] | None:
    """The group of each image, as a number."""
    column = next((name for name in _GROUPS if name in rows.features), None)
    if column is None:
        return None
    return np.unique([str(value) for value in rows[column][:]], return_inverse=True)[1].astype(np.int64)


def _pixels(rows: Dataset, column: str, source: str, fit: Callable[[Image], Image] | None) -> NDArray[np.uint8]:
    decoded: list[NDArray[Any]] = []
    for position in range(len(rows)):
        try:
            image = rows[position][column].convert("RGB")
            decoded.append(np.asarray(fit(image) if fit else image))
        except Exception as error:  # Pillow raises several types for a broken image
            raise InputError(f"{source}: image {position} cannot be decoded: {error}") from error
        if decoded[-1].shape != decoded[0].shape:
            sizes = f"{decoded[0].shape[1]}x{decoded[0].shape[0]} and {decoded[-1].shape[1]}x{decoded[-1].shape[0]}"
            raise InputError(
                f"{source}: images of {sizes} in one set; resize them to what the network takes, or say how: "
                f'{setting("preprocessing")} with "size": [height, width]'
            )
    return np.stack(decoded)
