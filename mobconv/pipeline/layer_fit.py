"""One layer of a calibration: statistics of its inputs, the weights to approximate, and the bias that is left.

With x the inputs of the quantized network at a position, x' those of the float network and y = W x' + e its outputs
(e: see `LayerInputs`), all over the same samples and with their means removed where the layer has a bias,

    S = mean x x^T,  C = mean y x^T,  H = S + damping,  W* = W + (C - W S) H^-1

W* has the least squared error to y, so it makes up for what earlier layers lost (as Nagel et al. 2020, "Up or down?
Adaptive rounding for post-training quantization", section 3.3, reconstructs asymmetrically; solved as in Hubara et al.
2021, "Accurate post training quantization with small calibration sets"). The damping keeps W* near W. The bias is that
of equal means: b + mean y - Wq mean x.

At 1 bit, where an activation that clips follows, errors that it clips away cost nothing: outputs that are clipped in
both networks become their own target, and the layer is solved again (Zhang et al. 2016, "Accelerating very deep
convolutional networks for classification and detection", section 3.2, by alternating).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.model.operator_matrix import OperatorMatrix
from mobconv.quantize.layer import Hessian, Layer, quantize_layer
from mobconv.quantize.weights import Floats, QuantizedWeight, Weight
from mobconv.schemes import Granularity, Scheme

if TYPE_CHECKING:
    import torch

_DAMPING = 0.05  # of the mean of H's diagonal
_CLIPPED = 2  # times that a layer before a clipping activation is solved again, of so few bits:
_CLIPPED_BITS = 1  # with more, held-out images of the calibration set were no nearer to the float network
_KEPT = 2**29  # bytes of samples that are kept for the next time
_NOTHING = 1e-9  # of the largest weight: smaller targets are rounding errors of zero
_MANTISSA = 16  # bits of a bias: the last ones of float32 may differ with the order of sums


@dataclass(frozen=True)
class LayerInputs:
    """What a layer reads in one chunk of samples, at the positions that are taken.

    quantized  float64 (blocks, columns, n): inputs in the quantized network
    float      float64 (blocks, columns, n): the same in the float network
    lack       float64 (blocks, rows, n) or None: what the other term of the sum that follows lacks of the float
               network's; the layer's target includes it
    added      float64 (blocks, rows, n) or None: that other term, in the quantized network
    """

    quantized: torch.Tensor
    float: torch.Tensor
    lack: torch.Tensor | None = None
    added: torch.Tensor | None = None


@dataclass(frozen=True)
class LayerTask:
    """A layer to fit.

    name, axis  of the weight, and of its channels in the parameter's shape
    weight      float64 (rows, columns), bias float64 (rows,) or None, of the float network
    scheme      of this weight
    clip        the range of an activation that alone reads the layer's outputs, or None
    chunks      call it to go through the inputs, chunk by chunk, always in the same order
    """

    name: str
    axis: int
    operator: OperatorMatrix
    weight: torch.Tensor
    bias: torch.Tensor | None
    scheme: Scheme
    clip: tuple[float, float] | None
    chunks: Callable[[], Iterator[LayerInputs]]


@dataclass(frozen=True)
class _Sample:
    """Inputs of the quantized network (blocks, columns, n), targets (blocks, rows, n), and what is added to outputs."""

    inputs: torch.Tensor
    targets: torch.Tensor
    added: torch.Tensor | None


class _Samples:
    """A layer's samples, gone through several times: kept while they are small, else computed again."""

    def __init__(self, task: LayerTask, again: bool) -> None:
        self.task, self._kept, self._again = task, list[_Sample](), again
        self._complete = False

    def __iter__(self) -> Iterator[_Sample]:
        if self._complete:
            yield from self._kept
            return
        blocks = self.task.weight.reshape(self.task.operator.groups, -1, self.task.weight.shape[1])
        room, keep = _KEPT, self._again
        for chunk in self.task.chunks():
            targets = blocks @ chunk.float
            sample = _Sample(chunk.quantized, targets if chunk.lack is None else targets + chunk.lack, chunk.added)
            room -= sample.inputs.nbytes + sample.targets.nbytes
            keep = keep and room > 0
            if keep:
                self._kept.append(sample)
            yield sample
        self._complete = keep
        if not keep:
            self._kept.clear()


@dataclass
class _Moments:
    """Means over positions: of inputs and targets, of their products C, and of products of inputs S.

    second (blocks, columns, columns), cross (blocks, rows, columns), inputs (blocks, columns), targets (blocks, rows)
    """

    second: torch.Tensor
    inputs: torch.Tensor
    cross: torch.Tensor
    targets: torch.Tensor

    @classmethod
    def of(cls, samples: _Samples, aim: Callable[[_Sample], torch.Tensor], known: _Moments | None = None) -> _Moments:
        """aim: the targets of a sample; known: moments of the same inputs with other targets."""
        sums: list[Any] = [0, 0, 0, 0]
        count = 0
        for sample in samples:
            inputs, targets = sample.inputs, aim(sample)
            if known is None:
                sums[0] = sums[0] + inputs @ inputs.transpose(1, 2)
                sums[1] = sums[1] + inputs.sum(2)
            sums[2] = sums[2] + targets @ inputs.transpose(1, 2)
            sums[3] = sums[3] + targets.sum(2)
            count += inputs.shape[2]
        second, mean, cross, wanted = (value / count for value in sums)
        return cls(second, mean, cross, wanted) if known is None else cls(known.second, known.inputs, cross, wanted)


@dataclass(frozen=True)
class _Solution:
    """A quantized weight, its values (blocks, rows, columns), and its bias (blocks, rows) where the layer has one."""

    weight: QuantizedWeight
    values: torch.Tensor
    bias: torch.Tensor | None


def fit_layer(task: LayerTask) -> tuple[QuantizedWeight, Floats | None]:
    """The quantized weight, and the bias that goes with it; None where the layer has none."""
    few = task.scheme.bits <= _CLIPPED_BITS
    rounds = _CLIPPED if few and task.clip is not None and task.bias is not None else 0
    samples = _Samples(task, again=rounds > 0)
    moments = _Moments.of(samples, lambda sample: sample.targets)
    hessian = _hessian(task, moments)
    solution = _solve(task, moments, hessian)
    for _ in range(rounds):
        aimed = _Moments.of(samples, partial(_aimed, task, solution), moments)
        solution = _solve(task, aimed, hessian)
    return solution.weight, None if solution.bias is None else _shortened(solution.bias.reshape(-1).numpy())


def fit_bias(task: LayerTask, weight: Weight) -> Floats | None:
    """The bias of equal means for a weight that is decided: it stays float, or another layer reads it too."""
    if task.bias is None:
        return None
    decided, count = _blocks(task, weight), 0
    error: Any = 0
    for sample in _Samples(task, again=False):
        error = error + (sample.targets - decided @ sample.inputs).sum(2)
        count += sample.inputs.shape[2]
    return _shortened((task.bias + error.reshape(-1) / count).numpy())


def _hessian(task: LayerTask, moments: _Moments) -> Hessian:
    """S with damping; its means removed where the layer has a bias."""
    import torch

    second = _centred(task, moments.second, moments.inputs, moments.inputs)
    size = second.diagonal(dim1=1, dim2=2).mean(1)
    size = torch.where(size > 0, size, torch.ones_like(size))  # inputs that are always zero: any H will do
    damping = _DAMPING * size[:, None, None] * torch.eye(second.shape[1], dtype=second.dtype)
    return Hessian((second + damping).numpy())


def _centred(task: LayerTask, products: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Mean products without those of the means, rows and columns, where the layer has a bias."""
    return products if task.bias is None else products - rows[:, :, None] * columns[:, None, :]


def _solve(task: LayerTask, moments: _Moments, hessian: Hessian) -> _Solution:
    """The weight of least error to the targets, quantized, and its bias."""
    import torch

    weight = task.weight.reshape(task.operator.groups, -1, task.weight.shape[1])
    second = _centred(task, moments.second, moments.inputs, moments.inputs)
    cross = _centred(task, moments.cross, moments.targets, moments.inputs)
    matrix = torch.from_numpy(hessian.values)
    change = torch.linalg.solve(matrix, (cross - weight @ second).transpose(1, 2)).transpose(1, 2)
    target = (weight + change).reshape(task.weight.shape).numpy().copy()
    target[np.abs(target) < _NOTHING * np.abs(target).max(initial=0)] = 0
    layer = Layer(task.name, target, hessian, _groups(task))
    quantized = quantize_layer(layer, task.scheme, task.axis, task.operator.weight)
    values = _blocks(task, quantized)
    if task.bias is None:
        return _Solution(quantized, values, None)
    correction = moments.targets - (values @ moments.inputs[:, :, None])[:, :, 0]
    return _Solution(quantized, values, task.bias.reshape(correction.shape) + correction)


def _aimed(task: LayerTask, solution: _Solution, sample: _Sample) -> torch.Tensor:
    """Targets behind the activation: outputs that are clipped in both networks stay as they are."""
    import torch

    assert task.clip is not None and task.bias is not None and solution.bias is not None
    start = task.bias.reshape(*solution.bias.shape, 1)  # targets are without it
    output = solution.values @ sample.inputs + (solution.bias[:, :, None] - start)
    offset = start if sample.added is None else start + sample.added
    target = sample.targets
    for limit, beyond in zip(task.clip, (torch.le, torch.ge), strict=True):
        bound = (limit - offset).expand_as(output)
        clipped = torch.where(beyond(output, bound), output, bound)
        target = torch.where(beyond(target, bound), clipped, target)
    return target


def _blocks(task: LayerTask, weight: Weight) -> torch.Tensor:
    """The weight's values as float64 (blocks, rows, columns)."""
    import torch

    matrix = torch.from_numpy(task.operator.matrix(weight.dequantize()).astype(np.float64))
    return matrix.reshape(task.operator.groups, -1, matrix.shape[1])


def _groups(task: LayerTask) -> NDArray[np.int64]:
    """Index of the scale or table of each row."""
    channels = task.operator.shape[task.axis]
    together = {Granularity.TENSOR: channels, Granularity.CHANNEL: 1, Granularity.OC16: 16}
    return task.operator.channel // together[task.scheme.granularity]


def _shortened(bias: NDArray[np.float64]) -> Floats:
    """Float32 with a short mantissa, so that sums in another order give the same numbers."""
    mantissa, exponent = np.frexp(bias)
    return np.ldexp(np.rint(mantissa * 2.0**_MANTISSA) / 2.0**_MANTISSA, exponent).astype(np.float32)
