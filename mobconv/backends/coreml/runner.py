"""Opens a package: in Core ML itself on a Mac, else in our own executor."""

from __future__ import annotations

import sys
from pathlib import Path

from mobconv.backends.apple import description
from mobconv.backends.apple.executor import Executor
from mobconv.backends.apple.runner import EmulatedRunner, NativeRunner, native_model
from mobconv.backends.base import Runner
from mobconv.backends.coreml import package
from mobconv.backends.coreml.graph import parse, tensor_spec
from mobconv.errors import BackendError, InputError


def open_package(path: Path, threads: int = 0, platform: str = sys.platform) -> Runner:
    """Read a package and prepare it to run; weights are decoded once, here.

    Raises InputError for a missing, foreign or damaged package, BackendError for a program that cannot be run here.
    """
    opened = package.read(path)
    graph = parse(opened)
    colours = description.colours(opened.spec)
    inputs = tuple(tensor_spec(value, opened, colours.get(value.name, "")) for value in graph.inputs)
    outputs = tuple(tensor_spec(value, opened) for value in graph.outputs)
    if not inputs or not outputs:
        raise InputError(f"{path}: a program without {'outputs' if inputs else 'inputs'}")
    record = description.record(opened.spec)
    if platform == "darwin":
        scores = str(opened.spec.description.predictedProbabilitiesName)
        return NativeRunner(native_model(path), inputs, outputs, record, scores, graph.labels)
    try:
        return EmulatedRunner(Executor(graph), inputs, outputs, record, threads, graph.labels)
    except BackendError as error:
        raise BackendError(f"{path}: {error}") from error
