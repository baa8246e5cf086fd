"""An ML Program as a graph that can be cut; its parts run in our own executor, on a Mac too."""

from __future__ import annotations

from pathlib import Path

from mobconv.backends.apple.graph_view import ComputeGraphView
from mobconv.backends.coreml import package
from mobconv.backends.coreml.graph import parse
from mobconv.errors import InputError


def open_graph(path: Path, threads: int = 0) -> ComputeGraphView:
    """Open a package as a graph view. Raises what `runner.open_package` raises."""
    graph = parse(package.read(path))
    if not graph.inputs or not graph.outputs:
        raise InputError(f"{path}: a program without {'outputs' if graph.inputs else 'inputs'}")
    return ComputeGraphView(path, graph, None, threads)
