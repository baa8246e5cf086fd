"""Where a tensor of a file stands for one of the reference."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import AFTER, BEFORE, RESHAPE, SCALE, Anatomy, Op
from mobconv.backends.graph_view.slicing import producers
from mobconv.compare.traced import Use

_ACTIVATIONS = {"": (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6), "relu1": (-1, 1)}


@dataclass(frozen=True)
class Cut:
    """A tensor of the file that equals a tensor of the reference, up to layout.

    node        of the reference
    perm        the reference's axes in the file's order
    file        shape of the file's tensor for one sample: the first axis may hold several rows
    reference   shape of the reference's, likewise
    activation  that the file has fused into it, and that the reference applies later
    factors     the reference's is the file's times these: one, or one for each channel (axis 1); empty for equal
    """

    tensor: str
    node: str
    perm: tuple[int, ...]
    file: tuple[int, ...]
    reference: tuple[int, ...]
    activation: str = ""
    factors: tuple[float, ...] = ()

    def to_file(self, values: NDArray[Any]) -> NDArray[Any]:
        """The reference's values (of any number of samples) as the file has them."""
        count = len(values) // self.reference[0]
        taken = self.activated(values)
        moved = (taken / self._scale(taken.ndim) if self.factors else taken).transpose(self.perm)
        return np.ascontiguousarray(moved.reshape(count * self.file[0], *self.file[1:]))

    def to_reference(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The file's values as the reference has them."""
        count = values.size // math.prod(self.file)
        shape = (count * self.reference[0], *self.reference[1:])
        moved = values.reshape([shape[axis] for axis in self.perm])
        back = moved.transpose(np.argsort(self.perm))
        return np.ascontiguousarray(back * self._scale(back.ndim) if self.factors else back, np.float32)

    def _scale(self, rank: int) -> NDArray[np.float32]:
        shape = [1, -1, *[1] * (rank - 2)] if rank > 1 else [-1]
        return np.asarray(self.factors, np.float32).reshape(shape)

    def activated(self, values: NDArray[Any]) -> NDArray[Any]:
        """The reference's values behind what the file has fused."""
        if not self.activation:
            return values
        low, high = _ACTIVATIONS[self.activation]
        return np.asarray(np.clip(values, np.float32(low), np.float32(high)))


class Walker:
    """Finds the tensors around operations of one file. batch: of the reference's shapes."""

    def __init__(self, anatomy: Anatomy, batch: int) -> None:
        self._anatomy, self._batch = anatomy, batch
        self._ops = list(anatomy.ops)
        self._producer = producers([(op.inputs, op.outputs) for op in self._ops])
        self._readers: dict[str, list[Op]] = {}
        for op in self._ops:
            for name in set(op.inputs):
                self._readers.setdefault(name, []).append(op)

    def before(self, op: Op, use: Use, shape: Sequence[int]) -> Iterator[Cut]:
        """Tensors that are the operation's input, the nearest first. shape: of the reference's."""
        name = op.source
        while name:
            found = self._fit(name, use.source, use, shape)
            if found:
                yield found
            position = self._producer.get(name)
            if position is None:
                return
            earlier = self._ops[position]
            if earlier.role not in BEFORE or not self._same_values(earlier):
                return
            name = earlier.source

    def after(self, op: Op, use: Use, shape: Sequence[int], stops: Collection[str]) -> list[tuple[Cut, str]]:
        """Tensors that may be the operation's output with bias, the nearest first.

        Beside each: the last tensor up to there that a factor was applied to, '' for none. The walk ends where a
        tensor has several readers, is among `stops`, or has an activation fused.
        """
        found: list[tuple[Cut, str]] = []
        scaled = ""
        while True:
            name = op.outputs[0]
            if op.role == SCALE:
                scaled = name
            cut = self._fit(name, use.node, use, shape, op.activation)
            if cut and op.activation in _ACTIVATIONS:
                found.append((cut, scaled))
            readers = self._readers.get(name, [])
            if op.activation or len(readers) != 1 or name in stops or name in self._anatomy.outputs:
                return found
            op = readers[0]
            if op.role not in AFTER or op.source != name or not self._same_values(op):
                return found

    def _same_values(self, op: Op) -> bool:
        """Whether an operation keeps the order of values; a reshape does if it only drops or adds axes of 1."""
        if op.role != RESHAPE:
            return True
        shapes = [self._anatomy.shapes.get(name) for name in (op.source, op.outputs[0])]
        return None not in shapes and _squeezed(shapes[0] or ()) == _squeezed(shapes[1] or ())

    def _fit(self, name: str, node: str, use: Use, shape: Sequence[int], activation: str = "") -> Cut | None:
        held = self._anatomy.shapes.get(name)
        if held is None or not held or shape[0] % self._batch:
            return None
        batch = self._anatomy.batch
        first = max(held[0], 1)  # open, or as one sample has it
        if held[0] > 0 and batch > 0:
            first = held[0] // batch if held[0] % batch == 0 else 0
        file, reference = (first, *held[1:]), (shape[0] // self._batch, *shape[1:])
        if first < 1 or min(file) < 1:
            return None
        rest = tuple(range(1, len(reference)))
        last = (0, *rest[1:], *rest[:1])  # channels last
        wide = self._anatomy.layout == "nhwc" and use.family == "conv"
        for perm in (last, (0, *rest)) if wide else ((0, *rest), last):
            if _squeezed([reference[axis] for axis in perm]) == _squeezed(file):
                return Cut(name, node, perm, file, reference, activation)
        return None


def _squeezed(shape: Sequence[int]) -> list[int]:
    return [n for n in shape if n != 1]
