"""What `mobconv compare` sees of a file: its operations by role, and any part of it run on its own.

| file         | what it does                                                                    |
|--------------|---------------------------------------------------------------------------------|
| __init__.py  | Op and Anatomy: the little that a backend says of its files                       |
| graph.py     | what of a file is needed between fed and fetched tensors; fixed batches           |
| reference.py | the traced program: tensors at its weighted operations                            |
| match.py     | which operation of the file has which weight of the checkpoint, by content        |
| cuts.py      | where a tensor of the file stands for one of the reference                        |

No vendor is named here; each backend has an `anatomy.py` of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

# Roles of operations without weights, as far as a walk from a weighted one passes them.
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
    """One operation of a file. Tensors are known by name; several operations of a file may be one here.

    name        as the file has it, to be shown; may be empty
    kind        as the file has it: 'Conv', 'DEPTHWISE_CONV_2D' ...
    source      the activation that it works on: the operand that a walk back follows; '' for none
    weight      the operand that is its weight: a constant, or computed from constants
    family      'conv', 'linear', 'embedding' of an operation with a weight, else ''
    role        see above; '' for anything else, and for operations with a weight
    activation  what is fused into it: '', 'relu', 'relu6', or another name that is not known here
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


class Anatomy(Protocol):
    """An opened file that can be cut.

    ops              in topological order
    inputs, outputs  names of tensors
    shapes           by tensor, as far as known; -1 for a length that is open
    layout           of activations with 4 axes: 'nchw' or 'nhwc'
    batch            samples that the file takes at a time; -1 for any number
    note             how the file computes, as one sentence; and where `precise` is None, why
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
        """Learn from one sample at the inputs the lengths that the file leaves open."""
        ...

    def run(self, feeds: Mapping[str, NDArray[Any]], fetch: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Run the file cut at the fed tensors and return the fetched ones.

        Whoever reads a fed tensor reads what is fed; what computes it is left out, unless it is fetched too:
        then it is returned as computed. With no feeds: constants, decoded to float32. Leading axes hold any number
        of samples; a file fixed to fewer is run as often as needed. Quantized activations are fed and returned as
        the floats they stand for (arrays of the tensor's own integer type are fed as they are).
        Raises BackendError for a fetched tensor that depends on an input that is not fed, InputError for a misfit.
        """
        ...

    def precise(self) -> Anatomy | None:
        """The same file computing in fp32 where it declares fp16.

        None where that is the same or cannot be done: see `note`.
        """
        ...

    def close(self) -> None: ...


__all__ = ["AFTER", "BEFORE", "COPY", "MOVE", "PAD", "RESHAPE", "SCALE", "SHIFT", "Anatomy", "Op"]
