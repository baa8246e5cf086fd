"""Tensors of a file that correspond to tensors of the traced program, and how values move between the two."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import AFTER, BEFORE, RESHAPE, SCALE, GraphView, Op
from mobconv.backends.graph_view.slicing import producers
from mobconv.compare.program_view import WeightUse

_ACTIVATIONS = {"": (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6), "relu1": (-1, 1)}


@dataclass(frozen=True)
class TensorMatch:
    """A tensor of the file that equals a tensor of the program, up to layout.

    tensor         of the file
    node           of the program
    perm           the program's axes in the file's order
    file_shape     of the file's tensor for one sample: the first axis may have several rows
    program_shape  of the program's, likewise
    activation     that is fused into the file's tensor and that the program applies later
    factors        the program's values are the file's times these: one, or one for each channel (axis 1); empty where
                   they are equal
    """

    tensor: str
    node: str
    perm: tuple[int, ...]
    file_shape: tuple[int, ...]
    program_shape: tuple[int, ...]
    activation: str = ""
    factors: tuple[float, ...] = ()

    def to_file(self, values: NDArray[Any]) -> NDArray[Any]:
        """The program's values, of any number of samples, in the file's layout."""
        count = len(values) // self.program_shape[0]
        activated = self.activated(values)
        unscaled = activated / self._factors(activated.ndim) if self.factors else activated
        return np.ascontiguousarray(
            unscaled.transpose(self.perm).reshape(count * self.file_shape[0], *self.file_shape[1:])
        )

    def to_program(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The file's values, of any number of samples, in the program's layout."""
        count = values.size // math.prod(self.file_shape)
        shape = (count * self.program_shape[0], *self.program_shape[1:])
        moved = values.reshape([shape[axis] for axis in self.perm]).transpose(np.argsort(self.perm))
        return np.ascontiguousarray(moved * self._factors(moved.ndim) if self.factors else moved, np.float32)

    def _factors(self, rank: int) -> NDArray[np.float32]:
        shape = [1, -1, *[1] * (rank - 2)] if rank > 1 else [-1]
        return np.asarray(self.factors, np.float32).reshape(shape)

    def activated(self, values: NDArray[Any]) -> NDArray[Any]:
        """The program's values after the activation that is fused into the file's tensor."""
        if not self.activation:
            return values
        low, high = _ACTIVATIONS[self.activation]
        return np.asarray(np.clip(values, np.float32(low), np.float32(high)))


class GraphWalker:
    """Finds the tensors around operations of one file. batch: samples in the program's shapes."""

    def __init__(self, graph_view: GraphView, batch: int) -> None:
        self._view, self._batch = graph_view, batch
        self._ops = list(graph_view.ops)
        self._producer = producers([(op.inputs, op.outputs) for op in self._ops])
        self._readers: dict[str, list[Op]] = {}
        for op in self._ops:
            for name in set(op.inputs):
                self._readers.setdefault(name, []).append(op)

    def inputs(self, op: Op, use: WeightUse, shape: Sequence[int]) -> Iterator[TensorMatch]:
        """Tensors that are the operation's input, the nearest first. shape: of the input in the program."""
        name = op.source
        while name:
            if match := self._match(name, use.source, use, shape):
                yield match
            position = self._producer.get(name)
            if position is None:
                return
            earlier = self._ops[position]
            if earlier.role not in BEFORE or not self._keeps_order(earlier):
                return
            name = earlier.source

    def outputs(
        self, op: Op, use: WeightUse, shape: Sequence[int], stops: Collection[str]
    ) -> list[tuple[TensorMatch, str]]:
        """Tensors that may be the operation's output with bias, the nearest first. shape: of the output in the program.

        Beside each: the last tensor on the way to it that a factor was applied to, '' for none. The walk ends at a
        tensor that has several readers, is among `stops`, or has an activation fused.
        """
        matches: list[tuple[TensorMatch, str]] = []
        scaled = ""
        while True:
            name = op.outputs[0]
            if op.role == SCALE:
                scaled = name
            match = self._match(name, use.node, use, shape, op.activation)
            if match and op.activation in _ACTIVATIONS:
                matches.append((match, scaled))
            readers = self._readers.get(name, [])
            if op.activation or len(readers) != 1 or name in stops or name in self._view.outputs:
                return matches
            op = readers[0]
            if op.role not in AFTER or op.source != name or not self._keeps_order(op):
                return matches

    def _keeps_order(self, op: Op) -> bool:
        """Whether an operation keeps the order of values; a reshape does if it only drops or adds axes of 1."""
        if op.role != RESHAPE:
            return True
        shapes = [self._view.shapes.get(name) for name in (op.source, op.outputs[0])]
        return None not in shapes and _squeezed(shapes[0] or ()) == _squeezed(shapes[1] or ())

    def _match(
        self, name: str, node: str, use: WeightUse, shape: Sequence[int], activation: str = ""
    ) -> TensorMatch | None:
        """A tensor of the file as a node of the program, where their shapes fit in some layout."""
        full_shape = self._view.shapes.get(name)
        if full_shape is None or not full_shape or shape[0] % self._batch:
            return None
        batch = self._view.batch
        first = max(full_shape[0], 1)  # open, or as one sample has it
        if full_shape[0] > 0 and batch > 0:
            first = full_shape[0] // batch if full_shape[0] % batch == 0 else 0
        file_shape, program_shape = (first, *full_shape[1:]), (shape[0] // self._batch, *shape[1:])
        if first < 1 or min(file_shape) < 1:
            return None
        rest = tuple(range(1, len(program_shape)))
        channels_last = (0, *rest[1:], *rest[:1])
        prefers_last = self._view.layout == "nhwc" and use.family == "conv"
        for perm in (channels_last, (0, *rest)) if prefers_last else ((0, *rest), channels_last):
            if _squeezed([program_shape[axis] for axis in perm]) == _squeezed(file_shape):
                return TensorMatch(name, node, perm, file_shape, program_shape, activation)
        return None


def _squeezed(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]
