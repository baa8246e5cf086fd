"""Cells that an ML Program can represent; needs no coremltools."""

from __future__ import annotations

from dataclasses import replace

from mobconv.backends.base import Support
from mobconv.schemes import Cell, Granularity, Mode, Storage

_NOTE = (
    "may fail on the Neural Engine of macOS 26 (CPU and GPU are fine): weights are decoded by a chain of ops, and "
    "coremltools PR 2688 reports one with an fp16 table failing there"
)


def native_bits(bits: int, table: bool) -> int:
    """The width in which one op decodes codes of `bits` bits, of a lookup table or not: their own, or the next."""
    return next(width for width in ((1, 2, 3, 4, 6, 8) if table else (1, 4, 8)) if width >= bits)


def support(cell: Cell) -> Support:
    """`Backend.support`. Packed: the bits asked for, at every width. Native: widths that a single op decodes."""
    scheme = cell.scheme
    if scheme.mode is None:
        return Support(scheme.bits, requires="iOS16")
    native = native_bits(scheme.bits, scheme.mode is Mode.KMEANS)
    if cell.storage is Storage.NATIVE and native != scheme.bits:
        wider = support(replace(cell, scheme=replace(scheme, bits=native), storage=Storage.PACKED))
        kind = "index" if scheme.mode is Mode.KMEANS else "integer"
        return replace(
            wider,
            reason=f"native: {wider.stored_bits} bits is Core ML's next {kind} type that one op decodes; "
            f"{scheme.bits} bits take a chain of ops",
        )
    one_table = scheme.mode is Mode.KMEANS or scheme.bits == 1
    chained = scheme.bits in (7, 5) or (not one_table and scheme.bits in (6, 3, 2))
    tables = scheme.bits in (8, 6, 4, 2, 1) and scheme.granularity is Granularity.TENSOR
    old = tables if one_table else scheme.bits == 8 and scheme.granularity is not Granularity.OC16
    return Support(scheme.bits, requires="iOS16" if old else "iOS18", note=_NOTE if chained else "")
