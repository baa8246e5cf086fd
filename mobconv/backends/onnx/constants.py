"""The constants of an ONNX file: values raw or in typed fields, or in files of external data beside it."""

from __future__ import annotations

import math
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mobconv.backends.byte_attribution import StoredConstant
from mobconv.errors import InputError

_FEW = 1 << 20  # larger constants are not searched for being all zero, as zero points may be


class Constants:
    """The constants of one model. files: of external data, all below the model's folder, with their sizes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: dict[Path, int] = {}

    def stored(self, tensor: Any, key: str, name: str) -> StoredConstant:
        """A TensorProto as a constant. Raises InputError where its values are not those that it declares."""
        from onnx import TensorProto

        try:
            kind = TensorProto.DataType.Name(tensor.data_type).lower()
        except ValueError as error:
            raise InputError(f"{self.path}: {name}: unknown element type {tensor.data_type}") from error
        kind = {"float": "float32", "double": "float64"}.get(kind, kind)
        digits = re.search(r"\d+", kind)
        bits = 8 if kind == "bool" else int(digits[0]) if digits else 0
        shape = tuple(int(length) for length in tensor.dims)
        if any(length < 0 for length in shape):
            raise InputError(f"{self.path}: {name}: a dimension below 0")
        wanted = (math.prod(shape) * bits + 7) // 8
        if tensor.data_location == TensorProto.EXTERNAL:
            where, count = self._outside(tensor, name, wanted)
            return StoredConstant(where, name, shape, kind, bits, count)
        if tensor.HasField("raw_data"):
            if len(tensor.raw_data) != wanted and bits:
                raise InputError(f"{self.path}: {name}: {len(tensor.raw_data)} bytes, where its shape needs {wanted}")
            return StoredConstant(key, name, shape, kind, bits, wanted, null=wanted < _FEW and not any(tensor.raw_data))
        bare = type(tensor)()
        bare.CopyFrom(tensor)
        for field in ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"):
            bare.ClearField(field)
        null = len(tensor.int32_data) < _FEW and not any(tensor.int32_data)
        return StoredConstant(key, name, shape, kind, bits, tensor.ByteSize() - bare.ByteSize(), null=null)

    def _outside(self, tensor: Any, name: str, wanted: int) -> tuple[tuple[Path, int, int], int]:
        """(file, first byte, length) of external data, and the length.

        Raises InputError for a file outside the model's folder, and for bytes that the file has not.
        """
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        parts = PurePosixPath(location).parts
        bad = (
            not parts or PurePosixPath(location).is_absolute() or {"..", "\0"} & {*parts, *location} or "\\" in location
        )
        file = self.path.parent.joinpath(*parts)
        if bad or any(path.is_symlink() for path in [file, *file.parents][: len(parts)]):
            raise InputError(f"{self.path}: {name} has its data in {location!r}, outside of the model's folder")
        if not file.is_file() or file.samefile(self.path):
            raise InputError(
                f"{self.path}: {name} has its data in {location!r}, and no such file lies beside the model"
            )
        size = self.files.setdefault(file, file.stat().st_size)
        try:
            start, count = int(entries.get("offset", 0)), int(entries.get("length", wanted))
        except ValueError as error:
            raise InputError(f"{self.path}: {name}: its offset or length in {location} is not a number") from error
        if count != wanted or start < 0 or start + count > size:
            raise InputError(
                f"{self.path}: {name}: {location} does not have {wanted} bytes from {start} on: it is truncated"
            )
        return (file, start, count), count
