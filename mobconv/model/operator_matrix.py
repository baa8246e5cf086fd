"""Convolutions and linear layers as products of a weight matrix and columns of their inputs.

Every operator of `WEIGHT_OPS` but embedding is linear in its weight: at each position its outputs are W x, where x are
the inputs that the position reads ("im2col", Chellapilla et al. 2006). What layers have in common is then one
least-squares problem, whatever their kernel, stride, dilation and groups. A transposed convolution is one of stride 1
over its input with zeros between, with the kernel turned round (Dumoulin and Visin 2016, section 4).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch.fx import Node

_LINEAR = "aten.linear.default"
_CONVOLUTION = "aten.convolution.default"
_SPARSE = 4  # fewer than one position in so many are read one by one


@dataclass(frozen=True)
class OperatorMatrix:
    """An operator that reads a weight, as a matrix with `groups` blocks, one below the other.

    shape     of the weight, as the parameter has it
    linear    a linear layer: inputs (.., columns); else a convolution: inputs (N, channels, ..) or (channels, ..)
    groups    of the operator: blocks of the matrix
    stride, dilation, padding  for each spatial axis; padding (before, after)
    upsample  for each spatial axis, the stride of a transposed convolution; empty for others
    """

    shape: tuple[int, ...]
    linear: bool = False
    groups: int = 1
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    upsample: tuple[int, ...] = ()

    @classmethod
    def of(cls, node: Node, shape: tuple[int, ...]) -> OperatorMatrix:
        """The matrix of a node's operator and its weight's shape. Raises ValueError for an operator without one."""
        target, axes = str(node.target), len(shape) - 2
        if target == _LINEAR:
            return cls(shape, linear=True)
        if "conv" not in target:
            raise ValueError(f"{target} cannot be written as a matrix product")

        def argument(name: str, position: int, default: Any) -> Any:
            return node.kwargs.get(name, node.args[position] if len(node.args) > position else default)

        def each(value: Any) -> tuple[int, ...]:
            values = (value,) if isinstance(value, int) else tuple(value)
            return values * axes if len(values) == 1 else values

        kernel, stride, given = shape[2:], each(argument("stride", 3, 1)), argument("padding", 4, 0)
        if target == _CONVOLUTION:
            turned, extra = bool(argument("transposed", 6, False)), each(argument("output_padding", 7, 0))
            dilation, groups = each(argument("dilation", 5, 1)), argument("groups", 8, 1)
        elif "transpose" in target:
            turned, extra = True, each(argument("output_padding", 5, 0))
            dilation, groups = each(argument("dilation", 7, 1)), argument("groups", 6, 1)
        else:
            turned, extra = False, (0,) * axes
            dilation, groups = each(argument("dilation", 5, 1)), argument("groups", 6, 1)
        reach = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        if given == "same":  # an odd sum has its larger part behind
            padding = tuple((total // 2, total - total // 2) for total in reach)
        else:
            padding = tuple((size, size) for size in each(0 if given == "valid" else given))
        if not turned:
            return cls(shape, False, groups, stride, dilation, padding)
        padding = tuple(
            (total - before, total - after + more)
            for total, (before, after), more in zip(reach, padding, extra, strict=True)
        )
        return cls(shape, False, groups, (1,) * axes, dilation, padding, stride)

    @property
    def rows(self) -> int:
        """Output channels of the operator."""
        return self.groups * self.shape[1] if self.upsample else self.shape[0]

    @property
    def channel(self) -> NDArray[np.int64]:
        """int64 (rows,): index along the weight's channel axis of each row."""
        rows = np.arange(self.rows)
        return rows % self.shape[1] if self.upsample else rows

    def matrix(self, weight: NDArray[Any]) -> NDArray[Any]:
        """A weight in the parameter's shape -> (rows, columns)."""
        if not self.upsample:
            return np.ascontiguousarray(weight.reshape(len(weight), -1))
        inputs, outputs, *kernel = self.shape
        turned = np.flip(weight, tuple(range(2, weight.ndim)))
        blocks = turned.reshape(self.groups, inputs // self.groups, outputs, *kernel)
        return np.ascontiguousarray(np.moveaxis(blocks, 2, 1).reshape(self.rows, -1))

    def weight(self, matrix: NDArray[Any]) -> NDArray[Any]:
        """(rows, columns) -> the parameter's shape."""
        if not self.upsample:
            return np.ascontiguousarray(matrix.reshape(self.shape))
        inputs, outputs, *kernel = self.shape
        blocks = matrix.reshape(self.groups, outputs, inputs // self.groups, *kernel)
        weight = np.moveaxis(blocks, 1, 2).reshape(self.shape)
        return np.ascontiguousarray(np.flip(weight, tuple(range(2, weight.ndim))))

    def positions(self, inputs: torch.Tensor) -> int:
        """Positions of the outputs of one sample, of inputs with a batch."""
        if self.linear:
            return inputs[0].numel() // inputs.shape[-1]
        shape = self._batched(inputs).shape[2:]
        if self.upsample:
            shape = [(size - 1) * step + 1 for size, step in zip(shape, self.upsample, strict=True)]  # type: ignore[assignment]
        return math.prod(self._sizes([size + sum(pad) for size, pad in zip(shape, self.padding, strict=True)]))

    def columns(self, inputs: torch.Tensor, at: torch.Tensor | None = None) -> torch.Tensor:
        """What the outputs read: (groups, columns, samples x positions). at: int64 positions; None for all."""
        import torch

        if self.linear:
            rows = inputs.reshape(len(inputs), -1, inputs.shape[-1])
            return (rows if at is None else rows[:, at]).reshape(-1, inputs.shape[-1]).t()[None]
        padded = self._padded(self._batched(inputs))
        sizes = self._sizes(padded.shape[2:])
        positions = math.prod(sizes)
        if at is None or len(at) * _SPARSE > positions:
            windows = (padded[window].flatten(2) for window in self._windows(sizes))
            read = torch.stack([window if at is None else window[:, :, at] for window in windows], dim=3)
        else:
            rest, starts = at, list[torch.Tensor]()
            for size, step in zip(reversed(sizes), reversed(self.stride), strict=True):
                starts.insert(0, rest % size * step)
                rest = rest // size
            taps = [torch.tensor(tap) for tap in zip(*self._taps(), strict=True)]
            places = [start[:, None] + tap[None] for start, tap in zip(starts, taps, strict=True)]
            index: tuple[Any, ...] = (slice(None), slice(None), *places)
            read = padded[index]
        samples, channels, count, _ = read.shape  # the last: taps
        blocks = read.reshape(samples, self.groups, channels // self.groups, count, -1)
        return blocks.permute(1, 2, 4, 0, 3).reshape(self.groups, -1, samples * count)

    def outputs(self, values: torch.Tensor, at: torch.Tensor | None = None) -> torch.Tensor:
        """Outputs, or anything of their shape, in the order of `columns`: (groups, rows of a group, ..)."""
        if self.linear:
            rows = values.reshape(len(values), -1, values.shape[-1])
            picked = (rows if at is None else rows[:, at]).reshape(-1, values.shape[-1]).t()
        else:
            flat = self._batched(values).flatten(2)
            picked = (flat if at is None else flat[:, :, at]).transpose(0, 1).reshape(self.rows, -1)
        return picked.reshape(self.groups, self.rows // self.groups, -1)

    def apply(self, inputs: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute the operator from its matrix (rows, columns) and bias (rows,), in their dtype.

        PyTorch's own convolutions in float64 are many times slower, above all depthwise ones.
        """
        import torch

        if self.linear:
            product = inputs @ matrix.t()
            return product if bias is None else product + bias
        batched = self._batched(inputs)
        padded = self._padded(batched)
        sizes, axes = self._sizes(padded.shape[2:]), len(self.stride)
        samples, channels = padded.shape[:2]
        blocks = matrix.reshape(self.groups, self.rows // self.groups, channels // self.groups, -1)
        depthwise = blocks.shape[1] == blocks.shape[2] == 1
        result: torch.Tensor | None = None
        for place, window in enumerate(self._windows(sizes)):
            read = padded[window]
            if depthwise:
                part = read * blocks[:, 0, 0, place].reshape(1, -1, *[1] * axes)
            else:
                read = read.reshape(samples, self.groups, channels // self.groups, -1)
                part = torch.matmul(blocks[None, :, :, :, place], read).reshape(samples, self.rows, *sizes)
            result = part if result is None else result.add_(part)
        assert result is not None
        if bias is not None:
            result = result + bias.reshape(1, -1, *[1] * axes)
        return result if batched is inputs else result[0]

    def _taps(self) -> Iterator[tuple[int, ...]]:
        """Offset of each weight of the kernel, in the order of the matrix' columns."""
        ranges = (range(0, size * step, step) for size, step in zip(self.shape[2:], self.dilation, strict=True))
        return itertools.product(*ranges)

    def _windows(self, sizes: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """For each weight of the kernel, the part of padded inputs that it multiplies."""
        for tap in self._taps():
            ends = [first + (size - 1) * step + 1 for first, size, step in zip(tap, sizes, self.stride, strict=True)]
            yield slice(None), slice(None), *itertools.starmap(slice, zip(tap, ends, self.stride, strict=True))

    def _batched(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs if inputs.dim() == len(self.shape) else inputs[None]

    def _padded(self, inputs: torch.Tensor) -> torch.Tensor:
        """Inputs with zeros around, and between for a transposed convolution."""
        from torch.nn.functional import pad

        if any(step > 1 for step in self.upsample):
            sizes = [(size - 1) * step + 1 for size, step in zip(inputs.shape[2:], self.upsample, strict=True)]
            spread = inputs.new_zeros(*inputs.shape[:2], *sizes)
            spread[(slice(None), slice(None), *(slice(None, None, step) for step in self.upsample))] = inputs
            inputs = spread
        around = [size for both in reversed(self.padding) for size in both]
        return pad(inputs, around) if any(around) else inputs

    def _sizes(self, padded: Sequence[int]) -> list[int]:
        """Sizes of the outputs along each spatial axis, by those of padded inputs."""
        kernels = zip(padded, self.shape[2:], self.dilation, self.stride, strict=True)
        return [(size - reach * (kernel - 1) - 1) // step + 1 for size, kernel, reach, step in kernels]
