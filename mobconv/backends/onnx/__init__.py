"""ONNX: every scheme packed at exactly n bits, decoded by standard ops that ONNX Runtime folds when it loads a file.

| file          | what it does                                                      |
|---------------|-------------------------------------------------------------------|
| convert.py    | program -> float template, with the map of weights and biases     |
| pads.py       | padding that ONNX Runtime would merge into max pooling            |
| encode.py     | template + weights -> file                                        |
| functions.py  | how packed weights are stored, and the functions that decode them |
| runner.py     | a file from disk, run in ONNX Runtime                             |
| graph_view.py | a file cut at given tensors; operators.py reads its nodes         |
| size_audit.py | bytes of each weight; constants.py and readers.py find them       |
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv.backends.base import (
    NO_OPTIONS,
    Backend,
    Encoded,
    Entry,
    Runner,
    Support,
    TensorSpec,
    float_activations,
    no_options,
)
from mobconv.backends.size_audit import Audit
from mobconv.errors import BackendError
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute, Mode, Scheme, Storage

if TYPE_CHECKING:
    from mobconv.backends.graph_view import GraphView
    from mobconv.data.preprocessing import Preprocessing
    from mobconv.model.program import Program

_PACKAGES = ("onnx", "onnx_ir", "onnxruntime", "onnxscript")


class OnnxBackend:
    """See `mobconv.backends.base.Backend`."""

    name = "onnx"
    suffix = "onnx"
    default_compute = Compute.FP32
    source_packages = ("mobconv.backends.onnx",)
    options_schema = NO_OPTIONS

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

    def options(self, values: Mapping[str, Any]) -> None:
        no_options(self.name, values)

    def image_entry(
        self, program: Program, preprocessing: Preprocessing | None, labels: tuple[str, ...], kind: str, options: Any
    ) -> Entry:
        from mobconv.backends.entry import pixel_entry

        return pixel_entry(program, preprocessing, labels, kind)

    def convert(self, program: Program, compute: Compute, directory: Path, options: Any = None) -> None:
        from mobconv.backends.onnx.convert import convert

        convert(program, directory)

    def encode(self, template: Path, model: QuantizedModel, cell: Cell, path: Path, record: str = "") -> Encoded:
        from mobconv.backends.onnx.encode import encode

        support = self.support(cell)
        if support.stored_bits is None:
            raise BackendError(f"{cell}: {support.reason}")
        return Encoded(encode(template, float_activations(model, cell), cell, path, record), support)

    def open(self, path: Path, threads: int = 0) -> Runner:
        from mobconv.backends.onnx.runner import OnnxRunner

        return OnnxRunner(path, threads)

    def runtime_label(self, verified: str) -> str:
        return "ONNX Runtime, on this machine's CPU"

    def suggested_fix(self, spec: TensorSpec, network: Preprocessing, caller: Preprocessing) -> str:
        from mobconv.backends.suggestion import wrapper

        shape = tuple(spec.shape)
        return wrapper(network, caller) + (
            f"torch.onnx.export(Normalised(model).eval(), (torch.zeros{shape},), path, dynamo=True)"
        )

    def graph_view(self, path: Path, threads: int = 0) -> GraphView:
        from mobconv.backends.onnx.graph_view import open_graph

        return open_graph(path, threads)

    def size_audit(self, path: Path) -> Audit:
        from mobconv.backends.onnx.size_audit import audit

        return audit(path)


_SLOW = (
    "for tools and devices that know DequantizeLinear. ONNX Runtime on CPUs does not fold it unless the session option "
    "session.disable_quant_qdq is 1: a Conv then runs 2 to 6 times slower than float or packed, and a MatMul goes to "
    "an approximate kernel, unless session.qdq_matmulnbits_accuracy_level is 0 or 1"
)


def _native(scheme: Scheme) -> Support:
    """Support for DequantizeLinear of ONNX's integer types. (int2 came with opset 25, which few runtimes read.)"""
    if scheme.mode is Mode.KMEANS or (scheme.mode is Mode.LINEAR and scheme.bits == 1):
        return Support(
            None,
            reason="ONNX has no type for a lookup table; packed files run at float speed: leave out @native",
        )
    bits = native_bits(scheme.bits)
    reason = f"native: ONNX's integer types are 8 and 4 bits wide, there are no {scheme.bits}-bit ones before opset 25"
    return Support(bits, "opset 21" if bits == 4 else "opset 18", "" if bits == scheme.bits else reason, _SLOW)


def native_bits(bits: int) -> int:
    """Bits of the ONNX type for codes of `bits` bits."""
    return 4 if bits <= 4 else 8


backend: Backend = OnnxBackend()
