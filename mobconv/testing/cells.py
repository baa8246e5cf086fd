"""Cells that tests of backends ask for."""

from __future__ import annotations

from collections.abc import Iterator

from mobconv.backends.base import Backend
from mobconv.schemes import BITS, Cell, Compute, Granularity, Mode, Scheme, Storage

# every form at wide and narrow widths, every granularity, storage and precision of compute
SCHEMES = (
    *("fp32", "fp16", "w8-linear", "w4-linear", "w3-linear-tensor", "w1-linear", "w2-linear-oc16"),
    *("w8-symmetric", "w5-symmetric", "w1-symmetric", "w4-symmetric-oc16"),
    *("w8-kmeans", "w5-kmeans", "w1-kmeans", "w3-kmeans-channel", "w2-kmeans-oc16"),
    *("w4-linear@native", "w1-symmetric@native", "w3-kmeans@native"),
    *("fp32@fp16", "w4-linear@fp16", "w4-kmeans@fp16"),
)


def cell_named(backend: Backend, scheme: str) -> Cell:
    """The cell of a scheme, with the backend's default precision of compute."""
    return Cell.parse(f"{backend.name}/{scheme}", backend.default_compute)


def every_cell(backend: Backend) -> Iterator[Cell]:
    """Every scheme, stored and computed in every way."""
    schemes = [Scheme(32), Scheme(16)]
    schemes += [Scheme(bits, mode, shared) for mode in Mode for bits in BITS for shared in Granularity]
    for scheme in schemes:
        for storage in Storage:
            for compute in Compute:
                yield Cell(backend.name, scheme, storage, compute, backend.default_compute)
