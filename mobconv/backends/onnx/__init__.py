"""ONNX: every scheme packed at exactly n bits, decoded by standard ops that the runtime folds at load."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mobconv.backends.base import Backend, Encoded, Runner, Support
from mobconv.backends.size_audit import Audit
from mobconv.errors import BackendError
from mobconv.quantize.weights import Weight
from mobconv.schemes import Cell, Compute, Mode, Scheme, Storage

if TYPE_CHECKING:
    from mobconv.backends.graph_view import Anatomy
    from mobconv.model.trace import Program

_PACKAGES = ("onnx", "onnx_ir", "onnxruntime", "onnxscript")


class OnnxBackend:
    """See `mobconv.backends.base.Backend`."""

    name = "onnx"
    suffix = "onnx"
    image: Literal["nchw", "nhwc", "native"] = "nchw"

    def missing(self) -> str | None:
        absent = [name for name in _PACKAGES if find_spec(name) is None]
        if absent:
            return f'{", ".join(absent)} not installed: pip install "mobconv[onnx]"'
        return None

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}

    def support(self, cell: Cell) -> Support:
        if cell.compute is Compute.FP16:
            return Support(None, reason="ONNX Runtime computes fp16 graphs slower than fp32 ones on CPUs; use fp32")
        if cell.storage is Storage.NATIVE and cell.scheme.mode is not None:
            return _native(cell.scheme)
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
        return Encoded(encode(template, weights, cell, path, record), support)

    def open(self, path: Path, threads: int = 0) -> Runner:
        from mobconv.backends.onnx.runner import OnnxRunner

        return OnnxRunner(path, threads)

    def anatomy(self, path: Path, threads: int = 0) -> Anatomy:
        from mobconv.backends.onnx.graph_view import anatomy

        return anatomy(path, threads)

    def audit(self, path: Path) -> Audit:
        from mobconv.backends.onnx.size_audit import audit

        return audit(path)


_SLOW = (
    "for tools and devices that know DequantizeLinear. ONNX Runtime on CPUs does not fold it unless the session option "
    "session.disable_quant_qdq is 1: a Conv then runs 2 to 6 times slower than float or packed, and a MatMul goes to "
    "an approximate kernel, unless session.qdq_matmulnbits_accuracy_level is 0 or 1"
)


def _native(scheme: Scheme) -> Support:
    """DequantizeLinear of ONNX's own integer types. (int2 came with opset 25, which few runtimes read.)"""
    if scheme.mode is Mode.KMEANS or (scheme.mode is Mode.LINEAR and scheme.bits == 1):
        return Support(
            None,
            reason="ONNX has no type for a lookup table; packed files run at float speed: leave out @native",
        )
    bits = native_bits(scheme.bits)
    reason = f"native: ONNX's integer types are 8 and 4 bits wide, there are no {scheme.bits}-bit ones before opset 25"
    return Support(bits, "opset 21" if bits == 4 else "opset 18", "" if bits == scheme.bits else reason, _SLOW)


def native_bits(bits: int) -> int:
    """The width of the ONNX type that holds codes of that many bits."""
    return 4 if bits <= 4 else 8


backend: Backend = OnnxBackend()
