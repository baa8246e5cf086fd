"""onnxruntime.quantization: `quantize_dynamic`, its only way to 8-bit Conv weights without calibration data.

Its documentation recommends static quantization for convolutional networks, which needs data and quantizes
activations to fixed ranges. Its weight-only tools (matmul_nbits_quantizer) support MatMul and Gather, not Conv. With
quantize_dynamic, activations are quantized to 8 bits as the network runs (ConvInteger, MatMulInteger). So its top-1 is
not of the weights alone; bytes, squared error and seconds are. ConvInteger has one scale a tensor, also with
`per_channel`: hence `w8-symmetric-tensor` and `w8-linear-tensor` on mobconv's side. Both start from one float file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rival import Rival, Weights

from mobconv.schemes import Cell, Granularity, Mode

if TYPE_CHECKING:
    from mobconv.model.program import Program

TOOL = "onnxruntime"
NOTE = "activations in 8 bits too"


def compress(plain: Any, weight_type: str, path: Path) -> None:
    """Write a file with 8-bit weights. plain: a float file, or a model in memory; weight_type: QInt8 is symmetric,
    QUInt8 has a zero point."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(plain, path, weight_type=QuantType[weight_type])


def decode(path: Path, program: Program) -> Weights:
    """Weights of a file, scale * (code - zero point), in PyTorch's layout. The tool turns a Gemm into a MatMul with a
    transposed weight. Raises ValueError for a weight of another shape than the network's."""
    import onnx
    from onnx import numpy_helper

    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    weights: Weights = {}
    for name, site in program.sites.items():
        if name in constants:  # not quantized
            values = constants[name].astype(np.float32)
        else:
            codes, zero = (constants[f"{name}_{part}"].astype(np.float32) for part in ("quantized", "zero_point"))
            values = (codes - zero) * constants[f"{name}_scale"].astype(np.float32)
        weights[name] = np.ascontiguousarray(values if values.shape == site.shape else values.T)
        if weights[name].shape != site.shape:
            raise ValueError(f"{path}: {name} has the shape {values.shape}, not {site.shape}")
    return weights


def rivals(program: Program, cells: list[Cell], plain: Path) -> list[Rival]:
    """onnxruntime's ways to the cells that it can make."""
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
