"""The layers of a neural network as steps of `mobconv.backends.coreml`'s executor.

A layer says less than an operation of an ML Program: it has no shapes of values, and what it does depends on
the rank of its input. So layers are translated while they are run, once, on zeros in the declared shapes.

Networks of specification version 3 and older have axes [sequence, batch, channel, height, width]. They are run
without the first, which only recurrent layers need (and those are not known here).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mobconv.backends.coreml.call import Call, Function
from mobconv.backends.coreml.executor import operand
from mobconv.backends.coreml.graph import Graph, Step, Value
from mobconv.backends.mlmodel import model, params
from mobconv.errors import BackendError, InputError, MobconvError
from mobconv.quantize.weights import Floats

# FeatureTypes.proto: ArrayFeatureType.ArrayDataType and ImageFeatureType.ColorSpace
INT32 = 131104
_GRAY, _RGB, _BGR = 10, 20, 30
_EXACT = 1  # of NeuralNetworkMultiArrayShapeMapping


@dataclass(frozen=True)
class LayerStep(Step):
    """A step of a layer. layer: its name in the file."""

    layer: str = ""

    @property
    def where(self) -> str:
        return f"layer {self.layer!r} ({self.kind})"


@dataclass(frozen=True)
class Network:
    """A network, ready to be run.

    shapes   of all values by name, at the declared batch
    exact    whether the inputs and outputs are to Core ML, too, what they are here, in these very shapes
    """

    graph: Graph
    functions: Mapping[str, Function]
    shapes: Mapping[str, tuple[int, ...]]
    exact: bool


def parse(spec: Any, path: Path) -> Network:
    """Read every layer, weights decoded.

    Raises InputError for a damaged network and BackendError for one that mobconv cannot run here, naming
    the layer and its type.
    """
    from mobconv.backends.mlmodel import layers

    held, description = model.network(spec), spec.description
    found = Tracer(layers.functions())
    known = layers.table()
    try:
        inputs = tuple(_input(found, feature, held) for feature in description.input)
        _preprocess(found, held, description.input)
    except MobconvError as error:
        raise type(error)(f"{path}: {error}") from error
    for position, message in enumerate(held.layers):
        kind = message.WhichOneof("layer")
        where = f"{path}: layer {position} {message.name!r} of type {kind}"
        if kind not in known:
            raise BackendError(f"{where}: mobconv does not know layers of this type, so the file cannot be run here")
        try:
            known[kind](Layer(found, position, message))
        except MobconvError as error:
            raise type(error)(f"{where}: {error}") from error
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        except (RuntimeError, IndexError, TypeError, KeyError, AttributeError) as error:
            raise BackendError(f"{where}: cannot be run: {error}") from error
    old = held.arrayInputShapeMapping != _EXACT
    outputs = tuple(_output(found, name, integer, old, path) for name, integer in _outputs(spec, held))
    labels = _labels(spec, held)
    graph = Graph(inputs, outputs, found.constants, tuple(found.steps), labels)
    shapes = {name: value.shape for name, value in found.declared.items()}
    return Network(graph, found.functions, shapes, not old and (not description.predictedFeatureName or bool(labels)))


@dataclass
class Tracer:
    """What has been translated so far, and its values on zeros."""

    functions: Mapping[str, Function]
    values: dict[str, Any] = field(default_factory=dict)
    declared: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    steps: list[LayerStep] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    batch: int = 1

    def name(self, given: str) -> str:
        """The value that a name of the file stands for. Raises InputError for one that nothing computes."""
        found = self.renamed.get(given, given)
        if found not in self.declared:
            raise InputError(f"it takes {given!r}, which nothing before it computes")
        return found

    def hold(self, name: str, value: Any) -> None:
        """Keep a constant."""
        self.constants[name] = value
        self.values[name] = operand(value)
        self.declared[name] = Value(name, "", np.shape(value) if isinstance(value, np.ndarray) else ())

    def run(
        self,
        kind: str,
        layer: tuple[int, str],
        inputs: Mapping[str, str | Sequence[str]],
        outputs: Sequence[str],
        constants: Mapping[str, Any],
    ) -> None:
        """Add a step. inputs: parameter -> names of values; constants: parameter -> its value."""
        taken = {key: (given,) if isinstance(given, str) else tuple(given) for key, given in inputs.items()}
        for key, value in constants.items():
            free = f"{len(self.steps)}/{key}"  # no value of a file is looked up by such a name: see `name`
            self.hold(free, value)
            taken[key] = (free,)
        bare = tuple(Value(name, "FLOAT32", ()) for name in outputs)
        step = LayerStep(kind, layer[0], taken, bare, layer[1])
        call = Call(step, self.values, self.declared, self.constants, self.batch, self.batch)
        made = self.functions[kind](call)
        results = made if isinstance(made, tuple) else (made,)
        shaped = tuple(
            Value(name, "FLOAT32", tuple(result.shape)) for name, result in zip(outputs, results, strict=True)
        )
        self.steps.append(LayerStep(kind, layer[0], taken, shaped, layer[1]))
        for value, result in zip(shaped, results, strict=True):
            self.values[value.name], self.declared[value.name] = result, value


@dataclass(frozen=True)
class Layer:
    """A layer as its function sees it. position: in the network; message: NeuralNetworkLayer."""

    tracer: Tracer
    position: int
    message: Any

    @property
    def kind(self) -> str:
        return str(self.message.WhichOneof("layer"))

    @property
    def params(self) -> Any:
        """The message of parameters of this type of layer."""
        return getattr(self.message, self.kind)

    @property
    def inputs(self) -> list[str]:
        return [self.tracer.name(name) for name in self.message.input]

    @property
    def outputs(self) -> list[str]:
        return list(self.message.output)

    @property
    def x(self) -> str:
        """The first input."""
        if not self.message.input:
            raise InputError("a layer without inputs")
        return self.inputs[0]

    def shape(self, name: str | None = None) -> tuple[int, ...]:
        """The shape of a value, by default of the first input."""
        return self.tracer.declared[name or self.x].shape

    def rank(self) -> int:
        return len(self.shape())

    def emit(
        self, kind: str, inputs: Mapping[str, str | Sequence[str]] | None = None, part: str = "", **constants: Any
    ) -> str:
        """Add a step with one result: the layer's output, or one on the way named `part`. -> its name.

        inputs: by default the layer's first as `x`.
        """
        name = f"{self.outputs[0]}/{part}" if part else self.outputs[0]
        given = {"x": self.x} if inputs is None else inputs
        self.tracer.run(kind, (self.position, self.message.name), given, [name], constants)
        return name

    def emit_all(self, kind: str, **constants: Any) -> None:
        """Add a step of the first input that yields all outputs."""
        self.tracer.run(kind, (self.position, self.message.name), {"x": self.x}, self.outputs, constants)

    def constant(self, part: str, value: Any) -> str:
        """Keep a constant under a name of its own -> that name; '' for the layer's output."""
        name = f"{self.outputs[0]}/{part}" if part else self.outputs[0]
        self.tracer.hold(name, value)
        return name

    def read(self, held: Any, *shape: int) -> Floats:
        """A parameter that is no weight, decoded."""
        return params.get(held, shape, None)

    def weight(self, path: str = "weights") -> Floats:
        """The layer's weight, decoded, in the layout that the format gives it."""
        shape, axis = model.weight_layout(self.kind, self.params)
        assert shape is not None
        return params.get(getattr(self.params, path), shape, axis)

    def refuse(self, what: str) -> BackendError:
        return BackendError(f"{what} is not supported here")


LayerFunction = Callable[[Layer], Any]


def _input(found: Tracer, feature: Any, held: Any) -> Value:
    """Declare an input; integers become floats, which is all that layers compute with."""
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
        if held.arrayInputShapeMapping != _EXACT:
            if len(shape) not in (1, 3):
                raise InputError(f"the input {feature.name} has {len(shape)} axes, where this version allows 1 or 3")
            shape = (1, *shape, *[1] * (3 - len(shape)))
        dtype = "INT32" if array.dataType == INT32 else "FLOAT32"
    else:
        raise BackendError(f"the input {feature.name} is of type {kind}, and mobconv feeds arrays and images only")
    if not shape or min(shape) < 1:
        raise InputError(f"the input {feature.name} has no shape of its own: {list(shape)}")
    value = Value(feature.name, dtype, shape)
    if not found.declared:
        found.batch = shape[0]
    found.declared[feature.name] = value
    found.values[feature.name] = operand(np.zeros(shape, np.int64 if dtype == "INT32" else np.float32))
    if dtype == "INT32":
        floats = f"{feature.name}/float"
        found.run("cast", (-1, feature.name), {"x": feature.name}, [floats], {"dtype": "fp32"})
        found.renamed[feature.name] = floats
    return value


def _preprocess(found: Tracer, held: Any, inputs: Any) -> None:
    """Scale, bias and mean of image inputs. The network sees their results under the inputs' names."""
    for position, message in enumerate(held.preprocessing):
        name = message.featureName or inputs[0].name
        x, out = found.name(name), f"{name}/preprocessed{position}"
        shape = found.declared[x].shape
        if message.WhichOneof("preprocessor") == "scaler":
            scaler = message.scaler
            color = next((f.type.imageType.colorSpace for f in inputs if f.name == name), _RGB)
            bias = [scaler.redBias, scaler.greenBias, scaler.blueBias]
            bias = [scaler.grayBias] if shape[1] == 1 else bias[::-1] if color == _BGR else bias
            added = np.array(bias, np.float32).reshape(1, -1, 1, 1)
            constants = {"alpha": np.float32(scaler.channelScale).item(), "beta": added}
            found.run("linear_activation", (-1, name), {"x": x}, [out], constants)
        else:
            mean = np.array(message.meanImage.meanImage, np.float32)
            if mean.size != np.prod(shape[1:]):
                raise InputError(f"the mean image of {name} has {mean.size} values for the shape {list(shape)}")
            found.run("sub", (-1, name), {"x": x}, [out], {"y": mean.reshape(1, *shape[1:])})
        found.renamed[name] = out


def _outputs(spec: Any, held: Any) -> list[tuple[str, bool]]:
    """Names of the values that the network gives, and whether they are integers.

    A classifier's are its probabilities: the label and the dictionary that Core ML makes of them are no arrays.
    """
    if spec.WhichOneof("Type") == "neuralNetworkClassifier":
        return [(held.labelProbabilityLayerName or held.layers[-1].output[0], False)]
    return [(output.name, output.type.multiArrayType.dataType == INT32) for output in spec.description.output]


def _labels(spec: Any, held: Any) -> tuple[str, ...]:
    """A classifier's labels where they are strings."""
    if spec.WhichOneof("Type") != "neuralNetworkClassifier":
        return ()
    return tuple(str(label) for label in held.stringClassLabels.vector)


def _output(found: Tracer, name: str, integer: bool, old: bool, path: Path) -> Value:
    if name not in found.declared:
        raise InputError(f"{path}: the network returns {name}, which nothing in it computes")
    shape = found.declared[name].shape
    if old and len(shape) == 4 and shape[2:] == (1, 1):  # what Core ML hands out as a vector
        found.run("squeeze", (-1, name), {"x": name}, [name], {"axes": [2, 3]})
    value = found.declared[name]
    return Value(name, "INT32" if integer else "FLOAT32", value.shape)
