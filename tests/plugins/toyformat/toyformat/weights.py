"""Weights as named tensors: floats as they are, codes packed with the parameters that their form has.

| form   | tensors beside `<name>.codes`      | value of code k in group g                           |
|--------|------------------------------------|------------------------------------------------------|
| affine | `<name>.scale`, `<name>.zero`      | scale[g] * (k - zero[g])                             |
| scale  | `<name>.scale`                     | scale[g] * (k - 2^(n-1)); at 1 bit scale[g] * (2k-1) |
| table  | `<name>.table`                     | table[g, k]                                          |
"""

import numpy as np

from mobconv.quantize import packing
from mobconv.quantize.weights import FloatWeight, Form


def tensors_of(weight):
    """Named tensors of a weight, and what decoding them needs."""
    if isinstance(weight, FloatWeight):
        return {weight.name: weight.values.astype(np.float16 if weight.bits == 16 else np.float32)}, None
    kind = np.float16 if weight.fp16 else np.float32
    tensors = {f"{weight.name}.codes": packing.pack(weight.codes, weight.bits)}
    if weight.form is Form.TABLE:
        tensors[f"{weight.name}.table"] = weight.table.astype(kind)
    else:
        tensors[f"{weight.name}.scale"] = weight.scale.astype(kind)
    if weight.form is Form.AFFINE:
        tensors[f"{weight.name}.zero"] = weight.zero_point
    axis, together = weight.axis, weight.together
    return tensors, {"bits": weight.bits, "shape": list(weight.shape), "axis": axis, "together": together}


def decoded(name, layout, tensors):
    """The float32 values of a weight from its tensors."""
    if layout is None:
        return tensors[name].astype(np.float32)
    bits, shape, axis = layout["bits"], layout["shape"], layout["axis"]
    codes = packing.unpack(tensors[f"{name}.codes"], bits, int(np.prod(shape))).reshape(shape)
    if f"{name}.table" in tensors:
        levels = tensors[f"{name}.table"].astype(np.float32)
    else:
        k = np.arange(2**bits, dtype=np.float32)
        if f"{name}.zero" in tensors:
            factors = k - tensors[f"{name}.zero"].astype(np.float32)[:, None]
        else:
            factors = 2 * k - 1 if bits == 1 else k - 2 ** (bits - 1)
        levels = tensors[f"{name}.scale"].astype(np.float32)[:, None] * factors
    group = np.zeros([1] * len(shape), int)
    if axis is not None:
        group = (np.arange(shape[axis]) // layout["together"]).reshape(
            [-1 if i == axis else 1 for i in range(codes.ndim)]
        )
    return np.ascontiguousarray(levels[group, codes])
