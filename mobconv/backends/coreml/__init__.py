"""Core ML: ML Programs in .mlpackage folders, encoded and run on any machine.

| file            | what it does                                                            |
|-----------------|-------------------------------------------------------------------------|
| support.py      | bits and system of a cell's file                                        |
| options.py      | the options of a recipe; image_type.py carries out the one that there is |
| convert.py      | program -> float templates, with the map of their weights and biases    |
| encode.py       | template + weights -> package; rewrite.py replaces the constants        |
| forms.py        | how each weight is stored; decode.py reads it back                      |
| package.py      | the folder; weights_file.py, its file of constants; mil.py, its messages |
| image.py        | image input and class labels of a program                               |
| graph.py        | a program as operations of the executor in mobconv.backends.apple       |
| runner.py       | a package from disk, run by the executor or by Core ML                  |
| graph_view.py   | a package cut at given tensors                                          |
| size_audit.py   | bytes of each weight                                                    |
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.backends.base import Encoded, Entry, Runner, Support, TensorSpec, float_activations
from mobconv.backends.size_audit import Audit
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute

if TYPE_CHECKING:
    from mobconv.backends.graph_view import GraphView
    from mobconv.data.preprocessing import Preprocessing
    from mobconv.model.program import Program


class CoreML:
    """The backend of ML Programs; see `Backend`."""

    name = "coreml"
    suffix = "mlpackage"
    default_compute = Compute.FP32
    source_packages = ("mobconv.backends.coreml", "mobconv.backends.apple")

    def missing(self) -> str | None:
        """What to install, or None."""
        from mobconv.backends.apple.vendor import HINT

        return HINT if find_spec("coremltools") is None else None

    def versions(self) -> dict[str, str]:
        """Of coremltools, which writes the templates, and torch, which runs them here."""
        return {name: version(name) for name in ("coremltools", "torch") if find_spec(name) is not None}

    def support(self, cell: Cell) -> Support:
        """See `support.support`."""
        from mobconv.backends.coreml.support import support

        return support(cell)

    @property
    def options_schema(self) -> dict[str, Any]:
        """See `options.CoreMLOptions`."""
        from mobconv.backends.coreml.options import schema

        return schema()

    def options(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """See `options.checked`."""
        from mobconv.backends.coreml.options import checked

        return checked(values)

    def image_entry(
        self, program: Program, preprocessing: Preprocessing | None, labels: tuple[str, ...], kind: str, options: Any
    ) -> Entry:
        """See `apple.entry.image_entry`; with the option `image_type`, see `image_type.entry`."""
        from mobconv.backends.apple.entry import image_entry
        from mobconv.backends.coreml import image_type

        if options:
            return image_type.entry(program, preprocessing, labels, options)
        return image_entry(program, preprocessing, labels, kind)

    def convert(self, program: Program, compute: Compute, directory: Path, options: Any = None) -> None:
        """See `convert.convert`."""
        from mobconv.backends.coreml.convert import convert

        convert(program, compute, directory, options)

    def encode(self, template: Path, model: QuantizedModel, cell: Cell, path: Path, record: str = "") -> Encoded:
        """See `encode.encode`."""
        from mobconv.backends.coreml.encode import encode

        return encode(template, float_activations(model, cell), cell, path, record)

    def open(self, path: Path, threads: int = 0) -> Runner:
        """See `runner.open_package`."""
        from mobconv.backends.coreml.runner import open_package

        return open_package(path, threads)

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
        from mobconv.backends.coreml.graph_view import open_graph

        return open_graph(path, threads)

    def size_audit(self, path: Path) -> Audit:
        """See `size_audit.audit`."""
        from mobconv.backends.coreml.size_audit import audit

        return audit(path)


backend = CoreML()
