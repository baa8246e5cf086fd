"""A file aligned with the checkpoint that it was made from: layers paired, tensors that correspond, weights decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mobconv import backends
from mobconv.backends.base import Sliceable
from mobconv.backends.graph_view import GraphView
from mobconv.compare.cut import cut_in_front, first_layers
from mobconv.compare.file_biases import file_biases
from mobconv.compare.paired_layers import PairedLayer, pair_layers
from mobconv.compare.program_view import ProgramView
from mobconv.compare.tensor_match import TensorMatch
from mobconv.compare.weight_match import WeightMatches, match_weights
from mobconv.errors import BackendError, InputError
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.program import Program
from mobconv.pipeline.reference import faster

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Alignment:
    """A file and its checkpoint.

    cut      tensors in front of the file's first layers, where it is fed the program's
    decoded  the program with the weights decoded from the file, and with its biases where they are not the checkpoint's
    output   the file's tensor that is the program's output
    biases   number of biases read from the file; unread: names of those that could not be, and are the checkpoint's
    """

    checkpoint: Checkpoint
    path: Path
    graph_view: GraphView
    program_view: ProgramView
    matches: WeightMatches
    layers: tuple[PairedLayer, ...]
    cut: tuple[TensorMatch, ...]
    decoded: Program
    output: str
    biases: int = 0
    unread: tuple[str, ...] = ()

    def close(self) -> None:
        """Close the file."""
        self.graph_view.close()

    def run(self, view: GraphView, feeds: Mapping[str, NDArray[Any]], count: int) -> Floats:
        """The output (count, ...) of a view of the file, float32 and in the program's shape, for fed tensors."""
        output = np.asarray(view.run(feeds, [self.output])[self.output], np.float32)
        return output.reshape(count, *self.program_view.shapes[self.program_view.output][1:])


def align(
    checkpoint: Checkpoint,
    path: Path,
    inputs: Floats,
    feed: Mapping[str, NDArray[Any]] | None = None,
    threads: int = 0,
    program: Program | None = None,
    other_biases: bool = False,
) -> Alignment:
    """Open a file to be cut, and align it with its checkpoint.

    inputs: a few of the checkpoint's inputs (n, C, H, W), on which tensors are checked to correspond; feed: one sample
    at the file's own input, where its shape is open; program: the checkpoint's, where it is traced already;
    other_biases: whether the file has biases of its own, see `Artifact.has_other_biases`. Raises InputError for a
    damaged file, one of another network and networks of several inputs; BackendError for a format whose files cannot be
    cut.
    """
    backend = backends.for_path(path)
    if not isinstance(backend, Sliceable):
        raise BackendError(f"The backend {backend.name} cannot cut its files: it lacks the method `graph_view`")
    graph_view = backend.graph_view(path, threads)
    try:
        return _aligned(checkpoint, program or checkpoint.trace(), path, inputs, feed, graph_view, other_biases)
    except BaseException:
        graph_view.close()
        raise


def _aligned(
    checkpoint: Checkpoint,
    program: Program,
    path: Path,
    inputs: Floats,
    feed: Mapping[str, NDArray[Any]] | None,
    graph_view: GraphView,
    other_biases: bool,
) -> Alignment:
    for name, count in ((str(path), len(graph_view.inputs)), (checkpoint.reference, len(program.example))):
        if count != 1:
            raise InputError(f"{name} has {count} inputs; `mobconv compare` compares networks with one")
    program_view = ProgramView(program)
    sample = inputs[:1] if feed is None else next(iter(feed.values()))
    graph_view.settle({graph_view.inputs[0]: sample})
    ops = [op for op in graph_view.ops if op.weight]
    weights = graph_view.run({}, list(dict.fromkeys(cast(str, op.weight) for op in ops))) if ops else {}
    matches = match_weights(ops, weights, program_view.uses, program.floats(), path)
    output = _output(graph_view, program_view)
    first = first_layers(graph_view, matches)
    biases, unread = file_biases(graph_view, program_view, matches.pairs) if other_biases else ({}, ())
    layers, folded = pair_layers(graph_view, program_view, matches, inputs, first, biases)
    values: dict[str, Floats] = dict(biases)
    for layer in layers:
        values.setdefault(layer.use.site.name, np.array(layer.weight))
    cut = cut_in_front(graph_view, program_view, first, output, folded, inputs)
    decoded = _decoded(program_view, values, inputs)
    return Alignment(
        checkpoint, path, graph_view, program_view, matches, layers, cut, decoded, output, len(biases), unread
    )


def _decoded(program_view: ProgramView, values: Mapping[str, Floats], inputs: Floats) -> Program:
    """The program with other weights, in the faster layout where the network runs in it: `view` may not."""
    program = faster(program_view.program.with_values(values))
    try:
        program.run({next(iter(program.example)): np.ascontiguousarray(inputs[: program_view.batch])})
    except RuntimeError:
        return program_view.program.with_values(values)
    return program


def _output(graph_view: GraphView, program_view: ProgramView) -> str:
    """The file's output with as many values as the program's. Raises InputError where there is none."""
    values = math.prod(program_view.shapes[program_view.output]) // program_view.batch
    for name in graph_view.outputs:
        shape = graph_view.shapes.get(name, ())
        count = math.prod(shape[1:]) if graph_view.batch <= 0 else math.prod(shape) // graph_view.batch
        if shape and count == values:
            return name
    shapes = ", ".join(str(list(graph_view.shapes.get(name, ()))) for name in graph_view.outputs)
    raise InputError(
        f"{graph_view.path} gives {shapes}, and the checkpoint {values} outputs: it is another network, or has another "
        "number of classes. Give the checkpoint that it was made from"
    )
