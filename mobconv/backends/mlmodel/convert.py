"""A program -> float template on disk, with the map of where each parameter lives in it.

    template/
        template.mlmodel    the network, without the weights that `encode` adds
        map.json            {"places": ..., "floats": [...], "ranks": {...}, "biases": ...}

coremltools converts the exported program once, with fingerprints for weights.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import bias_map, weight_map
from mobconv.backends.apple import description, lowering
from mobconv.backends.apple.vendor import coremltools, passes_but, quiet
from mobconv.backends.mlmodel import graph, model
from mobconv.backends.weight_map import Places
from mobconv.common.files import write_whole
from mobconv.errors import BackendError, MobconvError, shortened
from mobconv.model.program import Program
from mobconv.schemes import Compute

TEMPLATE = "template.mlmodel"


def convert(program: Program, compute: Compute, directory: Path) -> None:
    """Write the template of a program into an existing empty folder.

    Raises BackendError with the converter's message when it refuses the network, for a weight that is missing in the
    converted network, and for a layer that cannot be run here.
    """
    if compute is not Compute.FP32:
        raise BackendError("neuralnetwork files do not say in which precision they run; the template is fp32")
    spec = _converted(program)
    if not all(weight_map.search(_constants(model.network(spec).layers), program.sites).values()):
        spec = _converted(program, lowering.MERGING)
    _clean(spec)
    _declare_inputs(spec, program.example)
    layers = model.network(spec).layers
    places = weight_map.locate(_constants(layers), program.sites)
    try:
        shapes = graph.parse(spec, Path("the converted network")).shapes
    except MobconvError as error:
        raise BackendError(str(error)) from error
    for layer in layers:
        if layer.WhichOneof("layer") == "convolution" and layer.convolution.isDeconvolution:
            _settle_deconvolution(layer, shapes[layer.input[0]])
    keys = {place.key for placements in places.values() for place in placements}
    floats = _float_parameters(layers, keys, program)
    biases = bias_map.locate(_constants(layers), keys, program)
    ranks = {str(position): len(shapes[layer.output[0]]) for position, layer in enumerate(layers)}
    for field in list(model.fields(layers)):
        if field.key in keys:
            field.params.Clear()
    if program.image:
        _declare_image(spec, program)
    write_whole(directory / TEMPLATE, model.serialize(spec))
    weight_map.save(directory / "map.json", places, {"floats": floats, "ranks": ranks}, biases)


def _converted(program: Program, without: Collection[str] = ()) -> Any:
    """The converter's message. without: passes of coremltools that are left out."""
    ct = coremltools()
    try:
        with quiet():
            exported = lowering.exported(weight_map.placeholder(program))
            return ct.convert(
                exported,
                convert_to="neuralnetwork",
                minimum_deployment_target=ct.target.iOS14,  # the last for neuralnetwork files
                outputs=[ct.TensorType(name=output) for output in program.outputs],
                pass_pipeline=passes_but(without),
                skip_model_load=True,
            ).get_spec()
    except Exception as error:  # the converter raises dozens of types
        raise BackendError(
            f"coremltools cannot convert the network to a neuralnetwork: {shortened(error)} (the backend coreml has "
            "more operations)"
        ) from error


def _clean(spec: Any) -> None:
    """Drop the date of conversion."""
    metadata = spec.description.metadata.userDefined
    for key in [key for key in metadata if key.endswith(".conversion_date")]:
        del metadata[key]


def _declare_inputs(spec: Any, example: Mapping[str, NDArray[Any]]) -> None:
    """Give inputs the program's names, in order, and integers their type.

    (The converter uses the names of `forward`, and declares floats only.)
    """
    features, layers, names = spec.description.input, model.network(spec).layers, list(example)
    if len(features) != len(names):
        converted = ", ".join(feature.name for feature in features) or "none"
        raise BackendError(f"the converted network has the inputs {converted}, the program {', '.join(names)}")
    new = {feature.name: name for feature, name in zip(features, names, strict=True)}
    clash = {output for layer in layers for output in layer.output}.intersection(names)
    if clash:
        raise BackendError(f"the input name {', '.join(sorted(clash))} is in use within the network; choose another")
    for feature in features:
        feature.name = new[feature.name]
        if example[feature.name].dtype.kind in "iu":
            feature.type.multiArrayType.dataType = graph.INT32
    for layer in layers:
        layer.input[:] = [new.get(name, name) for name in layer.input]


def _declare_image(spec: Any, program: Program) -> None:
    """Make the input an image and, where there are labels, the network a classifier."""
    description.describe_input(spec, program.image, next(iter(program.example.values())).shape)
    if not program.labels or len(program.outputs) != 1:
        return
    network = model.copied(model.network(spec))
    classifier = spec.neuralNetworkClassifier
    classifier.layers.extend(network.layers)
    classifier.preprocessing.extend(network.preprocessing)
    classifier.arrayInputShapeMapping, classifier.imageInputShapeMapping = (
        network.arrayInputShapeMapping,
        network.imageInputShapeMapping,
    )
    classifier.stringClassLabels.vector.extend(program.labels)
    classifier.labelProbabilityLayerName = program.outputs[0]
    description.describe_classifier(spec, program.outputs[0])  # the name of the layer's output, as coremltools has it


def _constants(layers: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(key, values) of every float parameter: weights in their layer's layout, others flat."""
    for field in model.fields(layers):
        values = np.array(field.params.floatValue, np.float32)
        if field.shape is not None and values.size == np.prod(field.shape, dtype=np.int64):
            values = values.reshape(field.shape)
        yield field.key, values


def _settle_deconvolution(layer: Any, shape: tuple[int, ...]) -> None:
    """Declare by padding alone which part of its full result a deconvolution keeps.

    coremltools writes outputShape too, where it is known. Padding is then ignored (NeuralNetwork.proto), and it is not
    specified where the result is cropped instead. The padding at the end is reduced by output_padding.
    """
    p = layer.convolution
    if not p.outputShape or p.WhichOneof("ConvolutionPaddingType") != "valid":
        return
    steps, edges = list(p.stride) or [1, 1], p.valid.paddingAmounts.borderAmounts
    while len(edges) < 2:
        edges.add()
    for i, edge in enumerate(edges):
        full = (shape[i + 2] - 1) * steps[i] + p.kernelSize[i]
        end = int(full - edge.startEdgeSize - p.outputShape[i])
        if end < 0:
            raise BackendError(
                f"layer {layer.name!r}: a transposed convolution whose output_padding is larger than its padding "
                "cannot be expressed in a neuralnetwork; use the backend coreml"
            )
        edge.endEdgeSize = end
    del p.outputShape[:]


def _float_parameters(layers: Any, weights: set[str], program: Program) -> list[str]:
    """Keys of the other float parameters (biases and so on), found by their values. weights: keys of the weights."""
    values = {value.ravel().tobytes() for name, value in program.floats().items() if name not in program.sites}
    return [key for key, value in _constants(layers) if key not in weights and value.ravel().tobytes() in values]


def load(template: Path) -> tuple[Any, Places, dict[str, Any]]:
    """Read a template: the network without its weights, the map of them, and the further entries of that."""
    spec = model.read(template / TEMPLATE)
    places, extra = weight_map.load(template / "map.json")
    return spec, places, extra
