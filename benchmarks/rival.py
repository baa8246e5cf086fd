"""A cell as a vendor's tool makes it, beside the cell of ours that it is compared with."""

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
    """compress: from the vendor's float model, converted once and not timed, to a file on disk, which is timed.

    tool, how  the vendor's package and the call, as the tables name them
    ours       the cell of mobconv with the same width, mode, granularity and precision of compute
    decode     the vendor's file -> the weights that it computes with, by our names, in PyTorch's layout
    note       where the two are not alike
    may_skip   the tool leaves weights float as it sees fit; ours then leaves the same ones
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
        """A file name of its own."""
        return (
            "".join(c if c.isalnum() else "-" for c in f"{self.tool}-{self.how}-{self.ours.name}") + f".{self.suffix}"
        )
