"""k-means: w = table[q], the table being the optimal one-dimensional clustering (intervals.py). No random starts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.scales import Floats, Grouped, round_to


def fit(weights: Grouped, bits: int, fp16: bool) -> tuple[NDArray[np.uint8], Floats]:
    """Codes (groups, k) uint8 and tables (groups, 2^bits) float32, ascending.

    A group with fewer distinct values than entries has its table padded with its last value; codes
    never point there. fp16: entries are fp16 numbers, rounded before codes are chosen.
    """
    from mobconv.quantize import sorting
    from mobconv.quantize.clustering import centres

    entries = 2**bits
    tables = np.empty((len(weights), entries), np.float32)
    codes = np.empty(weights.shape, np.uint8)
    for group, values in enumerate(weights):
        distinct, counts = sorting.distinct(values)
        table, _ = sorting.runs(round_to(centres(distinct, counts, entries), fp16))
        tables[group] = np.pad(table, (0, entries - len(table)), mode="edge")
        # half-way values go to the lower entry
        edges = (table[1:].astype(np.float64) + table[:-1]) / 2
        sorting.codes(values, edges, codes[group])
    return codes, tables


def used_entries(table: Floats) -> int:
    """How many leading entries of one group's table (2^bits,) differ: the rest is padding."""
    return 1 + int(np.flatnonzero(np.diff(table))[-1] + 1) if np.any(np.diff(table)) else 1
