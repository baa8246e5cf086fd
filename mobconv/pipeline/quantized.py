"""A scheme applied to a whole network: its quantized model, and counts of what was quantized."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from mobconv.model.program import Program
from mobconv.quantize import QuantizedWeight, Weight, quantize
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Scheme

SchemeFor = Callable[[str, Scheme], Scheme]
"""Name of a weight, scheme of the cell -> scheme of that weight: the layer rules of a recipe."""


def same_scheme(name: str, scheme: Scheme) -> Scheme:
    """No layer rules: every weight has the cell's scheme."""
    return scheme


def calibrates(names: Iterable[str], scheme: Scheme, scheme_for: SchemeFor = same_scheme) -> bool:
    """Whether a cell needs calibration data: for its scheme, or for that of one of its weights, of these names."""
    return scheme.calibrated or any(scheme_for(name, scheme).calibrated for name in names)


def quantize_model(
    program: Program, scheme: Scheme, scheme_for: SchemeFor = same_scheme, threads: int = 0
) -> QuantizedModel:
    """Quantize every weight of a program.

    threads: 0 for all cores; numpy and numba release the GIL. The weights are the same for any number.
    """
    values = program.floats()

    def one(name: str) -> Weight:
        return quantize(name, values[name], program.sites[name].axis, scheme_for(name, scheme))

    # the largest first, so that none is left for a single thread at the end
    order = sorted(program.sites, key=lambda name: -values[name].size)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        weights = dict(zip(order, pool.map(one, order), strict=True))
    return QuantizedModel({name: weights[name] for name in program.sites})


def counts(model: QuantizedModel, scheme: Scheme) -> dict[str, int]:
    """Number of quantized weights in a cell, and of tensors whose parameters fp16 cannot hold."""
    counted = [w for w in model.weights.values() if scheme.mode is None or isinstance(w, QuantizedWeight)]
    return {
        "parameters": sum(int(w.codes.size if isinstance(w, QuantizedWeight) else w.values.size) for w in counted),
        "fp32_tensors": sum(isinstance(w, QuantizedWeight) and not w.fp16 for w in counted),
    }
