"""TFLite Model Metadata: what an image input takes, and the labels of the output, as Android's libraries read them.

A flatbuffer of its own (identifier M001) in the buffer of the metadata entry TFLITE_METADATA; files that it names,
the labels here, are appended to the model as a zip archive. Source: metadata_schema.fbs of TFLite Support, version
1.1.0. Numbers below are the positions of fields in its tables.
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
_PARSER = "1.0.0"  # the oldest parser of the schema that knows all that is written here
_IMAGE, _NORMALIZATION, _AXIS_LABELS = 2, 1, 2  # ContentProperties, ProcessUnitOptions, AssociatedFileType
_COLOURS = {"rgb": 1, "gray": 2}


@dataclass(frozen=True)
class Metadata:
    """What a file says of its input and output.

    mean, std  of pixels of 0 to 255, one or one a channel, applied by the caller; empty where it does not say
    colour     'rgb', 'gray' or ''
    labels     names of the classes; empty where it has none
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    colour: str = ""
    labels: tuple[str, ...] = ()


def write(found: Metadata, inputs: Sequence[str]) -> bytes:
    """The flatbuffer of a model with one input of this name, and one output."""
    import flatbuffers

    made = flatbuffers.Builder(512)
    options = _table(made, [("o", _floats(made, found.mean)), ("o", _floats(made, found.std))])
    unit = _table(made, [("b", _NORMALIZATION), ("o", options)])
    image = _table(made, [("b", _COLOURS.get(found.colour, 0))])
    content = _table(made, [("b", _IMAGE), ("o", image)])
    fields: list[tuple[str, int] | None] = [("o", made.CreateString(inputs[0])), None, None, ("o", content)]
    taken = _table(made, [*fields, ("o", _tables(made, [unit]))])
    given_fields: list[tuple[str, int] | None] = []
    if found.labels:
        file = _table(made, [("o", made.CreateString(LABELS)), None, ("b", _AXIS_LABELS)])
        given_fields = [None, None, None, None, None, None, ("o", _tables(made, [file]))]
    given = _table(made, given_fields)
    graph = _table(made, [None, None, ("o", _tables(made, [taken])), ("o", _tables(made, [given]))])
    parser = made.CreateString(_PARSER)
    root = _table(made, [None, None, None, ("o", _tables(made, [graph])), None, None, None, ("o", parser)])
    made.Finish(root, file_identifier=_IDENTIFIER)
    return bytes(made.Output())


def with_labels(data: bytes, labels: Sequence[str]) -> bytes:
    """A model with the file of its labels behind it; the same bytes each time."""
    if not labels:
        return data
    held = io.BytesIO(data)
    with zipfile.ZipFile(held, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABELS), "\n".join(labels) + "\n")
    return held.getvalue()


def read(flatbuffer: bytes, data: bytes) -> Metadata:
    """What `write` and `with_labels` wrote, or others did; empty where it is of another kind or damaged."""
    if flatbuffer[4:8] != _IDENTIFIER:
        return Metadata()
    try:
        return _read(flatbuffer, data)
    except Exception:  # whatever a reader of bytes meets in bytes that are not what it expects
        return Metadata()


def _read(flatbuffer: bytes, data: bytes) -> Metadata:
    from flatbuffers import encode, number_types, table

    held = bytearray(flatbuffer)
    root = _Table(table.Table(held, encode.Get(number_types.UOffsetTFlags.packer_type, held, 0)))
    graph = root.tables(3)[0]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    colour = ""
    for taken in graph.tables(2)[:1]:
        for unit in taken.tables(4):
            if unit.byte(0) == _NORMALIZATION and (options := unit.table(1)):
                mean, std = options.floats(0), options.floats(1)
        content = taken.table(3)
        if content and content.byte(0) == _IMAGE and (image := content.table(1)):
            colour = {number: name for name, number in _COLOURS.items()}.get(image.byte(0), "")
    files = [file.text(0) for given in graph.tables(3)[:1] for file in given.tables(6) if file.byte(2) == _AXIS_LABELS]
    labels: tuple[str, ...] = ()
    if files and zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            labels = tuple(archive.read(files[0]).decode().splitlines())
    return Metadata(mean, std, colour, labels)


class _Table:
    """A table of a flatbuffer, its fields by position."""

    def __init__(self, held: Any) -> None:
        self._held = held

    def _at(self, field: int) -> int:
        return int(self._held.Offset(4 + 2 * field))

    def byte(self, field: int) -> int:
        from flatbuffers import number_types

        at = self._at(field)
        return int(self._held.Get(number_types.Int8Flags, at + self._held.Pos)) if at else 0

    def text(self, field: int) -> str:
        at = self._at(field)
        return bytes(self._held.String(at + self._held.Pos)).decode() if at else ""

    def table(self, field: int) -> _Table | None:
        from flatbuffers import table

        at = self._at(field)
        return _Table(table.Table(self._held.Bytes, self._held.Indirect(at + self._held.Pos))) if at else None

    def tables(self, field: int) -> list[_Table]:
        from flatbuffers import table

        held = self._held
        return self._each(field, lambda at: _Table(table.Table(held.Bytes, held.Indirect(at))))

    def floats(self, field: int) -> tuple[float, ...]:
        from flatbuffers import number_types

        return tuple(self._each(field, lambda at: float(self._held.Get(number_types.Float32Flags, at))))

    def _each(self, field: int, read: Callable[[int], Any]) -> list[Any]:
        at = self._at(field)
        if not at:
            return []
        start = self._held.Vector(at)
        return [read(start + 4 * i) for i in range(self._held.VectorLen(at))]


def _table(made: Any, fields: Sequence[tuple[str, int] | None]) -> int:
    """A table: ('o', offset), ('b', byte) or None for each field in order."""
    made.StartObject(len(fields))
    for position, held in enumerate(fields):
        if held is None:
            continue
        kind, value = held
        if kind == "o":
            made.PrependUOffsetTRelativeSlot(position, value, 0)
        else:
            made.PrependInt8Slot(position, value, 0)
    return int(made.EndObject())


def _tables(made: Any, offsets: Sequence[int]) -> int:
    made.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        made.PrependUOffsetTRelative(offset)
    return int(made.EndVector())


def _floats(made: Any, values: Sequence[float]) -> int:
    made.StartVector(4, len(values), 4)
    for value in reversed(values):
        made.PrependFloat32(value)
    return int(made.EndVector())
