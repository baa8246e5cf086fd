"""A quantized network as the backends receive it: all values that an encoder writes in place of a template's floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mobconv.quantize.weights import Floats, Weight


@dataclass(frozen=True)
class QuantizedModel:
    """Weights, biases and activations of one network under one scheme. A new part becomes a field, not a parameter.

    weights      an entry for every quantizable weight of the program, float or quantized, by the parameter's name
    biases       float32 values that replace those of the program, by the parameter's name; empty: as traced
    activations  ranges of activations by the tensor's name; empty: activations stay float
    """

    weights: Mapping[str, Weight]
    biases: Mapping[str, Floats] = field(default_factory=dict)
    activations: Mapping[str, Any] = field(default_factory=dict)
