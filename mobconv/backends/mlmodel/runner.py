"""Opens a file: in Core ML itself on a Mac, else in the executor of ML Programs."""

from __future__ import annotations

import sys
from pathlib import Path

from mobconv.backends.apple import description
from mobconv.backends.apple.executor import Executor
from mobconv.backends.apple.graph import NUMPY_NAMES, Value
from mobconv.backends.apple.runner import EmulatedRunner, NativeRunner, native_model
from mobconv.backends.base import Runner, TensorSpec
from mobconv.backends.mlmodel import graph, model
from mobconv.errors import BackendError, InputError


def open_model(path: Path, threads: int = 0, platform: str = sys.platform) -> Runner:
    """Read a file and prepare it to run; weights are decoded once, here.

    Raises InputError for a missing, foreign or damaged file, BackendError for a network that cannot be run here.
    """
    spec = model.read(path)
    network = graph.parse(spec, path)
    colours = description.colours(spec)
    inputs = tuple(_spec(value, colours.get(value.name, "")) for value in network.graph.inputs)
    outputs = tuple(_spec(value) for value in network.graph.outputs)
    if not inputs or not outputs:
        raise InputError(f"{path}: a network without {'outputs' if inputs else 'inputs'}")
    record = description.record(spec)
    if platform == "darwin":
        if not network.exact:
            raise BackendError(f"{path}: on a Mac, mobconv runs networks of arrays with exact shapes only")
        scores, labels = str(spec.description.predictedProbabilitiesName), network.graph.labels
        return NativeRunner(native_model(path), inputs, outputs, record, scores, labels)
    try:
        executor = Executor(network.graph, network.functions)
        return EmulatedRunner(executor, inputs, outputs, record, threads, network.graph.labels)
    except BackendError as error:
        raise BackendError(f"{path}: {error}") from error


def _spec(value: Value, colour: str = "") -> TensorSpec:
    return TensorSpec(value.name, value.shape, NUMPY_NAMES[value.dtype], colour)
