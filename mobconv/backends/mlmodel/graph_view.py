"""A neural network, cut: its layers are steps of the executor of ML Programs, and so are its parts."""

from __future__ import annotations

from pathlib import Path

from mobconv.backends.coreml.graph_view import ProgramAnatomy
from mobconv.backends.mlmodel import graph, model
from mobconv.errors import InputError


def anatomy(path: Path, threads: int = 0) -> ProgramAnatomy:
    """Open a file to be cut. Raises as `runner.open_model`."""
    network = graph.parse(model.read(path), path)
    if not network.graph.inputs or not network.graph.outputs:
        raise InputError(f"{path}: a network without {'outputs' if network.graph.inputs else 'inputs'}")
    note = "computed in fp32 here; the file does not say in which precision it runs"
    return ProgramAnatomy(path, network.graph, network.functions, threads, note)
