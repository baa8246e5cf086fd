"""The context of a layer: its parameters, and the operations that the function of its type adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mobconv.backends.apple.call import Call, Function
from mobconv.backends.apple.executor import operand
from mobconv.backends.apple.graph import Operation, Value
from mobconv.backends.mlmodel import model, params
from mobconv.errors import BackendError, InputError
from mobconv.quantize.weights import Floats


@dataclass(frozen=True)
class LayerOperation(Operation):
    """An operation that a layer becomes. layer: its name in the file."""

    layer: str = ""

    @property
    def where(self) -> str:
        return f"layer {self.layer!r} ({self.kind})"


@dataclass
class Tracer:
    """The operations added so far, and all values, computed on zeros."""

    functions: Mapping[str, Function]
    values: dict[str, Any] = field(default_factory=dict)
    declared: dict[str, Value] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    operations: list[LayerOperation] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    batch: int = 1

    def name(self, given: str) -> str:
        """The value that a name of the file refers to. Raises InputError for one that no layer before computes."""
        value = self.renamed.get(given, given)
        if value not in self.declared:
            raise InputError(f"it reads {given!r}, which no layer before it computes")
        return value

    def add_constant(self, name: str, value: Any) -> None:
        """Add a constant under a name."""
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
        """Add an operation and compute it. inputs: parameter -> names of values; constants: parameter -> value."""
        parameters = {key: (names,) if isinstance(names, str) else tuple(names) for key, names in inputs.items()}
        for key, value in constants.items():
            free = f"{len(self.operations)}/{key}"  # `name` looks no value of a file up under such a name
            self.add_constant(free, value)
            parameters[key] = (free,)
        bare = tuple(Value(name, "FLOAT32", ()) for name in outputs)
        step = LayerOperation(kind, layer[0], parameters, bare, layer[1])
        call = Call(step, self.values, self.declared, self.constants, self.batch, self.batch)
        returned = self.functions[kind](call)
        results = returned if isinstance(returned, tuple) else (returned,)
        shaped = tuple(
            Value(name, "FLOAT32", tuple(result.shape)) for name, result in zip(outputs, results, strict=True)
        )
        self.operations.append(LayerOperation(kind, layer[0], parameters, shaped, layer[1]))
        for value, result in zip(shaped, results, strict=True):
            self.values[value.name], self.declared[value.name] = result, value


@dataclass(frozen=True)
class LayerContext:
    """A layer for the function of its type. position: in the network; message: NeuralNetworkLayer."""

    tracer: Tracer
    position: int
    message: Any

    @property
    def kind(self) -> str:
        return str(self.message.WhichOneof("layer"))

    @property
    def params(self) -> Any:
        """The message with the parameters of this type of layer."""
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
        """Add an operation of one result -> its name: the layer's output, or an intermediate value named `part`.

        inputs: by default the layer's first, as `x`.
        """
        name = f"{self.outputs[0]}/{part}" if part else self.outputs[0]
        given = {"x": self.x} if inputs is None else inputs
        self.tracer.run(kind, (self.position, self.message.name), given, [name], constants)
        return name

    def emit_all(self, kind: str, **constants: Any) -> None:
        """Add an operation of the first input that gives all outputs."""
        self.tracer.run(kind, (self.position, self.message.name), {"x": self.x}, self.outputs, constants)

    def constant(self, part: str, value: Any) -> str:
        """Add a constant named after the layer and `part` -> its name. part: '' for the layer's output."""
        name = f"{self.outputs[0]}/{part}" if part else self.outputs[0]
        self.tracer.add_constant(name, value)
        return name

    def read(self, message: Any, *shape: int) -> Floats:
        """A parameter of this shape, not a weight, decoded."""
        return params.get(message, shape, None)

    def weight(self, path: str = "weights") -> Floats:
        """The layer's weight, decoded, in the layout that the format gives it."""
        shape, axis = model.weight_layout(self.kind, self.params)
        assert shape is not None
        return params.get(getattr(self.params, path), shape, axis)

    def refuse(self, feature: str) -> BackendError:
        """The error to raise for a feature that is not implemented."""
        return BackendError(f"{feature} is not supported here")


LayerFunction = Callable[[LayerContext], Any]
