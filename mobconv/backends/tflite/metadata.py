"""TFLite Model Metadata: normalisation of an image input, and labels of the output, as Android's libraries read them.

It is a flatbuffer (identifier M001) in the buffer of the metadata entry TFLITE_METADATA. Files that it names, here the
labels, are appended to the model as a zip archive. Source: metadata_schema.fbs of TFLite Support, version 1.1.0.
Numbers below are positions of fields in its tables.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

KEY = "TFLITE_METADATA"
LABELS = "labels.txt"
_IDENTIFIER = b"M001"
_PARSER = "1.0.0"  # the oldest version of the schema that has all fields written here
_IMAGE, _NORMALIZATION, _AXIS_LABELS = 2, 1, 2  # ContentProperties, ProcessUnitOptions, AssociatedFileType
_COLOURS = {"rgb": 1, "gray": 2}
_MOST_LABELS = 1 << 24  # bytes that a file of labels may have when it is unpacked


@dataclass(frozen=True)
class Metadata:
    """The metadata of a file's input and output.

    mean, std  of pixels of 0 to 255, one number or one for each channel, applied by the caller; empty: not given
    colour     'rgb', 'gray' or '' (not given)
    labels     names of the classes; empty: not given
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    colour: str = ""
    labels: tuple[str, ...] = ()


def write(metadata: Metadata, inputs: Sequence[str]) -> bytes:
    """The flatbuffer for a model with one input of the first of these names, and one output."""
    import flatbuffers

    builder = flatbuffers.Builder(512)
    options = _table(builder, [("o", _floats(builder, metadata.mean)), ("o", _floats(builder, metadata.std))])
    unit = _table(builder, [("b", _NORMALIZATION), ("o", options)])
    image = _table(builder, [("b", _COLOURS.get(metadata.colour, 0))])
    content = _table(builder, [("b", _IMAGE), ("o", image)])
    fields: list[tuple[str, int] | None] = [("o", builder.CreateString(inputs[0])), None, None, ("o", content)]
    input_tensor = _table(builder, [*fields, ("o", _tables(builder, [unit]))])
    output_fields: list[tuple[str, int] | None] = []
    if metadata.labels:
        file = _table(builder, [("o", builder.CreateString(LABELS)), None, ("b", _AXIS_LABELS)])
        output_fields = [None, None, None, None, None, None, ("o", _tables(builder, [file]))]
    output_tensor = _table(builder, output_fields)
    graph = _table(
        builder, [None, None, ("o", _tables(builder, [input_tensor])), ("o", _tables(builder, [output_tensor]))]
    )
    parser = builder.CreateString(_PARSER)
    root = _table(builder, [None, None, None, ("o", _tables(builder, [graph])), None, None, None, ("o", parser)])
    builder.Finish(root, file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def with_labels(data: bytes, labels: Sequence[str]) -> bytes:
    """A model with the file of its labels appended; equal bytes for equal labels."""
    if not labels:
        return data
    model = io.BytesIO(data)
    with zipfile.ZipFile(model, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS), "\n".join(labels) + "\n")
    return model.getvalue()


def read(flatbuffer: bytes, data: bytes) -> Metadata:
    """The metadata in a model's bytes `data`, of any tool; empty where it is of another kind or damaged."""
    if flatbuffer[4:8] != _IDENTIFIER:
        return Metadata()
    try:
        return _read(flatbuffer, data)
    except Exception:  # any error that reading unexpected bytes can raise
        return Metadata()


def _read(flatbuffer: bytes, data: bytes) -> Metadata:
    from flatbuffers import encode, number_types, table

    content = bytearray(flatbuffer)
    root = _Table(table.Table(content, encode.Get(number_types.UOffsetTFlags.packer_type, content, 0)))
    graph = root.tables(3)[0]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    colour = ""
    for input_tensor in graph.tables(2)[:1]:
        for unit in input_tensor.tables(4):
            if unit.byte(0) == _NORMALIZATION and (options := unit.table(1)):
                mean, std = options.floats(0), options.floats(1)
        properties = input_tensor.table(3)
        if properties and properties.byte(0) == _IMAGE and (image := properties.table(1)):
            colour = {number: name for name, number in _COLOURS.items()}.get(image.byte(0), "")
    outputs = graph.tables(3)[:1]
    files = [file.text(0) for output in outputs for file in output.tables(6) if file.byte(2) == _AXIS_LABELS]
    labels: tuple[str, ...] = ()
    if files and zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo(files[0]).file_size <= _MOST_LABELS:
                labels = tuple(archive.read(files[0]).decode().splitlines())
    return Metadata(mean, std, colour, labels)


class _Table:
    """A table of a flatbuffer, its fields by position."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def _at(self, field: int) -> int:
        return int(self._table.Offset(4 + 2 * field))

    def byte(self, field: int) -> int:
        from flatbuffers import number_types

        at = self._at(field)
        return int(self._table.Get(number_types.Int8Flags, at + self._table.Pos)) if at else 0

    def text(self, field: int) -> str:
        at = self._at(field)
        return bytes(self._table.String(at + self._table.Pos)).decode() if at else ""

    def table(self, field: int) -> _Table | None:
        from flatbuffers import table

        at = self._at(field)
        return _Table(table.Table(self._table.Bytes, self._table.Indirect(at + self._table.Pos))) if at else None

    def tables(self, field: int) -> list[_Table]:
        from flatbuffers import table

        owner = self._table
        return self._each(field, lambda at: _Table(table.Table(owner.Bytes, owner.Indirect(at))))

    def floats(self, field: int) -> tuple[float, ...]:
        from flatbuffers import number_types

        return tuple(self._each(field, lambda at: float(self._table.Get(number_types.Float32Flags, at))))

    def _each(self, field: int, read: Callable[[int], Any]) -> list[Any]:
        at = self._at(field)
        if not at:
            return []
        start = self._table.Vector(at)
        return [read(start + 4 * i) for i in range(self._table.VectorLen(at))]


def _table(builder: Any, fields: Sequence[tuple[str, int] | None]) -> int:
    """A table: ('o', offset), ('b', byte) or None for each field in order."""
    builder.StartObject(len(fields))
    for position, entry in enumerate(fields):
        if entry is None:
            continue
        kind, value = entry
        if kind == "o":
            builder.PrependUOffsetTRelativeSlot(position, value, 0)
        else:
            builder.PrependInt8Slot(position, value, 0)
    return int(builder.EndObject())


def _tables(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _floats(builder: Any, values: Sequence[float]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependFloat32(value)
    return int(builder.EndVector())
