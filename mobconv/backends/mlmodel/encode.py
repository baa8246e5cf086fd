"""Template and weights -> .mlmodel, and what the weights take in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Encoded
from mobconv.backends.mlmodel import model, params, support
from mobconv.backends.mlmodel.convert import load
from mobconv.backends.weight_map import Placement, Places
from mobconv.common.files import write_whole
from mobconv.errors import BackendError
from mobconv.quantize.weights import FloatWeight, QuantizedWeight, Weight
from mobconv.schemes import Cell


def encode(template: Path, weights: Mapping[str, Weight], cell: Cell, path: Path, record: str = "") -> Encoded:
    """Write the artifact of a cell. weight_bytes is the file less what it would be if its quantized weights (for
    the float schemes: all quantizable weights) took no byte, the record left out.

    Raises BackendError for a weight that cannot be placed or held, OutputError when nothing can be written.
    """
    declared = support.support(cell)
    if declared.stored_bits is None:
        raise BackendError(f"{cell}: {declared.reason}")
    held, places, extra = load(template)
    missing = sorted(set(places) ^ set(weights))
    if missing:
        raise BackendError(f"{cell}: the template and the weights do not agree on {', '.join(missing)}")
    rounded = extra["floats"] if cell.scheme.mode is None and cell.scheme.bits == 16 else ()
    spec = build(held, places, weights, rounded, extra["ranks"])
    size = len(model.serialize(spec))
    if record:
        spec.description.metadata.userDefined[model.RECORD_KEY] = record
    write_whole(path, model.serialize(spec))
    system = model.SYSTEMS[spec.specificationVersion]
    requires = system if spec.specificationVersion > 4 else declared.requires
    told = replace(declared, requires=requires, note="; ".join(filter(None, [declared.note, _rounding(weights)])))
    return Encoded(_weight_bytes(held, places, weights, extra["ranks"], size), told)


def _rounding(weights: Mapping[str, Weight]) -> str:
    """Says which tensors' values the format's fp32 sum of scale and bias cannot give to the last bit."""
    names = [n for n, weight in weights.items() if isinstance(weight, QuantizedWeight) and not params.is_exact(weight)]
    if not names:
        return ""
    return (
        "values may be off by 2^-21 of the tensor's largest where parameters are no fp16 numbers, as the format adds "
        f"an fp32 bias to scale * code: {', '.join(names)}"
    )


def _weight_bytes(template: Any, places: Places, weights: Mapping[str, Weight], ranks: Any, size: int) -> int:
    """What the weights take of a file of `size` bytes: all floats where none is quantized, else the quantized ones."""
    quantized = [name for name, weight in weights.items() if isinstance(weight, QuantizedWeight)]
    if not quantized:
        return sum(weight.bits // 8 * held_count(places, [name]) for name, weight in weights.items())
    plain = {name: FloatWeight(name, np.zeros(weights[name].dequantize().shape, np.float32)) for name in quantized}
    rest = len(model.serialize(build(template, places, {**weights, **plain}, (), ranks)))
    return size - (rest - 4 * held_count(places, quantized))


def held_count(places: Places, names: Collection[str]) -> int:
    """Weights as often as the file holds them: once in each layer that uses them, for layers share nothing."""
    return sum(math.prod(place.shape) for name in names for place in places[name])


def build(
    template: Any, places: Places, weights: Mapping[str, Weight], rounded: Collection[str], ranks: Mapping[str, int]
) -> Any:
    """The Model message with `weights` at their places.

    rounded  keys of other parameters that scheme fp16 rounds
    ranks    position of a layer -> number of axes of its output

    Raises BackendError for a weight that its layer cannot hold.
    """
    spec = model.copied(template)
    layers = model.network(spec).layers
    sites: dict[int, Weight] = {}
    for name, found in places.items():
        for place in found:
            at, _, field = place.key.partition(".")
            layer = layers[int(at)]
            sites[int(at)] = weights[name]
            try:
                _put(layer, field, weights[name], place)
            except BackendError as error:
                raise BackendError(f"layer {layer.name!r}: {error}") from error
    apart = []
    touched = {int(key.partition(".")[0]) for key in rounded}
    touched |= {position for position, weight in sites.items() if isinstance(weight, FloatWeight) and weight.bits == 16}
    for position in touched:
        if not _store_others(layers[position], position, sites.get(position), rounded):
            apart.append(position)
    for position in sorted(apart, reverse=True):  # from the end: each adds layers behind its own
        _set_bias_apart(layers, position, ranks[str(position)])
    return spec


def _put(layer: Any, field: str, weight: Weight, place: Placement) -> None:
    kind = layer.WhichOneof("layer")
    shape, axis = model.weight_layout(kind, getattr(layer, kind))
    if shape is None or "." in field:
        raise BackendError(f"{weight.name}: layers of type {kind} hold no quantized weights")
    values = weight.dequantize() if isinstance(weight, FloatWeight) else weight.codes
    if place.shape != shape or values.size != math.prod(shape):
        raise BackendError(f"{weight.name}: {list(values.shape)} does not fit the layer's {list(shape)}")
    target = getattr(getattr(layer, kind), field)
    placed: NDArray[Any] = place.place(values)
    if isinstance(weight, FloatWeight):
        (params.put_half if weight.bits == 16 else params.put_floats)(target, placed)
        return
    if weight.groups > 1 and (axis is None or place.axis != axis):
        raise BackendError(
            f"{weight.name}: a layer of type {kind} has no scale for each of the {weight.groups} channels; quantize it "
            "per tensor or with k-means, or keep it float by a rule in the recipe"
        )
    params.put_codes(target, weight, placed)


def _store_others(layer: Any, position: int, weight: Weight | None, rounded: Collection[str]) -> bool:
    """Store a layer's parameters other than its weight as scheme and weight want them.

    A layer's floats are of one width, all 32 or all 16 bits (NeuralNetworkLayerValidator.cpp of apple/coremltools):
    16 where that loses nothing. -> False where a 16-bit weight has a bias beside it that needs 32.
    """
    half = isinstance(weight, FloatWeight) and weight.bits == 16
    others = []
    for field in model.fields([layer]):
        key = f"{position}.{field.key.partition('.')[2]}"
        if field.params.floatValue and (weight is None or field.shape is None):
            values = np.array(field.params.floatValue, np.float32)
            others.append((field.params, _rounded(values) if key in rounded else values))
    narrow = weight is None or half or isinstance(weight, QuantizedWeight)
    if narrow and all(np.array_equal(values, _to_half(values)) for _, values in others):
        for target, values in others:
            params.put_half(target, values)
        return True
    for target, values in others:
        params.put_floats(target, values)
    return not half


def _to_half(values: NDArray[np.float32]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return values.astype(np.float16).astype(np.float32)


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values rounded to fp16, all of them or, where one overflows, none: as `quantize.scales.to_fp16`."""
    found = _to_half(values)
    return found if np.isfinite(found).all() else values


def _set_bias_apart(layers: Any, position: int, rank: int) -> None:
    """Add a 32-bit bias by layers of its own, a constant and a sum, behind the layer that it cannot be in."""
    layer = layers[position]
    held = getattr(layer, layer.WhichOneof("layer"))
    output, count = layer.output[0], len(held.bias.floatValue)
    after = [type(layer).FromString(other.SerializeToString(deterministic=True)) for other in layers[position + 1 :]]
    del layers[position + 1 :]
    constant = layers.add(name=f"{layer.name}/bias", output=[f"{output}/bias"])
    # channels are axis -3 of four axes, and the last of fewer
    constant.loadConstantND.shape.extend([count, 1, 1] if rank == 4 and not _last(layer) else [count])
    constant.loadConstantND.data.CopyFrom(held.bias)
    total = layers.add(name=f"{layer.name}/biased", input=[f"{output}/unbiased", f"{output}/bias"], output=[output])
    total.addBroadcastable.SetInParent()
    layers.extend(after)
    layer.output[:] = [f"{output}/unbiased"]
    held.hasBias = False
    held.ClearField("bias")


def _last(layer: Any) -> bool:
    """Whether a layer's output channels are its last axis at any rank."""
    return layer.WhichOneof("layer") in ("batchedMatmul", "embeddingND")
