"""Values of codes by group, while codes and parameters of a layer are being chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.groups import FittedGroups
from mobconv.quantize.layer import Doubles, Indices
from mobconv.quantize.scales import FP16_SMALLEST_NORMAL, round_to
from mobconv.quantize.weights import QuantizedWeight
from mobconv.schemes import Mode


@dataclass
class LevelGrid:
    """Scales and factors, or tables. Indices of levels run over 0 .. K - 1, and levels ascend with them.

    fp16     parameters are fp16 numbers, zero or normal
    first    the code of level 0: 1 for symmetric codes above 1 bit, else 0
    scale    float64 (groups,), or None with a table
    factors  float64 (groups, K): what multiplies the scale; None with a table
    table    float64 (groups, K), or None with a scale
    """

    fp16: bool
    first: int
    scale: Doubles | None
    factors: Doubles | None
    table: Doubles | None
    zero_points: bool

    @classmethod
    def of(cls, weight: QuantizedWeight) -> LevelGrid:
        """The levels of a quantized weight."""
        if weight.table is not None:
            grid = cls(weight.fp16, 0, None, None, None, False)
            grid.table = np.sort(grid.entries(weight.table), axis=1)
            return grid
        assert weight.scale is not None
        first = int(weight.mode is Mode.SYMMETRIC and weight.bits > 1)
        factors = np.ascontiguousarray(weight.factors()[:, first:].astype(np.float64))
        grid = cls(weight.fp16, first, None, factors, None, weight.zero_point is not None)
        grid.scale = grid.scales(weight.scale)
        return grid

    @property
    def levels(self) -> Doubles:
        """float64 (groups, K)."""
        if self.table is not None:
            return self.table
        assert self.scale is not None and self.factors is not None
        return self.scale[:, None] * self.factors

    def values(self, indices: Indices, group: Indices) -> Doubles:
        """The weights (rows, columns) of indices of levels; group (rows,) of each row."""
        return self.levels[group[:, None], indices]

    def scales(self, values: NDArray[np.floating]) -> Doubles:
        """Scales as files contain them: rounded, and none that fp16 has as a subnormal number or as zero."""
        rounded = round_to(values, self.fp16).astype(np.float64)
        return np.maximum(rounded, FP16_SMALLEST_NORMAL) if self.fp16 else rounded

    def entries(self, values: NDArray[np.floating]) -> Doubles:
        """Entries of tables as files contain them: rounded, and zero in place of subnormal fp16 numbers."""
        rounded = round_to(values, self.fp16).astype(np.float64)
        return np.where(np.abs(rounded) < FP16_SMALLEST_NORMAL, 0.0, rounded) if self.fp16 else rounded

    def take(self, other: LevelGrid, groups: NDArray[np.bool_]) -> None:
        """Take the parameters of some groups from another grid of the same kind."""
        for field in ("scale", "factors", "table"):
            mine, theirs = getattr(self, field), getattr(other, field)
            if mine is not None:
                setattr(self, field, np.where(groups.reshape(-1, *[1] * (mine.ndim - 1)), theirs, mine))

    def fitted(self, indices: Indices) -> FittedGroups:
        """Codes and parameters as a weight has them."""
        codes = (indices + self.first).astype(np.uint8)
        if self.table is not None:
            return FittedGroups(codes, table=self.table.astype(np.float32))
        assert self.scale is not None and self.factors is not None
        zero_point = (-self.factors[:, 0]).astype(np.uint8) if self.zero_points else None
        return FittedGroups(codes, self.scale.astype(np.float32), zero_point)
