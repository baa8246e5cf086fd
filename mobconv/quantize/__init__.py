"""The quantizer: decides codes and parameters once, in numpy, for every backend alike."""

from __future__ import annotations

import numpy as np

from mobconv.errors import CellError
from mobconv.quantize import kmeans, linear, symmetric
from mobconv.quantize.scales import fits_fp16, to_fp16
from mobconv.quantize.weights import Floats, FloatWeight, QuantizedWeight, Weight
from mobconv.schemes import Granularity, Mode, Scheme

_LARGEST = float(np.finfo(np.float32).max) / 8


def quantize(name: str, values: Floats, axis: int, scheme: Scheme) -> Weight:
    """Quantize one parameter.

    values: float32, any shape; axis: its output-channel axis. Under fp32 and fp16 the result is a
    FloatWeight (fp16: rounded to it; CellError where it overflows). Scales and tables are rounded to fp16
    before codes are chosen; where one would be subnormal or overflow in fp16, all of the tensor's stay
    fp32, and `fp16` says so. Raises CellError for values so large that their differences overflow.
    """
    values = np.ascontiguousarray(values, np.float32)
    if scheme.mode is None:
        if scheme.bits == 16:
            return FloatWeight(name, to_fp16(name, values), 16)
        return FloatWeight(name, values, 32)
    largest = float(np.abs(values).max(initial=0))
    if largest > _LARGEST:
        raise CellError(f"{name}: values up to {largest:g} are too large to quantize; keep the layer float by a rule")
    with np.errstate(over="ignore"):  # what fp16 cannot hold is found out below
        found = _fit(name, values, axis, scheme, fp16=True)
    if not found.fp16:
        found = _fit(name, values, axis, scheme, fp16=False)
    return found


def _fit(name: str, values: Floats, axis: int, scheme: Scheme, fp16: bool) -> QuantizedWeight:
    channels = values.shape[axis]
    together = {Granularity.TENSOR: channels, Granularity.CHANNEL: 1, Granularity.OC16: 16}[scheme.granularity]
    if scheme.granularity is not Granularity.CHANNEL and together >= channels:
        return _one_size(name, values, None, scheme, fp16)
    moved = np.moveaxis(values, axis, 0)
    if together == 1:
        return _one_size(name, moved, 0, scheme, fp16).moved(axis)
    # the full groups, each as one long channel, and what is left over
    full = channels // together
    parts = [moved[: full * together].reshape(full, -1)]
    if channels % together:
        parts.append(moved[full * together :].reshape(1, -1))
    fitted = [_one_size(name, part, 0, scheme, fp16) for part in parts]
    codes = np.concatenate([part.codes.reshape(-1) for part in fitted]).reshape(moved.shape)
    scale, zero_point, table = (
        np.concatenate(held) if (held := [h for part in fitted if (h := getattr(part, what)) is not None]) else None
        for what in ("scale", "zero_point", "table")
    )
    whole = all(part.fp16 for part in fitted)
    assert scheme.mode is not None
    return QuantizedWeight(name, scheme.bits, scheme.mode, 0, codes, scale, zero_point, table, whole, together).moved(
        axis
    )


def _one_size(name: str, values: Floats, axis: int | None, scheme: Scheme, fp16: bool) -> QuantizedWeight:
    """Groups of one size: the rows of axis 0, or all in one."""
    assert scheme.mode is not None
    grouped = np.ascontiguousarray(values.reshape(1 if axis is None else len(values), -1))
    scale = zero_point = table = None
    if scheme.mode is Mode.KMEANS:
        codes, table = kmeans.fit(grouped, scheme.bits, fp16)
    elif scheme.mode is Mode.SYMMETRIC:
        codes, scale = symmetric.fit(grouped, scheme.bits, scheme.algorithm, fp16)
    elif scheme.bits == 1:
        codes, table = linear.fit_one_bit(grouped, scheme.algorithm, fp16)
    else:
        codes, scale, zero_point = linear.fit(grouped, scheme.bits, scheme.algorithm, fp16)
    parameters = table if table is not None else scale
    assert parameters is not None
    return QuantizedWeight(
        name,
        scheme.bits,
        scheme.mode,
        axis,
        codes.reshape(values.shape),
        scale,
        zero_point,
        table,
        fp16 and fits_fp16(parameters),
    )


__all__ = ["FloatWeight", "QuantizedWeight", "Weight", "quantize"]
