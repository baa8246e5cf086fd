"""k-means: w = table[q], the table being the optimal one-dimensional clustering.

In one dimension clusters are intervals of the sorted values, so the optimum is found exactly by
dynamic programming (Wu 1991; Gronlund et al. 2017, https://arxiv.org/abs/1701.07204). The solver is
kmeans1d (MIT), O(2^n * weights) time and 16 * 2^n * weights bytes. No random starts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.scales import Floats, Grouped, round_to


def fit(weights: Grouped, bits: int, fp16: bool) -> tuple[NDArray[np.uint8], Floats]:
    """Codes (groups, k) uint8 and tables (groups, 2^bits) float32, ascending.

    A group with fewer distinct values than entries has its table padded with its last value; codes
    never point there. fp16: entries are fp16 numbers, rounded before codes are chosen.
    """
    entries = 2**bits
    tables = np.empty((len(weights), entries), np.float32)
    codes = np.empty(weights.shape, np.uint8)
    for group, values in enumerate(weights):
        centres = np.unique(round_to(_centres(values, entries), fp16))
        tables[group] = np.pad(centres, (0, entries - len(centres)), mode="edge")
        # half-way values go to the lower entry
        edges = (centres[1:].astype(np.float64) + centres[:-1]) / 2
        codes[group] = np.searchsorted(edges, values, side="left")
    return codes, tables


def _centres(values: Floats, entries: int) -> NDArray[np.float64]:
    """The optimal cluster means, ascending, at most `entries`."""
    import kmeans1d

    distinct = np.unique(values)
    if len(distinct) <= entries:
        return distinct.astype(np.float64)
    return np.sort(np.asarray(kmeans1d.cluster(np.sort(values), entries).centroids, np.float64))


def used_entries(table: Floats) -> int:
    """How many leading entries of one group's table (2^bits,) differ: the rest is padding."""
    return 1 + int(np.flatnonzero(np.diff(table))[-1] + 1) if np.any(np.diff(table)) else 1
