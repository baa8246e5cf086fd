"""The error that each layer adds by itself: it is fed the program's inputs, and its output is compared.

Two runs of the cut file on the same images. In one, the input of every layer with weights is the program's: the
error of its output is its own. In the other, the output of every layer is the program's: the error at the next
layers' inputs is that of the operations between (activations, pooling, resizing, additions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.compare.alignment import Alignment, Floats
from mobconv.compare.cut import computable
from mobconv.compare.paired_layers import PairedLayer, channel_axis
from mobconv.compare.tensor_match import TensorMatch
from mobconv.errors import BackendError

_CHUNK = 8  # images at a time
_ELEMENTS = 1 << 25  # of the program's tensors at a time, 128 MB: fewer images where they are large
_FLOOR = 0.1  # of the layer's standard deviation: the error of channels with less is measured against this


@dataclass(frozen=True)
class LayerError:
    """The error that a layer, or the operations between layers, add by themselves.

    name      the module's path in PyTorch; between layers with the operation, as in 'features.3 (add)'
    kind      the operation's type in the file, '' between layers
    tensor    the file's tensor that was compared
    snr_db    10 log10(sum reference^2 / sum error^2); None where equal
    relative  root of the inverse of that ratio
    channel   the worst output channel
    worst     its error: root mean square over the standard deviation of the channel's reference, or over a tenth of
              that of all channels where this is more
    graph     the worst channel's error against the same operation in PyTorch with the file's weights, which is not
              the weights' doing; None between layers, and where the operation cannot be run on its own
    """

    name: str
    kind: str
    tensor: str
    snr_db: float | None
    relative: float
    channel: int
    worst: float
    graph: float | None


@dataclass(frozen=True)
class LayerErrors:
    """Errors of layers and between them, worst first.

    images: number that were run; skipped: layers that were not compared, each with the reason
    """

    layers: tuple[LayerError, ...]
    between: tuple[LayerError, ...]
    images: int
    skipped: tuple[str, ...]


def layer_errors(alignment: Alignment, inputs: Floats) -> LayerErrors:
    """Compare every layer of the file on the checkpoint's inputs (N, C, H, W); 32 of them are enough to rank layers."""
    layers = [layer for layer in alignment.layers if layer.input and layer.output]
    layer_inputs = [layer.input for layer in layers if layer.input]
    layer_outputs = [layer.output for layer in layers if layer.output]
    # fed what the program has at the outputs of layers; compared at the inputs of the next ones
    fed = {match.tensor: match for match in [*layer_outputs, *alignment.cut]}
    ends = {
        match.tensor: match
        for match in layer_inputs
        if match.tensor not in fed and computable(alignment.graph_view, fed, match.tensor)
    }
    final = alignment.output not in fed and computable(alignment.graph_view, fed, alignment.output)
    errors = {match.tensor: _ErrorSums() for match in layer_outputs}
    graph_errors = {match.tensor: _ErrorSums() for match in layer_outputs}
    between = {tensor: _ErrorSums() for tensor in [*ends, *([alignment.output] if final else [])]}
    nodes = {layer.use.source for layer in layers} | {layer.use.node for layer in layers}
    nodes |= {match.node for match in fed.values()} | {alignment.program_view.output}
    step = _images_at_a_time(alignment, nodes)
    for start in range(0, len(inputs), step):
        values = alignment.program_view.run(inputs[start : start + step], nodes)
        _add_layers(alignment, layers, values, errors, graph_errors)
        if between:
            _add_between(alignment, fed, ends, values, between)
    of_layers = [
        errors[match.tensor].result(layer.use.name, layer.match.op.kind, match.tensor, graph_errors[match.tensor])
        for layer, match in zip(layers, layer_outputs, strict=True)
    ]
    of_gaps = [
        sums.result(alignment.program_view.described(_node(alignment, ends, tensor)), "", tensor)
        for tensor, sums in between.items()
    ]
    return LayerErrors(_worst_first(of_layers), _worst_first(of_gaps), len(inputs), _skipped(alignment))


def _images_at_a_time(alignment: Alignment, nodes: set[str]) -> int:
    program_view = alignment.program_view
    size = sum(int(np.prod(program_view.shapes[node])) for node in nodes) // program_view.batch
    return int(np.clip(_ELEMENTS // max(size, 1), 1, _CHUNK))


def _add_layers(
    alignment: Alignment,
    layers: Sequence[PairedLayer],
    values: Mapping[str, NDArray[Any]],
    errors: Mapping[str, _ErrorSums],
    graph_errors: Mapping[str, _ErrorSums],
) -> None:
    """Run each layer on the program's values (by node), and add up its errors, by its output tensor."""
    pairs = [(layer, layer.input, layer.output) for layer in layers if layer.input and layer.output]
    feeds = {match.tensor: match.to_file(values[match.node]) for _, match, _ in pairs}
    results = alignment.graph_view.run(feeds, [match.tensor for _, _, match in pairs])
    for layer, _, match in pairs:
        axis = channel_axis(layer.use, values[match.node].ndim)
        result = match.to_program(results.pop(match.tensor))
        errors[match.tensor].add(result, match.activated(values[match.node]), axis)
        try:
            expected = alignment.program_view.apply(layer.use, values[layer.use.source], layer.weight, layer.bias)
        except BackendError:
            continue
        graph_errors[match.tensor].add(result, match.activated(expected), axis)


def _add_between(
    alignment: Alignment,
    fed: Mapping[str, TensorMatch],
    ends: Mapping[str, TensorMatch],
    values: Mapping[str, NDArray[Any]],
    between: Mapping[str, _ErrorSums],
) -> None:
    """Run the operations between layers on the program's values (by node), and add up their errors, by tensor."""
    feeds = {match.tensor: match.to_file(values[match.node]) for match in fed.values()}
    results = alignment.graph_view.run(feeds, list(between))
    for tensor, sums in between.items():
        end = ends.get(tensor)
        expected = values[_node(alignment, ends, tensor)]
        result = end.to_program(results[tensor]) if end else np.asarray(results[tensor]).reshape(expected.shape)
        sums.add(result, expected, channel_axis(None, expected.ndim))


def _node(alignment: Alignment, ends: Mapping[str, TensorMatch], tensor: str) -> str:
    """The program's node of a tensor between layers, which may be the output."""
    return ends[tensor].node if tensor in ends else alignment.program_view.output


def _skipped(alignment: Alignment) -> tuple[str, ...]:
    missing = [f"{use.name}: not found in the file" for use in alignment.matches.uses]
    unmatched = [
        f"{layer.use.name}: no tensor of the file corresponds to its {'output' if layer.input else 'input'}"
        for layer in alignment.layers
        if not (layer.input and layer.output)
    ]
    return (*missing, *unmatched)


def _worst_first(errors: Sequence[LayerError]) -> tuple[LayerError, ...]:
    return tuple(sorted(errors, key=lambda error: -np.nan_to_num(error.worst, nan=np.inf)))


@dataclass
class _ErrorSums:
    """Sums over all values of each channel, in float64."""

    error: NDArray[Any] = field(default_factory=lambda: np.zeros(1))
    square: NDArray[Any] = field(default_factory=lambda: np.zeros(1))
    value: NDArray[Any] = field(default_factory=lambda: np.zeros(1))
    count: int = 0

    def add(self, result: NDArray[Any], expected: NDArray[Any], axis: int) -> None:
        """Add values of some images; axis: of channels."""
        rows = [np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1).astype(np.float64) for v in (result, expected)]
        self.error = self.error + ((rows[0] - rows[1]) ** 2).sum(axis=1)
        self.square = self.square + (rows[1] ** 2).sum(axis=1)
        self.value = self.value + rows[1].sum(axis=1)
        self.count += rows[1].shape[1]

    def channels(self) -> NDArray[np.float64]:
        """The relative error of each channel."""
        variance = np.maximum(self.square / self.count - (self.value / self.count) ** 2, 0)
        floor = _FLOOR * np.sqrt(variance.mean())
        sizes = np.maximum(np.maximum(np.sqrt(variance), floor), np.finfo(np.float32).tiny)
        return np.asarray(np.sqrt(self.error / self.count) / sizes, np.float64)

    def result(self, name: str, kind: str, tensor: str, graph: _ErrorSums | None = None) -> LayerError:
        """The error; graph: sums against the same operation in PyTorch."""
        errors = self.channels()
        channel = int(np.nan_to_num(errors, nan=np.inf).argmax())
        noise, signal = float(self.error.sum()), float(self.square.sum())
        ratio = noise / signal if signal else float(noise > 0)
        snr = float(-10 * np.log10(ratio)) if 0 < ratio < np.inf else None
        graph_error = float(graph.channels().max()) if graph is not None and graph.count else None
        return LayerError(name, kind, tensor, snr, float(np.sqrt(ratio)), channel, float(errors[channel]), graph_error)
