"""A network of Core ML, ML Program or neural network, as a list of operations with its constants decoded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NUMPY_NAMES = {"FLOAT32": "float32", "FLOAT16": "float16", "INT32": "int32", "BOOL": "bool", "INT8": "int8"}


@dataclass(frozen=True)
class Value:
    """A value as the network declares it. dtype: in MIL's words, '' for a list or a string; -1 in shape: open."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One operation to run. inputs: parameter -> names of values, several for a parameter that is a list."""

    kind: str
    position: int
    inputs: Mapping[str, tuple[str, ...]]
    outputs: tuple[Value, ...]

    @property
    def where(self) -> str:
        """Position, kind and output, for messages."""
        return f"operation {self.position}, {self.kind}, output {self.outputs[0].name if self.outputs else 'none'}"


@dataclass(frozen=True)
class ComputeGraph:
    """A network as operations in order. constants: by name, numpy arrays, strings, or lists of them.

    labels: of a classifier, whose output is here the array that Core ML turns into a label and a dictionary.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    constants: Mapping[str, Any]
    operations: tuple[Operation, ...]
    labels: tuple[str, ...] = ()
