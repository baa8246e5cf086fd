"""The layers of a neural network as operations of the executor in `mobconv.backends.apple`.

A layer declares less than an operation of an ML Program: its values have no shapes, and its meaning depends on the rank
of its input. So layers are translated while they run, once, on zeros in the shapes of the inputs.

Networks of specification version 3 and older have axes [sequence, batch, channel, height, width]. They run without the
first, which only recurrent layers need (and those are not implemented).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobconv.backends.apple.call import Function
from mobconv.backends.apple.executor import operand
from mobconv.backends.apple.graph import ComputeGraph, Value
from mobconv.backends.mlmodel import model
from mobconv.backends.mlmodel.layer import LayerContext, Tracer
from mobconv.errors import BackendError, InputError, MobconvError

# FeatureTypes.proto: ArrayFeatureType.ArrayDataType and ImageFeatureType.ColorSpace
INT32 = 131104
_GRAY, _RGB, _BGR = 10, 20, 30
_EXACT = 1  # of NeuralNetworkMultiArrayShapeMapping


@dataclass(frozen=True)
class ParsedNetwork:
    """A network, ready to run.

    shapes   of all values by name, at the declared batch
    exact    whether inputs and outputs have the same shapes in Core ML as here
    """

    graph: ComputeGraph
    functions: Mapping[str, Function]
    shapes: Mapping[str, tuple[int, ...]]
    exact: bool


def parse(spec: Any, path: Path) -> ParsedNetwork:
    """Read every layer, weights decoded.

    Raises InputError for a damaged network and BackendError for one that mobconv cannot run, naming the layer and its
    type.
    """
    from mobconv.backends.mlmodel import layers

    network, description = model.network(spec), spec.description
    tracer = Tracer(layers.functions())
    known = layers.table()
    try:
        inputs = tuple(_input(tracer, feature, network) for feature in description.input)
        _preprocess(tracer, network, description.input)
    except MobconvError as error:
        raise type(error)(f"{path}: {error}") from error
    for position, message in enumerate(network.layers):
        kind = message.WhichOneof("layer")
        where = f"{path}: layer {position} {message.name!r} of type {kind}"
        if kind not in known:
            raise BackendError(f"{where}: mobconv does not know layers of this type, so the file cannot be run here")
        try:
            known[kind](LayerContext(tracer, position, message))
        except MobconvError as error:
            raise type(error)(f"{where}: {error}") from error
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        except (RuntimeError, IndexError, TypeError, KeyError, AttributeError) as error:
            raise BackendError(f"{where}: cannot be run: {error}") from error
    old = network.arrayInputShapeMapping != _EXACT
    outputs = tuple(_output(tracer, name, integer, old, path) for name, integer in _outputs(spec, network))
    labels = _labels(spec, network)
    graph = ComputeGraph(inputs, outputs, tracer.constants, tuple(tracer.operations), labels)
    shapes = {name: value.shape for name, value in tracer.declared.items()}
    return ParsedNetwork(
        graph, tracer.functions, shapes, not old and (not description.predictedFeatureName or bool(labels))
    )


def _input(tracer: Tracer, feature: Any, network: Any) -> Value:
    """Declare an input. Integers become floats, as layers compute with floats only."""
    kind = feature.type.WhichOneof("Type")
    dtype = "FLOAT32"
    if kind == "imageType":
        image = feature.type.imageType
        if image.colorSpace not in (_GRAY, _RGB, _BGR):
            raise BackendError(f"the input {feature.name} is an image of a colour space that is not supported here")
        shape: tuple[int, ...] = (1, 1 if image.colorSpace == _GRAY else 3, int(image.height), int(image.width))
    elif kind == "multiArrayType":
        array = feature.type.multiArrayType
        shape = tuple(int(size) for size in array.shape)
        if network.arrayInputShapeMapping != _EXACT:
            if len(shape) not in (1, 3):
                raise InputError(f"the input {feature.name} has {len(shape)} axes, where this version allows 1 or 3")
            shape = (1, *shape, *[1] * (3 - len(shape)))
        dtype = "INT32" if array.dataType == INT32 else "FLOAT32"
    else:
        raise BackendError(f"the input {feature.name} is of type {kind}; mobconv feeds arrays and images only")
    if not shape or min(shape) < 1:
        raise InputError(f"the input {feature.name} has no fixed shape: {list(shape)}")
    value = Value(feature.name, dtype, shape)
    if not tracer.declared:
        tracer.batch = shape[0]
    tracer.declared[feature.name] = value
    tracer.values[feature.name] = operand(np.zeros(shape, np.int64 if dtype == "INT32" else np.float32))
    if dtype == "INT32":
        floats = f"{feature.name}/float"
        tracer.run("cast", (-1, feature.name), {"x": feature.name}, [floats], {"dtype": "fp32"})
        tracer.renamed[feature.name] = floats
    return value


def _preprocess(tracer: Tracer, network: Any, inputs: Any) -> None:
    """Add scale, bias and mean of image inputs. Layers read their results under the inputs' names."""
    for position, message in enumerate(network.preprocessing):
        name = message.featureName or inputs[0].name
        x, out = tracer.name(name), f"{name}/preprocessed{position}"
        shape = tracer.declared[x].shape
        if message.WhichOneof("preprocessor") == "scaler":
            scaler = message.scaler
            color = next((f.type.imageType.colorSpace for f in inputs if f.name == name), _RGB)
            bias = [scaler.redBias, scaler.greenBias, scaler.blueBias]
            bias = [scaler.grayBias] if shape[1] == 1 else bias[::-1] if color == _BGR else bias
            added = np.array(bias, np.float32).reshape(1, -1, 1, 1)
            constants = {"alpha": np.float32(scaler.channelScale).item(), "beta": added}
            tracer.run("linear_activation", (-1, name), {"x": x}, [out], constants)
        else:
            mean = np.array(message.meanImage.meanImage, np.float32)
            if mean.size != np.prod(shape[1:]):
                raise InputError(f"the mean image of {name} has {mean.size} values for the shape {list(shape)}")
            tracer.run("sub", (-1, name), {"x": x}, [out], {"y": mean.reshape(1, *shape[1:])})
        tracer.renamed[name] = out


def _outputs(spec: Any, network: Any) -> list[tuple[str, bool]]:
    """Names of the network's outputs, and whether they are integers.

    A classifier's output is its probabilities: the label and the dictionary that Core ML computes are not arrays.
    """
    if spec.WhichOneof("Type") == "neuralNetworkClassifier":
        return [(network.labelProbabilityLayerName or network.layers[-1].output[0], False)]
    return [(output.name, output.type.multiArrayType.dataType == INT32) for output in spec.description.output]


def _labels(spec: Any, network: Any) -> tuple[str, ...]:
    """A classifier's labels, if they are strings."""
    if spec.WhichOneof("Type") != "neuralNetworkClassifier":
        return ()
    return tuple(str(label) for label in network.stringClassLabels.vector)


def _output(tracer: Tracer, name: str, integer: bool, old: bool, path: Path) -> Value:
    """Declare an output. old: of a network with five axes, whose vectors Core ML returns as vectors."""
    if name not in tracer.declared:
        raise InputError(f"{path}: the network returns {name}, which no layer computes")
    shape = tracer.declared[name].shape
    if old and len(shape) == 4 and shape[2:] == (1, 1):  # Core ML returns it as a vector
        tracer.run("squeeze", (-1, name), {"x": name}, [name], {"axes": [2, 3]})
    value = tracer.declared[name]
    return Value(name, "INT32" if integer else "FLOAT32", value.shape)
