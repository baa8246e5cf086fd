"""Template + weights and biases -> .mlpackage, and the bytes of the weights in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import bias_map, weight_map
from mobconv.backends.base import Encoded
from mobconv.backends.coreml import forms, package, support
from mobconv.backends.coreml.convert import TARGETS
from mobconv.backends.coreml.forms import native_ios16
from mobconv.backends.coreml.rewrite import build, stored_count
from mobconv.errors import BackendError, CellError
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.weights import FloatWeight, Form, QuantizedWeight, Weight
from mobconv.schemes import Cell, Storage


def encode(template: Path, model: QuantizedModel, cell: Cell, path: Path, record: str = "") -> Encoded:
    """Write the artifact of a cell.

    weight_bytes are those of the package without record, less those of a package whose quantized weights (under the
    float schemes: all quantizable weights) take no byte. Raises BackendError for what cannot be placed or encoded,
    OutputError when the package cannot be written.
    """
    declared = support.support(cell)
    if declared.stored_bits is None:
        raise BackendError(f"{cell}: {declared.reason}")
    dead, weights = [], model.weights
    if cell.compute.value == "fp16":
        given, weights = weights, {name: forms.without_dead_groups(weight) for name, weight in weights.items()}
        dead = [name for name in weights if weights[name] is not given[name]]
    if cell.storage is Storage.NATIVE:
        weights = {
            n: w.widened(support.native_bits(w.bits, w.form is Form.TABLE)) if isinstance(w, QuantizedWeight) else w
            for n, w in weights.items()
        }
    places, extra = weight_map.load(template / "map.json")
    if extra["compute"] != cell.compute.value:
        raise CellError(f"{cell}: the template in {template} computes in {extra['compute']}")
    weight_map.check_agreement(places, weights, cell)
    targets = extra["targets"]
    target = targets[0] if all(native_ios16(weight) for weight in weights.values()) else "iOS18"
    source = package.read(template / f"{target}.mlpackage")
    biases = bias_map.placed(weight_map.biases(extra), model.biases, cell, half=cell.compute.value == "fp16")
    half = cell.scheme.mode is None and cell.scheme.bits == 16
    floats = [key for key in extra["floats"] if half and _fits_half(biases.get(key))]
    chains = cell.storage is Storage.PACKED
    files = build(source, places, weights, floats, biases=biases, chains=chains)
    package.write(path, build(source, places, weights, floats, record, biases, chains) if record else files)

    size = _bytes(files)
    base = extra["base"][target]
    if half:
        # fp16 makes the other parameters smaller too, which is not a saving of weights: the base with those in fp16
        whole: dict[str, Weight] = {n: FloatWeight(n, w.dequantize()) for n, w in weights.items()}
        width = 2 if cell.compute.value == "fp16" else 4
        base = _bytes(build(source, places, whole, floats, biases=biases)) - width * stored_count(places)
    elif biases:  # equal ones are stored once
        base += _bytes(build(source, {}, {}, (), biases=biases)) - _bytes(build(source, {}, {}, ()))
    if cell.scheme.mode is not None:
        size -= _float_bytes(weights, places, cell)
    oldest = max(targets[0], target, declared.requires if _any_quantized(weights) else "", key=_version)
    zeros = f"channels below the smallest fp16 number are stored as zero: {', '.join(dead)}" if dead else ""
    note = "; ".join(filter(None, [declared.note, _rounded(weights, cell), zeros]))
    return Encoded(size - base, replace(declared, requires=oldest, note=note))


def _fits_half(values: NDArray[np.float32] | None) -> bool:
    """Whether fp16 holds a bias; None for one that the template has, which was checked."""
    return values is None or bool(np.abs(values).max(initial=0.0) <= np.finfo(np.float16).max)


def _bytes(files: Mapping[str, bytes]) -> int:
    return sum(map(len, files.values()))


def _rounded(weights: Mapping[str, Weight], cell: Cell) -> str:
    """A note that names tensors whose fp32 parameters an fp16 program rounds; '' for none."""
    names = [n for n, weight in weights.items() if isinstance(weight, QuantizedWeight) and not weight.fp16]
    if cell.compute.value != "fp16" or not names:
        return ""
    return (
        f"parameters that are subnormal in fp16 are rounded to it, as this program computes in fp16: {', '.join(names)}"
    )


def _float_bytes(weights: Mapping[str, Weight], places: weight_map.Places, cell: Cell) -> int:
    """Bytes of the weights that layer rules keep float."""
    total = 0
    for name, weight in weights.items():
        if isinstance(weight, FloatWeight):
            width = 2 if cell.compute.value == "fp16" else weight.bits // 8
            total += width * stored_count(places, [name])
    return total


def _any_quantized(weights: Mapping[str, Weight]) -> bool:
    return any(isinstance(weight, QuantizedWeight) for weight in weights.values())


def _version(target: str) -> int:
    return TARGETS.get(target, 0)
