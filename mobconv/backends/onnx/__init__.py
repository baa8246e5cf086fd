"""ONNX: every scheme packed at exactly n bits, decoded by standard ops that the runtime folds at load."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mobconv.backends.base import NO_NATIVE, Backend, Encoded, Runner, Support
from mobconv.errors import BackendError
from mobconv.quantize.weights import Weight
from mobconv.schemes import Cell, Compute, Storage

if TYPE_CHECKING:
    from mobconv.trace import Program

_PACKAGES = ("onnx", "onnx_ir", "onnxruntime", "onnxscript")


class OnnxBackend:
    """See `mobconv.backends.base.Backend`."""

    name = "onnx"
    suffix = "onnx"

    def missing(self) -> str | None:
        absent = [name for name in _PACKAGES if find_spec(name) is None]
        if absent:
            return f'{", ".join(absent)} not installed: pip install "mobconv[onnx]"'
        return None

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}

    def support(self, cell: Cell) -> Support:
        if cell.storage is Storage.NATIVE:
            return Support(None, reason=NO_NATIVE)
        if cell.compute is Compute.FP16:
            return Support(None, reason="ONNX Runtime computes fp16 graphs slower than fp32 ones on CPUs; use fp32")
        return Support(cell.scheme.bits, requires="opset 18")

    def convert(self, program: Program, compute: Compute, directory: Path) -> None:
        from mobconv.backends.onnx.convert import convert

        convert(program, directory)

    def encode(
        self, template: Path, weights: Mapping[str, Weight], cell: Cell, path: Path, record: str = ""
    ) -> Encoded:
        from mobconv.backends.onnx.encode import encode

        support = self.support(cell)
        if support.stored_bits is None:
            raise BackendError(f"{cell}: {support.reason}")
        return Encoded(encode(template, weights, cell.scheme, path, record), support)

    def open(self, path: Path, threads: int = 0) -> Runner:
        from mobconv.backends.onnx.runner import OnnxRunner

        return OnnxRunner(path, threads)


backend: Backend = OnnxBackend()
