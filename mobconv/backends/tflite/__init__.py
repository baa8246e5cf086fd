"""TFLite (LiteRT): a conversion by litert-torch, then constants and the ops that decode them.

| file          | what it does                                                          |
|---------------|-----------------------------------------------------------------------|
| convert.py    | program -> float template, with the map of its weights                |
| encode.py     | template + weights -> file; how every kind of weight is stored        |
| unpack.py     | LUT16: codes of any width in int16 constants, unpacked at load        |
| graph.py      | the flatbuffer, editable                                              |
| metadata.py   | TFLite Model Metadata: normalisation and labels for Android's libraries |
| opaque.py     | parameters that the converter must not compute with                   |
| rewrite.py    | operators that the converter refuses, written as others               |
| barrier.py    | keeps the converter from merging a scale into weights                 |
| runner.py     | a file from disk, run by the stock interpreter                        |
| graph_view.py | a file cut at given tensors; operators.py reads its ops               |
| size_audit.py | bytes of each weight                                                  |
| quiet.py      | keeps vendors' output off the terminal                                |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
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
    no_options,
    weights_alone,
)
from mobconv.backends.size_audit import Audit
from mobconv.errors import BackendError
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute, Mode, Scheme, Storage

if TYPE_CHECKING:
    from mobconv.backends.graph_view import GraphView
    from mobconv.data.preprocessing import Preprocessing
    from mobconv.model.program import Program

_PACKAGES = {"litert-torch": "litert_torch", "ai-edge-litert": "ai_edge_litert"}
# The oldest runtime whose kernels have the version of each op that a scheme adds, by LiteRT's own table
# (tflite/tools/versioning/runtime_version.cc): FULLY_CONNECTED 5, DEQUANTIZE 5 (INT8 per channel),
# GATHER 6 (int16 positions), DEQUANTIZE 6 (INT4). INT2 is not in it: LiteRT 2.0 refuses it, 2.1 runs it.
_FLOAT, _INT8, _LUT16, _INT4, _INT2 = "TFLite 2.0", "TFLite 2.7", "TFLite 2.13", "TFLite 2.18", "LiteRT 2.1"
_UNPACKED = (
    "weights are decoded at load; convolutions wider than 1x1 then run in TFLite's builtin kernels, not in XNNPACK, "
    "which takes 2 to 3 times the latency of fp32 with one thread and 4 with two"
)
_WIDE = (
    "XNNPACK convolves with constants only, and TFLite's builtin kernels take several times as long. Matrix products "
    "and 1x1 convolutions decode theirs at load"
)


class _TFLite:
    """See `Backend`."""

    name = "tflite"
    suffix = "tflite"
    default_compute = Compute.FP32
    source_packages = ("mobconv.backends.tflite",)
    options_schema = NO_OPTIONS

    def missing(self) -> str | None:
        absent = [package for package, module in _PACKAGES.items() if find_spec(module) is None]
        if not absent:
            return None
        return f'TFLite needs {" and ".join(absent)}: pip install "mobconv[tflite]"'

    def versions(self) -> dict[str, str]:
        versions = {}
        for package in _PACKAGES:
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                continue
        return versions

    def support(self, cell: Cell) -> Support:
        scheme = cell.scheme
        if cell.compute is Compute.FP16:
            return Support(None, reason="TFLite computes in fp32 on CPUs; to store weights in 16 bits use scheme fp16")
        if scheme.mode is None:
            return Support(scheme.bits, requires=_FLOAT)
        if cell.storage is Storage.NATIVE:
            return _native(scheme)
        if scheme.mode is Mode.KMEANS or scheme.bits not in (8, 4, 2):
            return Support(scheme.bits, requires=_LUT16, note=_UNPACKED)
        if scheme.bits == 8:
            return Support(8, requires=_INT8)
        return Support(scheme.bits, requires=_INT4 if scheme.bits == 4 else _INT2, note=_UNPACKED)

    def options(self, values: Mapping[str, Any]) -> None:
        no_options(self.name, values)

    def image_entry(
        self, program: Program, preprocessing: Preprocessing | None, labels: tuple[str, ...], kind: str, options: Any
    ) -> Entry:
        from mobconv.backends.entry import pixel_entry
        from mobconv.backends.tflite.barrier import barrier

        return pixel_entry(program, preprocessing, labels, kind, "nhwc", barrier)

    def convert(self, program: Program, compute: Compute, directory: Path, options: Any = None) -> None:
        from mobconv.backends.tflite.convert import convert

        self._require()
        if compute is not Compute.FP32:
            raise BackendError(self.support(Cell.parse("tflite/fp32@fp16")).reason)
        convert(program, directory)

    def encode(self, template: Path, model: QuantizedModel, cell: Cell, path: Path, record: str = "") -> Encoded:
        from mobconv.backends.tflite.encode import encode

        self._require()
        support = self.support(cell)
        if support.stored_bits is None:
            raise BackendError(f"{cell}: {support.reason}")
        weight_bytes, (packed, wide), merged = encode(template, weights_alone(model, cell), cell, path, record)
        if wide and cell.storage is Storage.PACKED:
            note = f"{wide:,} of {packed:,} weights, filters wider than 1x1, lie in INT8 or FP16: {_WIDE}"
            support = replace(support, note=note)
        if merged and cell.scheme.bits < 32:
            text = f"{', '.join(merged)}: fp32, since litert-torch computes with them while it converts"
            support = replace(support, note="; ".join(filter(None, (support.note, text))))
        return Encoded(weight_bytes, support)

    def open(self, path: Path, threads: int = 0) -> Runner:
        from mobconv.backends.tflite.runner import TFLiteRunner

        self._require()
        return TFLiteRunner(path, threads)

    def runtime_label(self, verified: str) -> str:
        return "LiteRT's interpreter, on this machine's CPU"

    def suggested_fix(self, spec: TensorSpec, network: Preprocessing, caller: Preprocessing) -> str:
        from mobconv.backends.suggestion import wrapper

        shape = tuple(spec.shape)
        return wrapper(network, caller) + (f"litert_torch.convert(Normalised(model).eval(), (torch.zeros{shape},))")

    def graph_view(self, path: Path, threads: int = 0) -> GraphView:
        from mobconv.backends.tflite.graph_view import open_graph

        self._require()
        return open_graph(path, threads)

    def size_audit(self, path: Path) -> Audit:
        from mobconv.backends.tflite.size_audit import audit

        self._require()
        return audit(path)

    def _require(self) -> None:
        absent = self.missing()
        if absent is not None:
            raise BackendError(absent)


def _native(scheme: Scheme) -> Support:
    """Support for the types that XNNPACK takes as constants: INT8 codes, or values in fp16."""
    if scheme.mode is Mode.KMEANS or (scheme.mode is Mode.LINEAR and scheme.bits == 1):
        return Support(
            16,
            requires=_FLOAT,
            reason="native: XNNPACK reads no lookup tables; the table's values stand in fp16, at full speed",
        )
    if scheme.bits == 8:
        return Support(8, requires=_INT8)
    narrow = (
        "INT4 and INT2 constants exist, but" if scheme.bits in (4, 2) else f"there is no {scheme.bits}-bit type, and"
    )
    return Support(
        8,
        requires=_INT8,
        reason=f"native: {narrow} of the integer types XNNPACK takes INT8 only; others go to builtin kernels at 2 to 3 "
        "times the latency of fp32",
    )


backend: Backend = _TFLite()

__all__ = ["backend"]
