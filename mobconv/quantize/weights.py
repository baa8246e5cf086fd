"""Weights as the backends receive them: codes and parameters, decided once, in numpy.

The quantizer decides, a backend encodes. So codes, zero points, scales and tables read back from any artifact are those
of a QuantizedWeight, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.schemes import Mode

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]


class Form(StrEnum):
    """How codes become numbers. An encoder asks for the form, never for the mode or the algorithm."""

    AFFINE = "affine"  # scale * (code - zero point)
    SCALE = "scale"  # scale * signed code, zero point 0; at 1 bit -scale or +scale
    TABLE = "table"  # lookup table[code]


@dataclass(frozen=True, eq=False)
class FloatWeight:
    """A weight that stays float.

    values  float32, the parameter's shape
    bits    32, or 16 where fp16 can represent every value
    """

    name: str
    values: Floats
    bits: int = 32

    def dequantize(self) -> Floats:
        """The values, as they are."""
        return self.values


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """n-bit codes of one parameter.

    codes       uint8, the parameter's shape, 0 <= code < 2^bits
    axis        the channel axis that groups run along; None: one group for the tensor
    together    channels that share one scale or table, in order; the last group may have fewer
    scale       float32 (groups,), or None with a table
    zero_point  uint8 (groups,), 0 <= z < 2^bits: linear above 1 bit only, None otherwise
    table       float32 (groups, 2^bits): kmeans, and linear at 1 bit; None otherwise
    fp16        every scale or table entry is exact in (normal or zero) fp16

    What a code stands for, by mode and width, k running over 0 .. 2^bits - 1:

    | mode      | bits  | value of code k                | stored in         |
    |-----------|-------|--------------------------------|-------------------|
    | linear    | 2..8  | scale * (k - zero_point)       | scale, zero_point |
    | linear    | 1     | table[k], two free values      | table             |
    | symmetric | 2..8  | scale * (k - 2^(bits-1)), k>=1 | scale             |
    | symmetric | 1     | scale * (2 k - 1)              | scale             |
    | kmeans    | 1..8  | table[k]                       | table             |

    An fp16 scale has at most 11 significant bits and a factor at most 8, so the product is exact in fp32 in every
    runtime; with an fp32 scale it is rounded once, to the same number everywhere.
    """

    name: str
    bits: int
    mode: Mode
    axis: int | None
    codes: Codes
    scale: Floats | None
    zero_point: Codes | None
    table: Floats | None
    fp16: bool
    together: int = 1

    @property
    def form(self) -> Form:
        """The form, by the parameters: scale and zero point, scale alone, or a lookup table."""
        if self.table is not None:
            return Form.TABLE
        return Form.SCALE if self.zero_point is None else Form.AFFINE

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return self.codes.shape

    @property
    def groups(self) -> int:
        """Number of groups: of scales or tables."""
        return 1 if self.axis is None else -(-self.shape[self.axis] // self.together)

    def spread(self, parameters: NDArray[Any], together: int = 1) -> NDArray[Any]:
        """Repeat parameters (groups, ..), one for every `together` channels, for formats with smaller groups.

        Parameters of a tensor's one group are returned as they are. Raises ValueError where a group of this weight
        is not divided evenly into such groups.
        """
        if self.axis is None:
            return parameters
        if together != self.together and (self.together % together or self.shape[self.axis] % together):
            raise ValueError(f"{self.name}: cannot divide groups of {self.together} channels into groups of {together}")
        times = self.together // together
        return np.repeat(parameters, times, axis=0)[: -(-self.shape[self.axis] // together)]

    def moved(self, axis: int) -> QuantizedWeight:
        """The same weight with its channel axis, here 0, at `axis`."""
        return replace(self, axis=axis, codes=np.ascontiguousarray(np.moveaxis(self.codes, 0, axis)))

    def widened(self, bits: int) -> QuantizedWeight:
        """The same values in codes of more bits, for a runtime that is faster with those.

        Zero points and scales stay; tables, of linear weights of 1 bit too, are padded with their last value. Raises
        ValueError for fewer bits.
        """
        if bits < self.bits:
            raise ValueError(f"{self.name}: {bits} bits are fewer than {self.bits}")
        if bits == self.bits:
            return self
        if self.table is not None:
            table = np.pad(self.table, ((0, 0), (0, 2**bits - 2**self.bits)), mode="edge")
            return replace(self, bits=bits, table=table)
        if self.zero_point is not None:
            return replace(self, bits=bits)
        factor = self.factors()[0][self.codes]
        return replace(self, bits=bits, codes=(factor + 2 ** (bits - 1)).astype(np.uint8))

    def factors(self) -> NDArray[np.int16]:
        """The integers (groups, 2^bits) that multiply the scale. Raises ValueError for a table."""
        if self.scale is None:
            raise ValueError(f"{self.name}: a table has no scale")
        k = np.arange(2**self.bits, dtype=np.int16)
        if self.zero_point is not None:
            return k - self.zero_point.astype(np.int16)[:, None]
        row = 2 * k - 1 if self.bits == 1 else k - np.int16(2 ** (self.bits - 1))
        return np.broadcast_to(row, (self.groups, len(k)))

    def levels(self) -> Floats:
        """float32 (groups, 2^bits): the value of every code in every group."""
        if self.table is not None:
            return self.table
        assert self.scale is not None
        return self.scale[:, None] * self.factors().astype(np.float32)

    def dequantize(self) -> Floats:
        """The weights that the codes stand for, float32, in the parameter's shape."""
        levels = self.levels()
        if self.axis is None:
            return np.ascontiguousarray(levels[0][self.codes])
        group = (np.arange(self.shape[self.axis]) // self.together).reshape(
            [-1 if i == self.axis else 1 for i in range(self.codes.ndim)]
        )
        return np.ascontiguousarray(levels[group, self.codes])


Weight = FloatWeight | QuantizedWeight
