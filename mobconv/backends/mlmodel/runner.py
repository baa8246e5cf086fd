"""Opening a file: in Core ML itself where there is one, else through the executor of ML Programs."""

from __future__ import annotations

import sys
from pathlib import Path

from mobconv.backends.base import Runner, TensorSpec
from mobconv.backends.coreml import image
from mobconv.backends.coreml.executor import Executor
from mobconv.backends.coreml.graph import NUMPY_NAMES, Value
from mobconv.backends.coreml.runner import EmulatedRunner, NativeRunner, native_model
from mobconv.backends.mlmodel import graph, model
from mobconv.errors import BackendError, InputError


def open_model(path: Path, threads: int = 0, platform: str = sys.platform) -> Runner:
    """Read a file and make it ready to run; weights are decoded here, once.

    Raises InputError for what is no whole neural network, BackendError for one that cannot be run here.
    """
    spec = model.read(path)
    network = graph.parse(spec, path)
    colours = image.colours(spec)
    inputs = tuple(_spec(value, colours.get(value.name, "")) for value in network.graph.inputs)
    outputs = tuple(_spec(value) for value in network.graph.outputs)
    if not inputs or not outputs:
        raise InputError(f"{path}: a network without {'outputs' if inputs else 'inputs'}")
    record = str(spec.description.metadata.userDefined.get(model.RECORD_KEY, ""))
    if platform == "darwin":
        if not network.exact:
            raise BackendError(f"{path}: on a Mac mobconv predicts networks whose shapes are their arrays' own only")
        scores, labels = str(spec.description.predictedProbabilitiesName), network.graph.labels
        return NativeRunner(native_model(path), inputs, outputs, record, scores, labels)
    try:
        executor = Executor(network.graph, network.functions)
        return EmulatedRunner(executor, inputs, outputs, record, threads, network.graph.labels)
    except BackendError as error:
        raise BackendError(f"{path}: {error}") from error


def _spec(value: Value, colour: str = "") -> TensorSpec:
    return TensorSpec(value.name, value.shape, NUMPY_NAMES[value.dtype], colour)
