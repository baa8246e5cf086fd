"""A neural network as a graph that can be cut: its layers are operations of the executor of ML Programs."""

from __future__ import annotations

from pathlib import Path

from mobconv.backends.apple.graph_view import ComputeGraphView
from mobconv.backends.mlmodel import graph, model
from mobconv.errors import InputError


def open_graph(path: Path, threads: int = 0) -> ComputeGraphView:
    """Open a file as a graph view. Raises what `runner.open_model` raises."""
    network = graph.parse(model.read(path), path)
    if not network.graph.inputs or not network.graph.outputs:
        raise InputError(f"{path}: a network without {'outputs' if network.graph.inputs else 'inputs'}")
    note = "computed in fp32 here; the file does not say in which precision it runs"
    return ComputeGraphView(path, network.graph, network.functions, threads, note)
