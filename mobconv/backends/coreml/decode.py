"""constexpr operations -> numpy arrays: the forms of iOS16 (attributes) and iOS18 (inputs) alike.

The formulas are those of coremltools (mil/ops/defs/iOS16/constexpr_ops.py, iOS18/compression.py), computed in float32
and rounded once to the declared type, as an exact runtime would do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import BackendError, InputError
from mobconv.quantize import packing

Values = Mapping[str, Any]
Array = NDArray[Any]


def decode(kind: str, values: Values) -> Array:
    """The constant that a constexpr operation stands for. values: its parameters, decoded.

    Raises BackendError for an unknown operation, InputError where its parameters do not fit.
    """
    if kind not in _DECODERS:
        raise BackendError(f"{kind} is a compressed form that mobconv does not decode")
    try:
        return _DECODERS[kind](values)
    except KeyError as error:
        raise InputError(f"{kind} lacks its parameter {error}") from error
    except (ValueError, IndexError, TypeError) as error:
        raise InputError(f"the parameters of {kind} do not fit each other: {error}") from error


def spread(values: Array, shape: tuple[int, ...]) -> Array:
    """Repeat values along each axis to a shape. Raises ValueError where the groups do not divide it."""
    if values.ndim != len(shape):
        raise ValueError(f"rank {values.ndim} against {len(shape)}")
    for axis, (have, want) in enumerate(zip(values.shape, shape, strict=True)):
        if have == 0 or want % have:
            raise ValueError(f"{have} groups along an axis of {want}")
        if have not in (1, want):
            values = np.repeat(values, want // have, axis)
    return np.broadcast_to(values, shape)


def _affine(values: Values) -> Array:
    data, scale, zero = values["quantized_data"], values["scale"], values["zero_point"]
    view = [1] * data.ndim
    view[int(values["axis"])] = -1
    scale, zero = (values.reshape(view) if values.ndim else values for values in (scale, zero))
    centred = data.astype(np.float32) - zero.astype(np.float32)
    return _scaled(centred, scale)


def _scaled(values: Array, scale: Array, shape: tuple[int, ...] | None = None) -> Array:
    """values * scale, rounded once to the scale's type. shape: of the result, if the scale has groups."""
    dtype = scale.dtype
    if shape is not None:
        scale = spread(scale, shape)
    product = np.multiply(values, scale, dtype=np.float32)
    return np.asarray(product, dtype)


def _shift_scale(values: Values) -> Array:
    data, scale = values["data"], values["scale"]
    result = data.astype(np.float32)
    if "offset" in values:
        result = result - spread(values["offset"].astype(np.float32), data.shape)
    return _scaled(result, scale, data.shape)


def _lut(values: Values) -> Array:
    table = values["lut"]
    if "shape" in values:  # iOS16: a bit stream, and the shape as a parameter
        shape = tuple(int(size) for size in values["shape"])
        stream = packing.unpack(values["indices"], int(math.log2(table.size)), math.prod(shape))
        return np.asarray(table[stream].reshape(shape))
    codes = values["indices"]
    if table.ndim != codes.ndim + 2:
        raise ValueError(f"a table of rank {table.ndim} for indices of rank {codes.ndim}")
    groups, entries, vector = table.shape[:-2], table.shape[-2], table.shape[-1]
    group = spread(np.arange(math.prod(groups)).reshape(groups), codes.shape)
    looked_up = table.reshape(-1, entries, vector)[group, codes]
    if vector == 1:
        return np.asarray(looked_up[..., 0])
    axis = int(values["vector_axis"]) % codes.ndim
    shape = tuple(size * vector if i == axis else size for i, size in enumerate(codes.shape))
    return np.asarray(np.moveaxis(looked_up, -1, axis + 1).reshape(shape))


def _sparse(values: Values) -> Array:
    mask = values["mask"]
    if "shape" in values:
        shape = tuple(int(size) for size in values["shape"])
        mask = packing.unpack(mask, 1, math.prod(shape)).reshape(shape)
    data = values["nonzero_data"]
    result = np.zeros(mask.shape, data.dtype)
    result[mask != 0] = data
    return result


def _cast(values: Values) -> Array:
    if values["output_dtype"] != "fp32":
        raise ValueError(f"cast to {values['output_dtype']}")
    return np.asarray(values["source_val"].astype(np.float32))


_DECODERS: dict[str, Callable[[Values], Array]] = {
    "constexpr_affine_dequantize": _affine,
    "constexpr_blockwise_shift_scale": _shift_scale,
    "constexpr_lut_to_dense": _lut,
    "constexpr_sparse_to_dense": _sparse,
    "constexpr_cast": _cast,
}
