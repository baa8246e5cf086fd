"""The main function of a saved ML Program as a list of steps, its constants decoded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mobconv.backends.base import TensorSpec
from mobconv.backends.coreml import mil
from mobconv.backends.coreml.decode import decode
from mobconv.backends.coreml.package import Package
from mobconv.backends.coreml.rewrite import main_block
from mobconv.errors import BackendError, InputError, MobconvError

NUMPY_NAMES = {"FLOAT32": "float32", "FLOAT16": "float16", "INT32": "int32", "BOOL": "bool", "INT8": "int8"}


@dataclass(frozen=True)
class Value:
    """A value as the program declares it. A size of -1 is left open; dtype '' is no tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One operation to run. inputs: parameter -> names of values, several where it takes a list."""

    kind: str
    position: int
    inputs: Mapping[str, tuple[str, ...]]
    outputs: tuple[Value, ...]

    @property
    def where(self) -> str:
        return f"operation {self.position}, {self.kind}, output {self.outputs[0].name if self.outputs else 'none'}"


@dataclass(frozen=True)
class Graph:
    """A program, ready to be walked. constants: by name, numpy arrays, strings, or lists of them.

    labels: of a classifier, whose output is the array that Core ML makes a label and a dictionary of.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    constants: Mapping[str, Any]
    steps: tuple[Step, ...]
    labels: tuple[str, ...] = ()


def parse(package: Package) -> Graph:
    """Read every operation, constants in full.

    Raises InputError for a damaged program and BackendError for one that mobconv cannot run here,
    naming the operation and where it stands.
    """
    try:
        block = main_block(package.spec)
    except InputError as error:
        raise InputError(f"{package.path}: {error}") from error
    main = package.spec.mlProgram.functions["main"]
    inputs = tuple(_value(held) for held in main.inputs)
    reader = _Reader(package, {value.name: value for value in inputs}, {}, [])
    for position, op in enumerate(block.operations):
        try:
            reader.read(op, position)
        except MobconvError as error:
            output = op.outputs[0].name if op.outputs else "none"
            text = str(error).removeprefix(f"{package.path}: ")
            message = f"{package.path}: operation {position}, {op.type}, output {output}: {text}"
            raise type(error)(message) from error
    names = list(dict.fromkeys(reader.classified.get(name, name) for name in block.outputs))
    missing = [name for name in names if name not in reader.values]
    if missing:
        raise InputError(f"{package.path}: the program returns {', '.join(missing)}, which nothing computes")
    package.forget_files()
    outputs = tuple(reader.values[name] for name in names)
    return Graph(inputs, outputs, reader.constants, tuple(reader.steps), reader.labels)


@dataclass
class _Reader:
    package: Package
    values: dict[str, Value]
    constants: dict[str, Any]
    steps: list[Step]
    classified: dict[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    def read(self, op: Any, position: int) -> None:
        if op.blocks:
            raise BackendError("control flow; mobconv runs straight programs only")
        inputs = {
            key: tuple(self._bound(binding, f"{position}/{key}/{i}") for i, binding in enumerate(argument.arguments))
            for key, argument in sorted(op.inputs.items())
        }
        if op.type == "classify":
            self.classified.update({held.name: inputs["probabilities"][0] for held in op.outputs})
            self.labels = tuple(str(label) for label in self.constants[inputs["classes"][0]])
            return
        outputs = tuple(_value(held) for held in op.outputs)
        if op.type == "const" or op.type.startswith("constexpr_"):
            if len(outputs) != 1:
                raise InputError(f"a constant of {len(outputs)} outputs")
            self.constants[outputs[0].name] = self._constant(op, inputs, outputs[0])
        else:
            self.steps.append(Step(op.type, position, inputs, outputs))
        self.values.update({value.name: value for value in outputs})

    def _bound(self, binding: Any, free: str) -> str:
        """The name of a value; one that is given in place gets a free name (no converted one has a slash)."""
        if binding.WhichOneof("binding") != "value":
            if binding.name not in self.values:
                raise InputError(f"it takes {binding.name!r}, which nothing before it computes")
            return str(binding.name)
        self.constants[free] = mil.read_value(binding.value, self.package.read_blob)
        self.values[free] = Value(free, mil.dtype_name(binding.value.type), mil.shape_of(binding.value.type))
        return free

    def _constant(self, op: Any, inputs: Mapping[str, tuple[str, ...]], output: Value) -> Any:
        read = self.package.read_blob
        parameters = {key: mil.read_value(value, read) for key, value in op.attributes.items() if key != "name"}
        if op.type == "const":
            if "val" not in parameters:
                raise InputError("a constant without a value")
            return parameters["val"]
        unknown = [name for names in inputs.values() for name in names if name not in self.constants]
        if unknown:
            raise InputError(f"it decodes {', '.join(unknown)}, which is no constant")
        held = decode(op.type, parameters | {key: self.constants[names[0]] for key, names in inputs.items()})
        if held.shape != output.shape:
            raise InputError(f"it decodes to shape {held.shape} and declares {output.shape}")
        return held


def tensor_spec(value: Value, package: Package, colour: str = "") -> TensorSpec:
    """A value at the edge of the program. Raises BackendError for what is no tensor of numbers."""
    if value.dtype not in NUMPY_NAMES:
        raise BackendError(f"{package.path}: {value.name} is no tensor of numbers, and mobconv passes nothing else")
    return TensorSpec(value.name, value.shape, NUMPY_NAMES[value.dtype], colour)


def is_float(value: Any) -> bool:
    """Whether a constant is an array of floats."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _value(held: Any) -> Value:
    return Value(held.name, mil.dtype_name(held.type), mil.shape_of(held.type))
