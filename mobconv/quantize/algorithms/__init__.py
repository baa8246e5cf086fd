"""How codes and parameters are chosen: one algorithm a file, registered by one line in `mobconv.schemes.algorithms`.

An algorithm decides scales, zero points and tables. What a code stands for, which parameters a file can contain, and
the nearest code of a weight are shared: `linear`, `symmetric` and `kmeans` (codes of each mode), `scales` (fp16).
"""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from mobconv.errors import UsageError
from mobconv.quantize.groups import FittedGroups, Grouped
from mobconv.schemes import ALGORITHMS, Mode, Needs


class WeightAlgorithm(Protocol):
    """A module whose algorithm needs the weights alone; for one of layer statistics see `layer.LayerAlgorithm`."""

    def fit(self, weights: Grouped, mode: Mode, bits: int, fp16: bool) -> FittedGroups:
        """Choose codes and parameters of groups, each by itself.

        weights: float32 (groups, weights of a group), finite, contiguous, at least one weight a group; mode: one that
        the algorithm's entry names; bits: 1 to 8. fp16: scales and tables are numbers that `scales.round_to` leaves as
        they are. The same weights give the same bytes, on any number of threads; it is called from several at once.
        """
        ...


def load(name: str) -> WeightAlgorithm:
    """The module of an algorithm. Raises UsageError for an algorithm that needs more than weights."""
    algorithm = ALGORITHMS[name]
    if algorithm.needs is not Needs.WEIGHTS:
        raise UsageError(f"Algorithm {name} needs {algorithm.needs}; it quantizes a whole network, not one tensor")
    return cast(WeightAlgorithm, import_module(algorithm.module))
