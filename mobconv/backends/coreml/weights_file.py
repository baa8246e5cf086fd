"""weight.bin: the file of an ML Program's constants.

Layout, all integers little-endian (MILBlob/Blob/StorageFormat.hpp of apple/coremltools):

    0    uint32 number of blobs, uint32 version (2), 56 zero bytes
    64   records, each starting at a multiple of 64:
         uint32 0xDEADBEEF, uint32 type, uint64 bytes of data, uint64 offset of data,
         uint64 unused bits in the last byte, 32 zero bytes; then the data

A program names a blob by the offset of its record. Types below a byte are one bit stream, least
significant bit first (the layout of `mobconv.quantize.packing`); signed ones are two's complement.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import InputError
from mobconv.quantize import packing

ALIGNMENT = 64
_SENTINEL = 0xDEADBEEF
_VERSION = 2
_RECORD = struct.Struct("<IIQQQ")


@dataclass(frozen=True)
class Dtype:
    """A type of MIL: its name in the proto, its width in bits, its numpy type here, and its number in weight.bin."""

    name: str
    bits: int
    numpy: str
    blob: int | None = None

    def pack(self, values: NDArray[np.generic]) -> bytes:
        """Values of any shape -> their bytes in C order."""
        typed = np.ascontiguousarray(values, self.numpy)
        if self.bits >= 8:
            return typed.tobytes()
        codes = typed.view(np.uint8)
        if self.numpy == "i1":
            codes = codes & np.uint8(2**self.bits - 1)
        return packing.pack(codes, self.bits).tobytes()

    def unpack(self, data: bytes, count: int) -> NDArray[np.generic]:
        """Bytes -> (count,) values. Raises ValueError when there are too few."""
        if self.bits >= 8:
            return np.frombuffer(data, self.numpy, count)
        codes = packing.unpack(np.frombuffer(data, np.uint8), self.bits, count)
        if self.numpy == "i1":
            half = 1 << (self.bits - 1)
            return ((codes.astype(np.int16) ^ half) - half).astype(np.int8)
        return codes


DTYPES = {
    dtype.name: dtype
    for dtype in (
        Dtype("FLOAT16", 16, "<f2", 1),
        Dtype("FLOAT32", 32, "<f4", 2),
        Dtype("UINT8", 8, "u1", 3),
        Dtype("INT8", 8, "i1", 4),
        Dtype("INT16", 16, "<i2", 6),
        Dtype("UINT16", 16, "<u2", 7),
        Dtype("INT4", 4, "i1", 8),
        Dtype("UINT1", 1, "u1", 9),
        Dtype("UINT2", 2, "u1", 10),
        Dtype("UINT4", 4, "u1", 11),
        Dtype("UINT3", 3, "u1", 12),
        Dtype("UINT6", 6, "u1", 13),
        Dtype("INT32", 32, "<i4", 14),
        Dtype("UINT32", 32, "<u4", 15),
        Dtype("INT64", 64, "<i8"),
        Dtype("UINT64", 64, "<u8"),
        Dtype("FLOAT64", 64, "<f8"),
        Dtype("BOOL", 8, "?"),
    )
}


class BlobWriter:
    """Collects blobs in memory; equal ones are stored once."""

    def __init__(self) -> None:
        self._parts = bytearray(ALIGNMENT)
        self._offsets: dict[tuple[str, int, bytes], int] = {}

    def add(self, dtype: Dtype, values: NDArray[np.generic]) -> int:
        """Add values -> the offset of their record. Raises ValueError for a type that weight.bin does not have."""
        if dtype.blob is None:
            raise ValueError(f"weight.bin has no type {dtype.name}")
        data = dtype.pack(values)
        key = (dtype.name, values.size, data)
        if key not in self._offsets:
            self._align()
            start = len(self._parts)
            unused = len(data) * 8 - values.size * dtype.bits
            self._parts += _RECORD.pack(_SENTINEL, dtype.blob, len(data), start + ALIGNMENT, unused).ljust(
                ALIGNMENT, b"\0"
            )
            self._parts += data
            self._offsets[key] = start
        return self._offsets[key]

    def finish(self) -> bytes:
        """The whole file."""
        self._parts[:8] = struct.pack("<II", len(self._offsets), _VERSION)
        return bytes(self._parts)

    def _align(self) -> None:
        self._parts += bytes(-len(self._parts) % ALIGNMENT)


def blob_range(content: bytes, offset: int, dtype: Dtype, count: int) -> tuple[int, int]:
    """(first byte, length) of the data of the blob at `offset`. Raises InputError as `read_blob` does."""
    where = f"weight.bin, offset {offset}"
    if offset + ALIGNMENT > len(content):
        raise InputError(f"{where}: the file ends at {len(content)}; it is truncated")
    sentinel, blob, size, start, _ = _RECORD.unpack_from(content, offset)
    if sentinel != _SENTINEL:
        raise InputError(f"{where}: no blob starts here; the file is damaged")
    if blob != dtype.blob or size != (count * dtype.bits + 7) // 8:
        raise InputError(f"{where}: the blob is not the {count} values of {dtype.name} that the program declares")
    if start + size > len(content):
        raise InputError(f"{where}: its data end at {start + size}, the file at {len(content)}; it is truncated")
    return start, size


def read_blob(content: bytes, offset: int, dtype: Dtype, count: int) -> NDArray[np.generic]:
    """(count,) values of the blob at `offset`. Raises InputError where it is truncated or of another type."""
    start, size = blob_range(content, offset, dtype, count)
    return dtype.unpack(content[start : start + size], count)
