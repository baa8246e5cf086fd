"""Which layers inject error: each is fed the reference's inputs, and what comes out is compared.

Two runs of the cut file on the same images. In one, the input of every layer with weights is the reference's: the
error of its output is its own. In the other, the output of every layer is the reference's: the error at the
next layers' inputs is of what lies between (activations, pooling, resizing, additions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.compare.cuts import Cut
from mobconv.compare.subject import Floats, Subject, channel_axis
from mobconv.errors import BackendError

_CHUNK = 8  # images at a time
_ELEMENTS = 1 << 25  # of the reference's tensors at a time, 128 MB: fewer images where they are large
_FLOOR = 0.1  # of the layer's spread: channels of less have their error measured against this


@dataclass(frozen=True)
class Injected:
    """The error that a layer, or what lies between layers, adds by itself.

    name      the module's path in PyTorch; between layers with the operation, as in 'features.3 (add)'
    kind      the operation's type in the file, '' between layers
    tensor    the file's tensor that was compared
    snr_db    10 log10(sum reference^2 / sum error^2); None where equal
    relative  root of the inverse of that ratio
    channel   the worst output channel
    worst     its error: root mean square over that of the channel's centred reference, or over a tenth of all
              channels' where that is more
    graph     the worst channel's error against the same operation in PyTorch with the file's weights, which leaves
              what is not the weights'; None between layers, and where the operation cannot be run on its own
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
class Injections:
    """Worst first. images: how many were run; skipped: layers that were not compared, each with the reason."""

    layers: tuple[Injected, ...]
    between: tuple[Injected, ...]
    images: int
    skipped: tuple[str, ...]


def layers(subject: Subject, inputs: Floats) -> Injections:
    """Compare every layer of the file on the checkpoint's inputs (N, C, H, W); 32 of them tell enough."""
    subject_layers = [layer for layer in subject.layers if layer.before and layer.after]
    before = [layer.before for layer in subject_layers if layer.before]
    after = [layer.after for layer in subject_layers if layer.after]
    uses = [layer.use for layer in subject_layers]
    first = {cut.tensor for cut in subject.frontier}
    fed = {cut.tensor: cut for cut in [*after, *subject.frontier]}
    ends = {cut.tensor: cut for cut in _reachable(subject, fed, [c for c in before if c.tensor not in {*fed, *first}])}
    final = _final(subject, fed)
    sums = {cut.tensor: _Sums() for cut in after}
    graphs = {cut.tensor: _Sums() for cut in after}
    gaps = {tensor: _Sums() for tensor in [*ends, *([subject.output] if final else [])]}
    nodes = {use.source for use in uses} | {use.node for use in uses} | {cut.node for cut in fed.values()}
    nodes |= {subject.reference.output}
    size = sum(int(np.prod(subject.reference.shapes[node])) for node in nodes) // subject.reference.batch
    step = int(np.clip(_ELEMENTS // max(size, 1), 1, _CHUNK))
    for start in range(0, len(inputs), step):
        values = subject.reference.run(inputs[start : start + step], nodes)
        found = subject.anatomy.run({c.tensor: c.to_file(values[c.node]) for c in before}, [c.tensor for c in after])
        for layer, cut in zip(subject_layers, after, strict=True):
            axis = channel_axis(layer.use, values[cut.node].ndim)
            made = cut.to_reference(found.pop(cut.tensor))
            sums[cut.tensor].add(made, cut.activated(values[cut.node]), axis)
            try:
                expected = subject.reference.apply(layer.use, values[layer.use.source], layer.weight)
            except BackendError:
                continue
            graphs[cut.tensor].add(made, cut.activated(expected), axis)
        if gaps:
            found = subject.anatomy.run({c.tensor: c.to_file(values[c.node]) for c in fed.values()}, list(gaps))
            for tensor, total in gaps.items():
                end = ends.get(tensor)
                expected = values[end.node if end else subject.reference.output]
                made = end.to_reference(found[tensor]) if end else np.asarray(found[tensor]).reshape(expected.shape)
                total.add(made, expected, channel_axis(None, expected.ndim))
    own = [
        sums[cut.tensor].result(layer.use.name, layer.match.op.kind, cut.tensor, graphs[cut.tensor])
        for layer, cut in zip(subject_layers, after, strict=True)
    ]
    between = [
        total.result(subject.reference.between(_node(subject, ends, tensor)), "", tensor)
        for tensor, total in gaps.items()
    ]
    skipped = [f"{use.name}: not found in the file" for use in subject.matches.uses]
    skipped += [
        f"{layer.use.name}: no tensor of the file corresponds to its {'output' if layer.before else 'input'}"
        for layer in subject.layers
        if not (layer.before and layer.after)
    ]
    return Injections(_worst_first(own), _worst_first(between), len(inputs), tuple(skipped))


def _node(subject: Subject, ends: dict[str, Cut], tensor: str) -> str:
    return ends[tensor].node if tensor in ends else subject.reference.output


def _worst_first(found: Sequence[Injected]) -> tuple[Injected, ...]:
    return tuple(sorted(found, key=lambda each: -np.nan_to_num(each.worst, nan=np.inf)))


def _reachable(subject: Subject, fed: dict[str, Cut], cuts: Sequence[Cut]) -> list[Cut]:
    """Those that depend on what is fed alone."""
    return [cut for cut in {cut.tensor: cut for cut in cuts}.values() if _depends_on(subject, fed, cut.tensor)]


def _depends_on(subject: Subject, fed: dict[str, Cut], tensor: str) -> bool:
    from mobconv.backends.graph_view.slicing import needed

    edges = [(op.inputs, op.outputs) for op in subject.anatomy.ops]
    moving = {name for _, outputs in edges for name in outputs} | set(subject.anatomy.inputs)
    constants = {name for inputs, _ in edges for name in inputs} - moving
    try:
        needed(edges, fed, [tensor], constants)
    except BackendError:
        return False
    return True


def _final(subject: Subject, fed: dict[str, Cut]) -> bool:
    """Whether something lies between the last layers and the output."""
    return subject.output not in fed and _depends_on(subject, fed, subject.output)


@dataclass
class _Sums:
    """Sums over all values of each channel, in float64."""

    error: NDArray[Any] = field(default_factory=lambda: np.zeros(1))
    square: NDArray[Any] = field(default_factory=lambda: np.zeros(1))
    value: NDArray[Any] = field(default_factory=lambda: np.zeros(1))
    count: int = 0

    def add(self, found: NDArray[Any], expected: NDArray[Any], axis: int) -> None:
        rows = [np.moveaxis(v, axis, 0).reshape(v.shape[axis], -1).astype(np.float64) for v in (found, expected)]
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

    def result(self, name: str, kind: str, tensor: str, graph: _Sums | None = None) -> Injected:
        errors = self.channels()
        channel = int(np.nan_to_num(errors, nan=np.inf).argmax())
        noise, signal = float(self.error.sum()), float(self.square.sum())
        ratio = noise / signal if signal else float(noise > 0)
        snr = float(-10 * np.log10(ratio)) if 0 < ratio < np.inf else None
        own = float(graph.channels().max()) if graph is not None and graph.count else None
        return Injected(name, kind, tensor, snr, float(np.sqrt(ratio)), channel, float(errors[channel]), own)
