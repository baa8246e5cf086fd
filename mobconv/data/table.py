"""Labelled images in a parquet file: a column of images or of their bytes, and one of labels.

A row contains its image. One that has only a path is refused: a data set that somebody sent opens no other file, and
nothing on a network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.common import file_kind
from mobconv.data.encoded import GROUPS, LABELS, NO_LABELS, EncodedImages
from mobconv.data.images import MOST_BYTES
from mobconv.errors import InputError

if TYPE_CHECKING:
    import pyarrow
    from pyarrow.parquet import ParquetFile

_BATCH = 16  # rows whose images are in memory at once
_BYTES = ("image", "img", "bytes", "image_bytes", "picture", "png", "jpeg", "jpg")  # columns of plain bytes


def read(path: Path, with_labels: bool = True) -> EncodedImages:
    """Open a parquet file; with_labels: whether it must have labels.

    Raises InputError for one that is damaged, without rows, images or labels.
    """
    from pyarrow import ArrowException, parquet

    if not path.stat().st_size:
        raise InputError(f"{path} is empty: 0 bytes")
    file_kind.refuse(path, "parquet file")
    try:
        table = parquet.ParquetFile(path)
        schema = table.schema_arrow
        if not table.metadata.num_rows:
            raise InputError(f"{path}: no images in it, the table has no rows")
        features = _features(schema)
        image, label = _image_column(schema, features, path), _label_column(schema, features)
        if label is None and with_labels:
            columns = ", ".join(schema.names)
            raise InputError(f"{path}: no labels. A parquet file needs a column `label`; it has {columns}. {NO_LABELS}")
        group = next((name for name in GROUPS if name in schema.names), None)
        columns = table.read([name for name in (label, group) if name])
        labels = columns.column(label).to_pylist() if label else [None] * table.metadata.num_rows
        groups = columns.column(group).to_pylist() if group else None
    except (ArrowException, OSError) as error:
        text = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"{path}: cannot be read as a data set: {text}") from error
    names = features.get(label or "", {}).get("names") or ()
    classes = tuple(map(str, names)) if isinstance(names, list) else ()
    return EncodedImages(labels, lambda count: _images(table, image, count, path), classes, groups)


def _features(schema: pyarrow.Schema) -> dict[str, dict[str, Any]]:
    """What `datasets` wrote of its columns: {name: {"_type": "Image"}}; empty in a file of another writer."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: value for name, value in features.items() if isinstance(value, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _is_bytes(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _image_column(schema: pyarrow.Schema, features: dict[str, dict[str, Any]], path: Path) -> str:
    """The column of images: {bytes, path} as `datasets` writes them, else plain bytes. Raises InputError."""
    from pyarrow import types

    structs = [
        field.name
        for field in schema
        if types.is_struct(field.type)
        and field.type.get_field_index("bytes") >= 0
        and _is_bytes(field.type.field("bytes").type)
    ]
    described = [name for name in structs if features.get(name, {}).get("_type") == "Image"]
    plain = [field.name for field in schema if _is_bytes(field.type)]
    named = [name for name in _BYTES if name in plain]
    for candidates in (described, structs, named):
        if candidates:
            return str(candidates[0])
    if len(plain) > 1:
        raise InputError(f"{path}: several columns of bytes, {', '.join(plain)}; name that of the images `image`")
    if not plain:
        raise InputError(f"{path}: no column of images or of their bytes (it has {', '.join(schema.names)})")
    return str(plain[0])


def _label_column(schema: pyarrow.Schema, features: dict[str, dict[str, Any]]) -> str | None:
    described = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    labels = [*described, *(name for name in LABELS if name in schema.names)]
    return str(labels[0]) if labels else None


def _images(table: ParquetFile, column: str, count: int, path: Path) -> Iterator[tuple[str, bytes | Exception]]:
    """The first `count` images, some rows at a time."""
    from pyarrow import ArrowException, types

    position = 0
    try:
        for batch in table.iter_batches(_BATCH, columns=[column]):
            values = batch.column(0)
            paths = None
            if types.is_struct(values.type):
                paths = values.field("path") if values.type.get_field_index("path") >= 0 else None
                values = values.field("bytes")
            for number, value in enumerate(values):
                if position == count:
                    return
                yield f"{path}: image {position}", _content(value, paths[number].as_py() if paths is not None else None)
                position += 1
    except (ArrowException, OSError) as error:
        text = str(error).strip().partition("\n")[0]
        raise InputError(f"{path}: cannot be read as a data set: {text}") from error


def _content(value: pyarrow.Scalar, path: Any) -> bytes | Exception:
    """The bytes of an image, or why there are none."""
    if not value.is_valid:
        where = f", only the path {str(path)[:200]!r}, and no other file is opened" if path else ""
        return InputError(f"the row has no bytes of an image{where}")
    buffer = value.as_buffer()
    if buffer.size > MOST_BYTES:
        return InputError(f"a file of {buffer.size >> 20} MB; an image may have {MOST_BYTES >> 20} MB")
    return bytes(buffer.to_pybytes())
