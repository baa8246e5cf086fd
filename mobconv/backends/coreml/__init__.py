"""Core ML: ML Programs in .mlpackage folders, encoded and run on any machine.

How each weight is held on disk stands in `forms`, the files themselves in `package` and `weights_file`.
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


class CoreML:
    """The backend of ML Programs; see base.Backend."""

    name = "coreml"
    suffix = "mlpackage"
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
        from mobconv.backends.coreml.support import support

        return support(cell)

    def convert(self, program: Program, compute: Compute, directory: Path) -> None:
        """See `convert.convert`."""
        from mobconv.backends.coreml.convert import convert

        convert(program, compute, directory)

    def encode(
        self, template: Path, weights: Mapping[str, Weight], cell: Cell, path: Path, record: str = ""
    ) -> Encoded:
        """See `encode.encode`."""
        from mobconv.backends.coreml.encode import encode

        return encode(template, weights, cell, path, record)

    def open(self, path: Path, threads: int = 0) -> Runner:
        """See `runner.open_package`."""
        from mobconv.backends.coreml.runner import open_package

        return open_package(path, threads)

    def anatomy(self, path: Path, threads: int = 0) -> Anatomy:
        """See `anatomy.anatomy`."""
        from mobconv.backends.coreml.graph_view import anatomy

        return anatomy(path, threads)

    def audit(self, path: Path) -> Audit:
        """See `audit.audit`."""
        from mobconv.backends.coreml.size_audit import audit

        return audit(path)


backend = CoreML()
