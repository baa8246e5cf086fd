"""Template + weights and biases -> .mlmodel, and the bytes of the weights in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import bias_map, weight_map
from mobconv.backends.apple.description import RECORD_KEY
from mobconv.backends.base import Encoded
from mobconv.backends.mlmodel import model, params, support
from mobconv.backends.mlmodel.convert import load
from mobconv.backends.weight_map import Placement, Places
from mobconv.common.files import write_whole
from mobconv.errors import BackendError
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.weights import FloatWeight, QuantizedWeight, Weight
from mobconv.schemes import Cell


def encode(template: Path, quantized: QuantizedModel, cell: Cell, path: Path, record: str = "") -> Encoded:
    """Write the artifact of a cell.

    weight_bytes are those of the file without record, less those of a file whose quantized weights (under the float
    schemes: all quantizable weights) take no byte. Raises BackendError for what cannot be placed or encoded,
    OutputError when the file cannot be written.
    """
    declared = support.support(cell)
    if declared.stored_bits is None:
        raise BackendError(f"{cell}: {declared.reason}")
    weights = quantized.weights
    template_spec, places, extra = load(template)
    weight_map.check_agreement(places, weights, cell)
    template_spec = _with_biases(template_spec, bias_map.placed(weight_map.biases(extra), quantized.biases, cell))
    rounded = extra["floats"] if cell.scheme.mode is None and cell.scheme.bits == 16 else ()
    spec = build(template_spec, places, weights, rounded, extra["ranks"])
    size = len(model.serialize(spec))
    if record:
        spec.description.metadata.userDefined[RECORD_KEY] = record
    write_whole(path, model.serialize(spec))
    system = model.SYSTEMS[spec.specificationVersion]
    requires = system if spec.specificationVersion > 4 else declared.requires
    support_of_file = replace(
        declared, requires=requires, note="; ".join(filter(None, [declared.note, _rounding(weights)]))
    )
    return Encoded(_weight_bytes(template_spec, places, weights, extra["ranks"], size), support_of_file)


def _with_biases(template: Any, biases: Mapping[str, NDArray[np.float32]]) -> Any:
    """The template with other values in parameters, by key."""
    if not biases:
        return template
    spec = model.copied(template)
    for field in model.fields(model.network(spec).layers):
        if field.key in biases:
            params.put_floats(field.params, biases[field.key])
    return spec


def _rounding(weights: Mapping[str, Weight]) -> str:
    """A note that names tensors whose values scale * code + bias cannot give to the last bit; '' for none."""
    names = [n for n, weight in weights.items() if isinstance(weight, QuantizedWeight) and not params.is_exact(weight)]
    if not names:
        return ""
    return (
        "values may be off by 2^-21 of the tensor's largest where parameters are not fp16 numbers, as the format adds "
        f"an fp32 bias to scale * code: {', '.join(names)}"
    )


def _weight_bytes(template: Any, places: Places, weights: Mapping[str, Weight], ranks: Any, size: int) -> int:
    """Bytes of the quantized weights in a file of `size` bytes; of all weights where none is quantized."""
    quantized = [name for name, weight in weights.items() if isinstance(weight, QuantizedWeight)]
    if not quantized:
        return sum(weight.bits // 8 * stored_count(places, [name]) for name, weight in weights.items())
    plain = {name: FloatWeight(name, np.zeros(weights[name].dequantize().shape, np.float32)) for name in quantized}
    rest = len(model.serialize(build(template, places, {**weights, **plain}, (), ranks)))
    return size - (rest - 4 * stored_count(places, quantized))


def stored_count(places: Places, names: Collection[str]) -> int:
    """Number of weights in the file: a tensor's count once for each layer that uses it, as layers share nothing."""
    return sum(math.prod(place.shape) for name in names for place in places[name])


def build(
    template: Any, places: Places, weights: Mapping[str, Weight], rounded: Collection[str], ranks: Mapping[str, int]
) -> Any:
    """The Model message with `weights` at their places.

    rounded  keys of other parameters that scheme fp16 rounds
    ranks    position of a layer -> number of axes of its output

    Raises BackendError for a weight that its layer cannot represent.
    """
    spec = model.copied(template)
    layers = model.network(spec).layers
    sites: dict[int, Weight] = {}
    for name, placements in places.items():
        for place in placements:
            at, _, field = place.key.partition(".")
            layer = layers[int(at)]
            sites[int(at)] = weights[name]
            try:
                _put(layer, field, weights[name], place)
            except BackendError as error:
                raise BackendError(f"layer {layer.name!r}: {error}") from error
    with_separate_bias = []
    touched = {int(key.partition(".")[0]) for key in rounded}
    touched |= {position for position, weight in sites.items() if isinstance(weight, FloatWeight) and weight.bits == 16}
    for position in touched:
        if not _store_others(layers[position], position, sites.get(position), rounded):
            with_separate_bias.append(position)
    for position in sorted(with_separate_bias, reverse=True):  # from the end, as each adds layers behind its own
        _separate_bias(layers, position, ranks[str(position)])
    return spec


def _put(layer: Any, field: str, weight: Weight, place: Placement) -> None:
    kind = layer.WhichOneof("layer")
    shape, axis = model.weight_layout(kind, getattr(layer, kind))
    if shape is None or "." in field:
        raise BackendError(f"{weight.name}: layers of type {kind} have no quantized weights")
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
            "per tensor or with k-means, or keep it float by a layer rule in the recipe"
        )
    params.put_codes(target, weight, placed)


def _store_others(layer: Any, position: int, weight: Weight | None, rounded: Collection[str]) -> bool:
    """Store a layer's parameters other than its weight -> False where a 16-bit weight has a bias that needs 32 bits.

    A layer's floats have one width, all 32 or all 16 bits (NeuralNetworkLayerValidator.cpp of apple/coremltools): 16
    where that loses nothing.
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
    """Values rounded to fp16; unchanged where one overflows, as in `quantize.scales.to_fp16`."""
    halves = _to_half(values)
    return halves if np.isfinite(halves).all() else values


def _separate_bias(layers: Any, position: int, rank: int) -> None:
    """Move a 32-bit bias out of its layer: a constant and a sum behind it, as layers of their own."""
    layer = layers[position]
    parameters = getattr(layer, layer.WhichOneof("layer"))
    output, count = layer.output[0], len(parameters.bias.floatValue)
    after = [type(layer).FromString(other.SerializeToString(deterministic=True)) for other in layers[position + 1 :]]
    del layers[position + 1 :]
    constant = layers.add(name=f"{layer.name}/bias", output=[f"{output}/bias"])
    # channels are axis -3 of four axes, and the last of fewer
    constant.loadConstantND.shape.extend([count, 1, 1] if rank == 4 and not _last(layer) else [count])
    constant.loadConstantND.data.CopyFrom(parameters.bias)
    total = layers.add(name=f"{layer.name}/biased", input=[f"{output}/unbiased", f"{output}/bias"], output=[output])
    total.addBroadcastable.SetInParent()
    layers.extend(after)
    layer.output[:] = [f"{output}/unbiased"]
    parameters.hasBias = False
    parameters.ClearField("bias")


def _last(layer: Any) -> bool:
    """Whether a layer's output channels are its last axis at any rank."""
    return layer.WhichOneof("layer") in ("batchedMatmul", "embeddingND")
