"""Core ML's older format: neuralnetwork in one .mlmodel file, every width from 8 to 1 bit native.

| file          | what it does                                                                |
|---------------|-----------------------------------------------------------------------------|
| support.py    | bits of a cell's file, or why it is not possible                            |
| model.py      | the file: one Model message, and the parameters of its layers               |
| params.py     | WeightParams: how floats, codes, scales and tables of a parameter are stored |
| convert.py    | program -> float template, with the map of its weights and biases           |
| encode.py     | template + weights -> file                                                  |
| graph.py      | layers -> operations of the executor in mobconv.backends.apple              |
| layer.py      | what the function of a layer type sees of its layer                         |
| layers*.py    | a function for each layer type                                              |
| runner.py     | a file from disk, run in torch or by Core ML                                |
| graph_view.py | a file cut at given tensors                                                 |
| size_audit.py | bytes of each weight                                                        |

It shares the executor and the import of coremltools with ML Programs (mobconv.backends.apple).
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.backends.base import (
    NO_OPTIONS,
    Encoded,
    Entry,
    Runner,
    Support,
    TensorSpec,
    float_activations,
    no_options,
)
from mobconv.backends.size_audit import Audit
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute

if TYPE_CHECKING:
    from mobconv.backends.graph_view import GraphView
    from mobconv.data.preprocessing import Preprocessing
    from mobconv.model.program import Program


class NeuralNetwork:
    """The backend of .mlmodel files; see `Backend`."""

    name = "coreml-mlmodel"
    suffix = "mlmodel"
    default_compute = Compute.FP32
    source_packages = ("mobconv.backends.mlmodel", "mobconv.backends.apple")
    options_schema = NO_OPTIONS

    def missing(self) -> str | None:
        """What to install, or None."""
        from mobconv.backends.apple.vendor import HINT

        return HINT if find_spec("coremltools") is None else None

    def versions(self) -> dict[str, str]:
        """Of coremltools, which writes the templates, and torch, which runs them here."""
        return {name: version(name) for name in ("coremltools", "torch") if find_spec(name) is not None}

    def support(self, cell: Cell) -> Support:
        """See `support.support`."""
        from mobconv.backends.mlmodel.support import support

        return support(cell)

    def options(self, values: Mapping[str, Any]) -> None:
        """Neural networks have none."""
        no_options(self.name, values)

    def image_entry(
        self, program: Program, preprocessing: Preprocessing | None, labels: tuple[str, ...], kind: str, options: Any
    ) -> Entry:
        """See `apple.entry.image_entry`."""
        from mobconv.backends.apple.entry import image_entry

        return image_entry(program, preprocessing, labels, kind)

    def convert(self, program: Program, compute: Compute, directory: Path, options: Any = None) -> None:
        """See `convert.convert`."""
        from mobconv.backends.mlmodel.convert import convert

        convert(program, compute, directory)

    def encode(self, template: Path, model: QuantizedModel, cell: Cell, path: Path, record: str = "") -> Encoded:
        """See `encode.encode`."""
        from mobconv.backends.mlmodel.encode import encode

        return encode(template, float_activations(model, cell), cell, path, record)

    def open(self, path: Path, threads: int = 0) -> Runner:
        """See `runner.open_model`."""
        from mobconv.backends.mlmodel.runner import open_model

        return open_model(path, threads)

    def runtime_label(self, verified: str) -> str:
        """Core ML itself on a Mac, else the executor of `mobconv.backends.apple`."""
        from mobconv.backends.apple.runner import LABELS

        return LABELS[verified]

    def suggested_fix(self, spec: TensorSpec, network: Preprocessing, caller: Preprocessing) -> str:
        """See `apple.suggestion.suggested_fix`."""
        from mobconv.backends.apple.suggestion import suggested_fix

        return suggested_fix(spec, network, caller)

    def graph_view(self, path: Path, threads: int = 0) -> GraphView:
        """See `graph_view.open_graph`."""
        from mobconv.backends.mlmodel.graph_view import open_graph

        return open_graph(path, threads)

    def size_audit(self, path: Path) -> Audit:
        """See `size_audit.audit`."""
        from mobconv.backends.mlmodel.size_audit import audit

        return audit(path)


backend = NeuralNetwork()
