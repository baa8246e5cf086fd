"""k-means codes: w = table[q], a table of 2^n values for each group."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.groups import FittedGroups, Grouped
from mobconv.quantize.scales import round_to
from mobconv.quantize.weights import Floats


def encode(weights: Grouped, centres: Iterable[NDArray[np.floating]], bits: int, fp16: bool) -> FittedGroups:
    """The nearest codes, and tables of each group's centres, 1 to 2^bits of them in ascending order.

    Equal centres are one entry of the table. A table with fewer than 2^bits entries is padded with its last one; codes
    never point there. fp16: entries are fp16 numbers, rounded before codes are chosen.
    """
    from mobconv.quantize import sorting

    entries = 2**bits
    tables = np.empty((len(weights), entries), np.float32)
    codes = np.empty(weights.shape, np.uint8)
    for group, (values, centre) in enumerate(zip(weights, centres, strict=True)):
        table, _ = sorting.runs(round_to(centre, fp16))
        tables[group] = np.pad(table, (0, entries - len(table)), mode="edge")
        # half-way values go to the lower entry
        edges = (table[1:].astype(np.float64) + table[:-1]) / 2
        sorting.count_lower(values, edges, codes[group])
    return FittedGroups(codes, table=tables)


def used_entries(table: Floats) -> int:
    """Number of leading entries of one group's table (2^bits,) that differ: the rest is padding."""
    return 1 + int(np.flatnonzero(np.diff(table))[-1] + 1) if np.any(np.diff(table)) else 1
