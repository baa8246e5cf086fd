"""A vendor's tool for a cell, and mobconv's cell that it is compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobconv.schemes import Cell

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Rival:
    """A vendor's way to a file that compares with a cell of mobconv.

    tool, how  the vendor's package and the call, as the tables name them
    ours       the cell of mobconv with the same width, mode, granularity and precision of compute
    suffix     of the vendor's file
    compress   writes the file from the vendor's float model; this is timed, the conversion to the float model is not
    decode     the vendor's file -> the weights that it computes with, by mobconv's names, in PyTorch's layout
    note       the difference between the two, where there is one
    may_skip   the tool leaves some weights float by its own choice; mobconv's file then leaves the same ones
    """

    tool: str
    how: str
    ours: Cell
    suffix: str
    compress: Callable[[Path], None]
    decode: Callable[[Path], Weights]
    note: str = ""
    may_skip: bool = False

    @property
    def name(self) -> str:
        """Name of the vendor's file, different for each cell, tool and call."""
        return (
            "".join(c if c.isalnum() else "-" for c in f"{self.tool}-{self.how}-{self.ours.name}") + f".{self.suffix}"
        )
