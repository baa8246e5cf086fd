"""Graph view: a file as operations with roles, any part of which can be run. `mobconv compare` works on it.

Op and GraphView are what a backend gives of its files; `slicing` has what the views of all formats share. Each backend
that can be cut has a `graph_view.py` of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

# Roles of operations without weights that a walk from an operation with a weight passes through.
COPY = "copy"  # the values, in another type or quantized
MOVE = "move"  # the values with their axes permuted
RESHAPE = "reshape"  # the values in another shape
PAD = "pad"  # the values in a frame
SHIFT = "shift"  # plus or minus a constant
SCALE = "scale"  # times a constant, or a constant factor for each channel; may shift as well
BEFORE = (COPY, MOVE, RESHAPE, PAD)
AFTER = (COPY, MOVE, RESHAPE, SHIFT, SCALE)


@dataclass(frozen=True)
class Op:
    """One operation of a file, or several that count as one. Tensors go by name.

    name        in the file, to be shown; may be empty
    kind        in the file: 'Conv', 'DEPTHWISE_CONV_2D' ...
    source      the activation among its inputs, which a walk back follows; '' for none
    weight      the input that is its weight: a constant, or computed from constants; None without one
    family      'conv', 'linear' or 'embedding' of an operation with a weight, else ''
    role        one of those above; '' for any other operation, and for one with a weight
    activation  the fused activation: '', 'relu', 'relu6', or the file's own name of another one
    bias        the input that an operation with a weight, or an addition, adds: a constant, or computed from constants
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    source: str = ""
    weight: str | None = None
    family: str = ""
    role: str = ""
    activation: str = ""
    bias: str | None = None


class GraphView(Protocol):
    """An open file, cut at any tensors.

    ops              in topological order
    inputs, outputs  names of tensors
    shapes           by tensor, where known; -1 for a length that is open
    layout           of activations with 4 axes: 'nchw' or 'nhwc'
    batch            declared number of samples; -1 for any number
    note             how the file computes, as one sentence; where `precise` returns None, also why
    """

    @property
    def path(self) -> Path: ...
    @property
    def ops(self) -> Sequence[Op]: ...
    @property
    def inputs(self) -> Sequence[str]: ...
    @property
    def outputs(self) -> Sequence[str]: ...
    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def layout(self) -> str: ...
    @property
    def batch(self) -> int: ...
    @property
    def note(self) -> str: ...

    def settle(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Settle lengths that the file leaves open, from one sample at the inputs."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]], fetch: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the file from the fed tensors to the fetched ones.

        Operations read fed values in place of what the file computes for that tensor; a tensor that is fed and fetched
        is returned as computed. With no feeds, constants are decoded to float32. The leading axis has any number of
        samples; a file of a fixed, smaller batch is run several times. Quantized activations are fed and returned as
        the floats that they stand for (arrays of the tensor's own integer type are fed as they are).
        Raises BackendError for a fetched tensor that depends on an input that is not fed, InputError for arrays of
        another shape.
        """
        ...

    def precise(self) -> GraphView | None:
        """A view of the same file that computes in fp32 where the file declares fp16.

        None where that is the same, or cannot be done: see `note`.
        """
        ...

    def close(self) -> None:
        """Free what the view keeps open."""
        ...


__all__ = ["AFTER", "BEFORE", "COPY", "MOVE", "PAD", "RESHAPE", "SCALE", "SHIFT", "GraphView", "Op"]
