"""onnxruntime.quantization: `quantize_dynamic`, its only way to 8-bit Conv weights that needs no calibration data.

Its documentation recommends static quantization for convolutional networks, which needs data and quantizes
activations to fixed ranges; its weight-only tools (matmul_nbits_quantizer) know MatMul and Gather, not Conv. With
quantize_dynamic activations are quantized to 8 bits as the network runs (ConvInteger, MatMulInteger), so that its
top-1 is not of the weights alone; bytes, squared error and seconds are. ConvInteger has one scale a tensor, whatever
`per_channel` says, hence `w8-symmetric-tensor` and `w8-linear-tensor` on our side. Both start from the same float file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rival import Rival, Weights

from mobconv.schemes import Cell, Granularity, Mode

if TYPE_CHECKING:
    from mobconv.model.trace import Program

TOOL = "onnxruntime"
NOTE = "activations in 8 bits too"


def compress(plain: Any, weight_type: str, path: Path) -> None:
    """A float file, or a model in memory -> a file with 8-bit weights. QInt8 is symmetric, QUInt8 has a zero point."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(plain, path, weight_type=QuantType[weight_type])


def decode(path: Path, program: Program) -> Weights:
    """scale * (code - zero point) of each weight; codes of a Gemm have become those of a MatMul, transposed."""
    import onnx
    from onnx import numpy_helper

    held = {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    found: Weights = {}
    for name, site in program.sites.items():
        if name in held:  # left float
            values = held[name].astype(np.float32)
        else:
            codes, zero = (held[f"{name}_{part}"].astype(np.float32) for part in ("quantized", "zero_point"))
            values = (codes - zero) * held[f"{name}_scale"].astype(np.float32)
        found[name] = np.ascontiguousarray(values if values.shape == site.shape else values.T)
        if found[name].shape != site.shape:
            raise ValueError(f"{path}: {name} has the shape {values.shape}, not {site.shape}")
    return found


def rivals(program: Program, cells: list[Cell], plain: Path) -> list[Rival]:
    """onnxruntime's way to each cell that it has one for."""
    types = {Mode.SYMMETRIC: "QInt8", Mode.LINEAR: "QUInt8"}
    return [
        Rival(
            TOOL,
            f"quantize_dynamic, {types[cell.scheme.mode]}",
            cell,
            "onnx",
            lambda path, kind=types[cell.scheme.mode]: compress(plain, kind, path),  # type: ignore[misc]
            lambda path: decode(path, program),
            NOTE,
            may_skip=True,
        )
        for cell in cells
        if cell.scheme.bits == 8 and cell.scheme.mode in types and cell.scheme.granularity is Granularity.TENSOR
    ]
