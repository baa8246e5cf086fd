"""Core ML's older format: neuralnetwork in one .mlmodel file, every width from 8 to 1 bit native.

| file         | what it does                                                              |
|--------------|---------------------------------------------------------------------------|
| support.py   | what a cell becomes, or why it cannot be                                   |
| model.py     | the file: one Model message, and the parameters of its layers              |
| params.py    | WeightParams: how floats, codes, scales and tables of a parameter lie there |
| convert.py   | program -> float template, with the map of its weights                     |
| encode.py    | template + weights -> file                                                 |
| graph.py     | layers -> steps that the executor of ML Programs runs                      |
| layers*.py   | one function a layer type, in its steps                                    |
| runner.py    | a file from disk, run in torch or by Core ML                               |

It shares the executor and the vendor's import with mobconv.backends.coreml.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobconv.backends.base import Encoded, Runner, Support
from mobconv.backends.size_audit import Audit
from mobconv.quantize.weights import Weight
from mobconv.schemes import Cell, Compute

if TYPE_CHECKING:
    from mobconv.backends.graph_view import Anatomy
    from mobconv.model.trace import Program


class NeuralNetwork:
    """The backend of .mlmodel files; see base.Backend."""

    name = "coreml-mlmodel"
    suffix = "mlmodel"
    image: Literal["nchw", "nhwc", "native"] = "native"

    def missing(self) -> str | None:
        """What to install, or None."""
        from mobconv.backends.coreml.vendor import HINT

        return HINT if find_spec("coremltools") is None else None

    def versions(self) -> dict[str, str]:
        """coremltools writes the templates, torch runs them here."""
        return {name: version(name) for name in ("coremltools", "torch") if find_spec(name) is not None}

    def support(self, cell: Cell) -> Support:
        """See `support.support`."""
        from mobconv.backends.mlmodel.support import support

        return support(cell)

    def convert(self, program: Program, compute: Compute, directory: Path) -> None:
        """See `convert.convert`."""
        from mobconv.backends.mlmodel.convert import convert

        convert(program, compute, directory)

    def encode(
        self, template: Path, weights: Mapping[str, Weight], cell: Cell, path: Path, record: str = ""
    ) -> Encoded:
        """See `encode.encode`."""
        from mobconv.backends.mlmodel.encode import encode

        return encode(template, weights, cell, path, record)

    def open(self, path: Path, threads: int = 0) -> Runner:
        """See `runner.open_model`."""
        from mobconv.backends.mlmodel.runner import open_model

        return open_model(path, threads)

    def anatomy(self, path: Path, threads: int = 0) -> Anatomy:
        """See `anatomy.anatomy`."""
        from mobconv.backends.mlmodel.graph_view import anatomy

        return anatomy(path, threads)

    def audit(self, path: Path) -> Audit:
        """See `audit.audit`."""
        from mobconv.backends.mlmodel.size_audit import audit

        return audit(path)


backend = NeuralNetwork()
