"""ai-edge-quantizer, weight only (`add_weight_only_config`: explicit dequantize, float compute), per channel.

The network is the one that mobconv converts, batch norm folded. The tool's recipes weight_only_wi8_afp32 and
weight_only_wi4_afp32 use `min_max_uniform_quantize`; OCTAV is its algorithm for less error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rival import Rival, Weights

from mobconv.schemes import Cell, Mode

if TYPE_CHECKING:
    from mobconv.model.program import Program

TOOL = "ai-edge-quantizer"
BITS = (8, 4)
ALGORITHMS = ("MIN_MAX_UNIFORM_QUANT", "OCTAV")


def float_model(program: Program, path: Path) -> None:
    """Convert the network to a float file, as litert-torch documents it."""
    import litert_torch
    import torch

    example = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in program.example.values())
    litert_torch.convert(program.module.eval(), example).export(str(path))


def compress(plain: Path, bits: int, algorithm: str, path: Path) -> None:
    """Write the quantized file of a float file."""
    from ai_edge_quantizer import quantizer, recipe

    tool = quantizer.Quantizer(str(plain))
    tool.add_weight_only_config(
        regex=".*",
        operation_name=recipe.TFLOperationName.ALL_SUPPORTED,
        num_bits=bits,
        algorithm_key=recipe.AlgorithmName[algorithm],
    )
    path.unlink(missing_ok=True)  # export_model refuses to replace a file
    tool.quantize().export_model(str(path))


def decode(path: Path, program: Program) -> Weights:
    """Weights of a vendor's file by mobconv's names, in PyTorch's layout.

    The layers must be in the program's order. Raises ValueError where they are not.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    graph = model.subgraphs[0]
    kinds = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    operators = schema.BuiltinOperator
    source = {op.outputs[0]: op.inputs[0] for op in graph.operators if kinds[op.opcodeIndex] == operators.DEQUANTIZE}
    weights = []
    for op in graph.operators:
        kind = kinds[op.opcodeIndex]
        if kind not in (operators.CONV_2D, operators.DEPTHWISE_CONV_2D, operators.FULLY_CONNECTED):
            continue
        index = op.inputs[1]
        values = stored(model, graph.tensors[source.get(index, index)])
        if kind == operators.CONV_2D:
            values = values.transpose(0, 3, 1, 2)  # OHWI
        elif kind == operators.DEPTHWISE_CONV_2D:
            values = values.transpose(3, 0, 1, 2)  # 1HWO
        weights.append(np.ascontiguousarray(values))
    sites = list(program.sites.values())
    if [value.shape for value in weights] != [site.shape for site in sites]:
        raise ValueError(f"{path}: its layers are not those of the network, in order")
    return {site.name: value for site, value in zip(sites, weights, strict=True)}


def stored(model: Any, tensor: Any) -> NDArray[np.float32]:
    """Dequantize a constant: scale * (code - zero point). Of two 4-bit codes in a byte the first is the lower half."""
    from ai_edge_litert import schema_py_generated as schema

    raw = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    shape = tuple(tensor.shape)
    kinds = schema.TensorType
    if tensor.type == kinds.FLOAT32:
        return raw.view(np.float32).reshape(shape)
    if tensor.type == kinds.INT8:
        codes = raw.view(np.int8).astype(np.float32)
    elif tensor.type == kinds.INT4:
        fields = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1)[: int(np.prod(shape))].astype(np.int16)
        codes = ((fields ^ 8) - 8).astype(np.float32)
    else:
        raise ValueError(f"a weight of tensor type {tensor.type}")
    quantization = tensor.quantization
    scale, zero = np.asarray(quantization.scale, np.float32), np.asarray(quantization.zeroPoint, np.float32)
    view = [-1 if axis == quantization.quantizedDimension else 1 for axis in range(len(shape))]
    if scale.size == 1:
        view = [1] * len(shape)
    return np.asarray((codes.reshape(shape) - zero.reshape(view)) * scale.reshape(view), np.float32)


def rivals(program: Program, cells: list[Cell], folder: Path) -> list[Rival]:
    """ai-edge-quantizer's ways to the cells that it can make; the float file is converted once."""
    wanted = [cell for cell in cells if cell.scheme.mode is Mode.SYMMETRIC and cell.scheme.bits in BITS]
    plain = folder / "float.tflite"
    if wanted and not plain.exists():
        float_model(program, plain)
    return [
        Rival(
            TOOL,
            "weight only, min/max" if algorithm == ALGORITHMS[0] else f"weight only, {algorithm}",
            cell,
            "tflite",
            lambda path, bits=cell.scheme.bits, algorithm=algorithm: compress(plain, bits, algorithm, path),  # type: ignore[misc]
            lambda path: decode(path, program),
            may_skip=True,
        )
        for cell in wanted
        for algorithm in ALGORITHMS
    ]
