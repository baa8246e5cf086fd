"""The main function of a saved ML Program as operations of the executor, its constants decoded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mobconv.backends.apple.graph import NUMPY_NAMES, ComputeGraph, Operation, Value
from mobconv.backends.base import TensorSpec
from mobconv.backends.coreml import mil
from mobconv.backends.coreml.decode import decode
from mobconv.backends.coreml.package import Package
from mobconv.backends.coreml.rewrite import main_block
from mobconv.errors import BackendError, InputError, MobconvError


def parse(package: Package) -> ComputeGraph:
    """Read every operation, constants included.

    Raises InputError for a damaged program and BackendError for one that mobconv cannot run here, naming the operation
    and its position.
    """
    try:
        block = main_block(package.spec)
    except InputError as error:
        raise InputError(f"{package.path}: {error}") from error
    main = package.spec.mlProgram.functions["main"]
    inputs = tuple(_value(entry) for entry in main.inputs)
    reader = _OperationReader(package, {value.name: value for value in inputs}, {}, [])
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
        raise InputError(f"{package.path}: the program returns {', '.join(missing)}, which no operation computes")
    package.forget_files()
    outputs = tuple(reader.values[name] for name in names)
    return ComputeGraph(inputs, outputs, reader.constants, tuple(reader.operations), reader.labels)


@dataclass
class _OperationReader:
    """Collects operations and constants. classified: label and dictionary of a classifier -> its probabilities."""

    package: Package
    values: dict[str, Value]
    constants: dict[str, Any]
    operations: list[Operation]
    classified: dict[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()

    def read(self, op: Any, position: int) -> None:
        if op.blocks:
            raise BackendError("control flow; mobconv runs programs without branches and loops only")
        inputs = {
            key: tuple(self._bound(binding, f"{position}/{key}/{i}") for i, binding in enumerate(argument.arguments))
            for key, argument in sorted(op.inputs.items())
        }
        if op.type == "classify":
            self.classified.update({output.name: inputs["probabilities"][0] for output in op.outputs})
            self.labels = tuple(str(label) for label in self.constants[inputs["classes"][0]])
            return
        outputs = tuple(_value(entry) for entry in op.outputs)
        if op.type == "const" or op.type.startswith("constexpr_"):
            if len(outputs) != 1:
                raise InputError(f"a constant with {len(outputs)} outputs")
            self.constants[outputs[0].name] = self._constant(op, inputs, outputs[0])
        else:
            self.operations.append(Operation(op.type, position, inputs, outputs))
        self.values.update({value.name: value for value in outputs})

    def _bound(self, binding: Any, free: str) -> str:
        """The name of a value; one that is given in place gets the free name (converted names have no slash)."""
        if binding.WhichOneof("binding") != "value":
            if binding.name not in self.values:
                raise InputError(f"it reads {binding.name!r}, which no operation before it computes")
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
            raise InputError(f"it decodes {', '.join(unknown)}, which is not a constant")
        decoded = decode(op.type, parameters | {key: self.constants[names[0]] for key, names in inputs.items()})
        if decoded.shape != output.shape:
            raise InputError(f"it decodes to shape {decoded.shape} and declares {output.shape}")
        return decoded


def tensor_spec(value: Value, package: Package, colour: str = "") -> TensorSpec:
    """The spec of an input or output. Raises BackendError for a value that is not a tensor of numbers."""
    if value.dtype not in NUMPY_NAMES:
        raise BackendError(f"{package.path}: {value.name} is not a tensor of numbers; mobconv feeds nothing else")
    return TensorSpec(value.name, value.shape, NUMPY_NAMES[value.dtype], colour)


def _value(entry: Any) -> Value:
    return Value(entry.name, mil.dtype_name(entry.type), mil.shape_of(entry.type))
