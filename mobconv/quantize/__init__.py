"""The quantizer: decides codes and parameters once, in numpy, for every backend alike."""

from __future__ import annotations

import numpy as np

from mobconv.errors import CellError
from mobconv.quantize import algorithms
from mobconv.quantize.groups import Grouped, joined
from mobconv.quantize.scales import fits_fp16, to_fp16
from mobconv.quantize.weights import Floats, FloatWeight, QuantizedWeight, Weight
from mobconv.schemes import Granularity, Scheme

_LARGEST = float(np.finfo(np.float32).max) / 8


def quantize(name: str, values: Floats, axis: int, scheme: Scheme) -> Weight:
    """Quantize one parameter; under schemes fp32 and fp16, return a FloatWeight (fp16: values rounded to it).

    values: float32, any shape; axis: its output-channel axis. Scales and tables are rounded to fp16 before codes are
    chosen; where one would be subnormal or overflow in fp16, all scales or tables of the tensor are fp32 and the
    result's `fp16` is False.

    Raises CellError for values that overflow under scheme fp16, or are so large that their differences overflow fp32;
    UsageError for an algorithm that needs more than weights.
    """
    values = np.ascontiguousarray(values, np.float32)
    if scheme.mode is None:
        if scheme.bits == 16:
            return FloatWeight(name, to_fp16(name, values), 16)
        return FloatWeight(name, values, 32)
    largest = float(np.abs(values).max(initial=0))
    if largest > _LARGEST:
        raise CellError(f"{name}: values up to {largest:g} are too large to quantize; keep the layer float by a rule")
    with np.errstate(over="ignore"):  # `fp16` of the result says what fp16 cannot represent
        weight = _fit(name, values, axis, scheme, fp16=True)
    if not weight.fp16:
        weight = _fit(name, values, axis, scheme, fp16=False)
    return weight


def _fit(name: str, values: Floats, axis: int, scheme: Scheme, fp16: bool) -> QuantizedWeight:
    """The weight by the scheme's algorithm. fp16: scales and tables are rounded to fp16, else to fp32."""
    assert scheme.mode is not None
    channels = values.shape[axis]
    together = {Granularity.TENSOR: channels, Granularity.CHANNEL: 1, Granularity.OC16: 16}[scheme.granularity]
    one_group = scheme.granularity is not Granularity.CHANNEL and together >= channels
    rows = values if one_group else np.moveaxis(values, axis, 0)
    groups = [rows.reshape(1, -1)] if one_group else _groups(rows, together)
    algorithm = algorithms.load(scheme.algorithm)
    fitted = joined([algorithm.fit(part, scheme.mode, scheme.bits, fp16) for part in groups])
    weight = QuantizedWeight(
        name,
        scheme.bits,
        scheme.mode,
        None if one_group else 0,
        fitted.codes.reshape(rows.shape),
        fitted.scale,
        fitted.zero_point,
        fitted.table,
        fp16 and fits_fp16(fitted.parameters),
        1 if one_group else together,
    )
    return weight if one_group else weight.moved(axis)


def _groups(rows: Floats, together: int) -> list[Grouped]:
    """Rows (channels, ..) as groups of `together` channels: the full ones, and the last one where it has fewer."""
    full = len(rows) // together
    parts = [rows[: full * together].reshape(full, -1)]
    if len(rows) % together:
        parts.append(rows[full * together :].reshape(1, -1))
    return [np.ascontiguousarray(part) for part in parts]


__all__ = ["FloatWeight", "QuantizedWeight", "Weight", "quantize"]
