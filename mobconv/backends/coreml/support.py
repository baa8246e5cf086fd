"""What an ML Program can hold; needs no coremltools."""

from __future__ import annotations

from mobconv.backends.base import NO_NATIVE, Support
from mobconv.schemes import Cell, Granularity, Mode, Storage

_NOTE = (
    "may fail on the Neural Engine of macOS 26 (CPU and GPU are fine): weights are decoded by a chain of ops, and "
    "coremltools PR 2688 reports one with an fp16 table failing there"
)


def support(cell: Cell) -> Support:
    """Stored bits are the bits asked, at every width. Storage native: not in this release."""
    scheme = cell.scheme
    if cell.storage is Storage.NATIVE:
        return Support(None, reason=NO_NATIVE)
    if scheme.mode is None:
        return Support(scheme.bits, requires="iOS16")
    one_table = scheme.mode is Mode.KMEANS or scheme.bits == 1
    chained = scheme.bits in (7, 5) or (not one_table and scheme.bits in (6, 3, 2))
    tables = scheme.bits in (8, 6, 4, 2, 1) and scheme.granularity is Granularity.TENSOR
    old = tables if one_table else scheme.bits == 8
    return Support(scheme.bits, requires="iOS16" if old else "iOS18", note=_NOTE if chained else "")
