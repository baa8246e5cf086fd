"""Groups: weights that share one scale or table, as an algorithm receives them and as it returns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.weights import Codes, Floats

Grouped = NDArray[np.float32]  # (groups, weights of a group)


@dataclass(frozen=True, eq=False)
class FittedGroups:
    """Codes and parameters of groups of one size; what a code stands for is in the table of QuantizedWeight.

    codes       uint8 (groups, weights of a group), 0 <= code < 2^bits
    scale       float32 (groups,), or None with a table
    zero_point  uint8 (groups,), 0 <= z < 2^bits: linear above 1 bit only
    table       float32 (groups, 2^bits): kmeans, and linear at 1 bit
    """

    codes: Codes
    scale: Floats | None = None
    zero_point: Codes | None = None
    table: Floats | None = None

    @property
    def parameters(self) -> Floats:
        """The scales or the tables."""
        parameters = self.scale if self.table is None else self.table
        assert parameters is not None
        return parameters


def joined(parts: Sequence[FittedGroups]) -> FittedGroups:
    """One after the other, codes flattened to (weights,) since groups of different parts differ in size."""

    def joined_field(field: str) -> NDArray[Any] | None:
        arrays = [getattr(part, field) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    codes = np.concatenate([part.codes.reshape(-1) for part in parts])
    return FittedGroups(codes, joined_field("scale"), joined_field("zero_point"), joined_field("table"))
