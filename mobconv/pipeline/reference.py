"""The reference: the traced program with the dequantized weights in place, computed in fp32.

The difference between it and the float baseline is the loss of quantization; that between a file and it is the loss of
conversion.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.model.program import Program
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.scales import to_fp16
from mobconv.schemes import Scheme


def reference(program: Program, model: QuantizedModel, scheme: Scheme) -> Program:
    """The program that a cell's file should equal. Under fp16 biases and the rest are rounded too."""
    values: dict[str, NDArray[np.float32]] = dict(model.biases)
    if scheme.mode is None and scheme.bits == 16:
        values = {name: to_fp16(name, value) for name, value in {**program.floats(), **model.biases}.items()}
    values.update({name: weight.dequantize() for name, weight in model.weights.items()})
    return faster(program.with_values(values))


def faster(program: Program) -> Program:
    """The same program with weights in channels-last layout, which is twice as fast in eager mode on CPUs."""
    import torch

    for parameter in program.module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return program
