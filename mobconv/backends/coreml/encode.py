"""Template and weights -> .mlpackage, and what the weights take in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mobconv.backends import weight_map
from mobconv.backends.base import Encoded
from mobconv.backends.coreml import package, support
from mobconv.backends.coreml.convert import TARGETS
from mobconv.backends.coreml.forms import native_ios16
from mobconv.backends.coreml.rewrite import build, held_count
from mobconv.errors import BackendError, CellError
from mobconv.quantize.weights import FloatWeight, QuantizedWeight, Weight
from mobconv.schemes import Cell, Scheme, Storage


def encode(template: Path, weights: Mapping[str, Weight], cell: Cell, path: Path, record: str = "") -> Encoded:
    """Write the artifact of a cell. weight_bytes is the package less what it would be without the
    quantized weights (for the float schemes: without all quantizable weights), the record left out.

    Raises BackendError for a weight that cannot be placed or held, OutputError when nothing can be written.
    """
    declared = support.support(cell)
    if declared.stored_bits is None:
        raise BackendError(f"{cell}: {declared.reason}")
    if cell.storage is Storage.NATIVE:
        weights = {
            n: w.widened(support.native_bits(Scheme(w.bits, w.mode))) if isinstance(w, QuantizedWeight) else w
            for n, w in weights.items()
        }
    places, extra = weight_map.load(template / "map.json")
    if extra["compute"] != cell.compute.value:
        raise CellError(f"{cell}: the template in {template} computes in {extra['compute']}")
    missing = sorted(set(places) ^ set(weights))
    if missing:
        raise BackendError(f"{cell}: the template and the weights do not agree on {', '.join(missing)}")
    targets = extra["targets"]
    target = targets[0] if all(native_ios16(weight) for weight in weights.values()) else "iOS18"
    source = package.read(template / f"{target}.mlpackage")
    half = cell.scheme.mode is None and cell.scheme.bits == 16
    floats = extra["floats"] if half else ()
    chains = cell.storage is Storage.PACKED
    files = build(source, places, weights, floats, chains=chains)
    package.write(path, build(source, places, weights, floats, record, chains) if record else files)

    size = sum(map(len, files.values()))
    base = extra["base"][target]
    if half:
        # what the other parameters save is not the weights' doing: the base again, with those in fp16
        whole: dict[str, Weight] = {n: FloatWeight(n, w.dequantize()) for n, w in weights.items()}
        width = 2 if cell.compute.value == "fp16" else 4
        base = sum(map(len, build(source, places, whole, floats).values())) - width * held_count(places)
    if cell.scheme.mode is not None:
        size -= _float_bytes(weights, places, cell)
    oldest = max(targets[0], target, declared.requires if _any_quantized(weights) else "", key=_version)
    note = "; ".join(filter(None, [declared.note, _rounded(weights, cell)]))
    return Encoded(size - base, replace(declared, requires=oldest, note=note))


def _rounded(weights: Mapping[str, Weight], cell: Cell) -> str:
    """Says which tensors' fp32 parameters an fp16 program holds rounded, as it does all weights."""
    names = [n for n, weight in weights.items() if isinstance(weight, QuantizedWeight) and not weight.fp16]
    if cell.compute.value != "fp16" or not names:
        return ""
    return (
        f"parameters that are subnormal in fp16 are rounded to it, as this program computes in fp16: {', '.join(names)}"
    )


def _float_bytes(weights: Mapping[str, Weight], places: weight_map.Places, cell: Cell) -> int:
    """Bytes of the weights that rules keep float."""
    total = 0
    for name, weight in weights.items():
        if isinstance(weight, FloatWeight):
            width = 2 if cell.compute.value == "fp16" else weight.bits // 8
            total += width * held_count(places, [name])
    return total


def _any_quantized(weights: Mapping[str, Weight]) -> bool:
    return any(isinstance(weight, QuantizedWeight) for weight in weights.values())


def _version(target: str) -> int:
    return TARGETS.get(target, 0)
