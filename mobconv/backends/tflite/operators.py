"""Ops and tensors of TFLite as operations of a graph view; constants and codes as floats."""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import COPY, MOVE, PAD, RESHAPE, SCALE, SHIFT, Op
from mobconv.errors import BackendError
from mobconv.quantize import packing

_ROLES = {
    **dict.fromkeys(("QUANTIZE", "DEQUANTIZE", "CAST"), COPY),
    "TRANSPOSE": MOVE,
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), RESHAPE),
    **dict.fromkeys(("PAD", "PADV2"), PAD),
}
# op -> family, positions of the activation and of the weight among its inputs
_WEIGHTED = {
    "CONV_2D": ("conv", 0, 1),
    "CONV_3D": ("conv", 0, 1),
    "DEPTHWISE_CONV_2D": ("conv", 0, 1),
    "TRANSPOSE_CONV": ("conv", 2, 1),
    "FULLY_CONNECTED": ("linear", 0, 1),
    "EMBEDDING_LOOKUP": ("embedding", 0, 1),
    "GATHER": ("embedding", 1, 0),
}
# op -> position of its bias
_BIASES = {"CONV_2D": 2, "CONV_3D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
_NUMPY = {"FLOAT32": "float32", "FLOAT16": "float16", "FLOAT64": "float64", "BOOL": "bool"}
_NARROW = {"INT4": 4, "INT2": 2}


@cache
def _names(enum: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(getattr(schema, enum)).items() if isinstance(value, int)}


def code(model: Any, operator: Any) -> str:
    """The name of an op's kind, for a custom op its own."""
    entry = model.operatorCodes[operator.opcodeIndex]
    name = _names("BuiltinOperator").get(max(entry.builtinCode, entry.deprecatedBuiltinCode), "?")
    return (entry.customCode or b"").decode(errors="replace") if name == "CUSTOM" else name


def type_name(tensor: Any) -> str:
    """The name of a tensor's TensorType."""
    return _names("TensorType").get(tensor.type, "?")


def numpy_type(tensor: Any) -> str:
    """The numpy type of a tensor's values in the interpreter."""
    name = type_name(tensor)
    return _NUMPY.get(name, "int8" if name in _NARROW else name.lower())


def op(tensors: Sequence[Any], operator: Any, kind: str, fixed: Set[str]) -> Op:
    """One operation. kind: of its op; fixed: tensors that depend on no input."""
    inputs = tuple(str(i) for i in operator.inputs if i >= 0)
    outputs = tuple(str(i) for i in operator.outputs if i >= 0)
    family, source, weight = "", next((i for i in inputs if i not in fixed), ""), None
    if kind in _WEIGHTED:
        its_family, data, which = _WEIGHTED[kind]
        constant_input, activation = str(operator.inputs[which]), str(operator.inputs[data])
        if constant_input in fixed and activation not in fixed:
            family, source, weight = its_family, activation, constant_input
    elif kind == "BATCH_MATMUL" and len([i for i in inputs if i in fixed]) == 1:
        family, weight = "linear", next(i for i in inputs if i in fixed)
    number = getattr(operator.builtinOptions, "fusedActivationFunction", 0) or 0
    fused = {"NONE": "", "RELU": "relu", "RELU6": "relu6", "RELU_N1_TO_1": "relu1"}
    name = _names("ActivationFunctionType").get(number, "?")
    shown = (tensors[int(outputs[0])].name or b"").decode(errors="replace") if outputs else ""
    role = "" if family else _role(kind, inputs, fixed)
    bias = None
    if family and len(operator.inputs) > _BIASES.get(kind, len(operator.inputs)):
        bias = str(operator.inputs[_BIASES[kind]])
    elif kind == "ADD":
        bias = next((name for name in inputs if name in fixed), None)
    bias = bias if bias in fixed else None
    return Op(shown, kind, inputs, outputs, source, weight, family, role, fused.get(name, name.lower()), bias)


def _role(kind: str, inputs: Sequence[str], fixed: Set[str]) -> str:
    if kind in ("ADD", "SUB", "MUL", "DIV"):
        if not any(name in fixed for name in inputs) or (kind == "DIV" and inputs[0] in fixed):
            return ""
        return SHIFT if kind in ("ADD", "SUB") else SCALE
    return _ROLES.get(kind, "")


def is_coded(tensor: Any) -> bool:
    """Whether a tensor's values are codes with a scale."""
    parameters = tensor.quantization
    has_scale = parameters is not None and parameters.scale is not None and len(parameters.scale) > 0
    return has_scale and numpy_type(tensor)[0] in "iu"


def constant(tensor: Any, data: Any, path: Path) -> NDArray[np.float32]:
    """A constant as float32, dequantized. Raises BackendError for a type that mobconv does not read."""
    name, shape = type_name(tensor), tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ()))
    raw = np.frombuffer(bytes(data), np.uint8)
    if name in _NARROW:
        bits = _NARROW[name]
        fields = packing.unpack(raw, bits, math.prod(shape)).astype(np.int16)
        half = 1 << (bits - 1)
        values: NDArray[Any] = ((fields ^ half) - half).reshape(shape)
    elif name in _NUMPY or name.startswith(("INT", "UINT")):
        values = raw.view(np.dtype(numpy_type(tensor)).newbyteorder("<"))[: math.prod(shape)].reshape(shape)
    else:
        raise BackendError(f"{path}: a weight of type {name}, which mobconv does not decode")
    return dequantized(tensor, values) if is_coded(tensor) else np.asarray(values, np.float32)


def dequantized(tensor: Any, codes: NDArray[Any]) -> NDArray[np.float32]:
    """Codes of a tensor -> floats, scale * (code - zero point)."""
    scale, zero = _parameters(tensor, codes.ndim)
    return np.asarray((codes.astype(np.float32) - zero) * scale, np.float32)


def quantized(tensor: Any, values: NDArray[Any]) -> NDArray[Any]:
    """Floats -> nearest codes of a tensor, saturated; without a scale, floats -> integers."""
    limits = np.iinfo(numpy_type(tensor))
    if is_coded(tensor):
        scale, zero = _parameters(tensor, values.ndim)
        values = np.rint(values / scale) + zero
    return np.ascontiguousarray(np.clip(values, limits.min, limits.max), limits.dtype)


def _parameters(tensor: Any, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and zero point of a tensor, in a shape that broadcasts against `rank` axes."""
    parameters = tensor.quantization
    scale = np.asarray(parameters.scale, np.float32)
    zero = np.zeros(1, np.float32) if parameters.zeroPoint is None else np.asarray(parameters.zeroPoint, np.float32)
    axis = int(parameters.quantizedDimension or 0)
    view = [-1 if position == axis else 1 for position in range(rank)] if scale.size > 1 else [1] * rank
    return scale.reshape(view), np.broadcast_to(zero, scale.size).reshape(view)
