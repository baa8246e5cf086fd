"""What an operation of an ML Program sees of its call.

Values are float32 (fp16 is
rounded by the executor), int64 and bool tensors; constants of rank 0 are Python numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mobconv.backends.coreml.graph import Step, Value
from mobconv.errors import BackendError

_REQUIRED = object()


@dataclass(frozen=True)
class Call:
    """One operation on actual values.

    step      the operation
    values    all values that live, by name
    declared  what the program declares of each of them
    fixed     names of the constants
    batch     the batch that the program declares
    rows      the batch that it is run with
    """

    step: Step
    values: Mapping[str, Any]
    declared: Mapping[str, Value]
    fixed: Collection[str]
    batch: int
    rows: int

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """A parameter, or the default where it is not given."""
        names = self.step.inputs.get(key)
        if names is None:
            if default is _REQUIRED:
                raise BackendError(f"{self.step.where}: the parameter {key} is missing")
            return default
        return self.values[names[0]]

    def all(self, key: str) -> list[Any]:
        """A parameter that is a list of values."""
        return [self.values[name] for name in self.step.inputs[key]]

    def ints(self, key: str, default: Any = _REQUIRED) -> Any:
        """A parameter as a list of integers; a scalar is a list of one."""
        found = self.get(key, default)
        if found is None or isinstance(found, list):
            return found
        return [int(found)] if not hasattr(found, "tolist") or not found.dim() else found.tolist()

    def flags(self, key: str, count: int) -> list[bool]:
        found = self.get(key, None)
        return [False] * count if found is None else [bool(v) for v in found.tolist()]

    def shape(self, key: str) -> tuple[int, ...]:
        """The declared shape of a parameter."""
        return self.declared[self.step.inputs[key][0]].shape

    def widened(self, sizes: list[int], key: str = "x") -> list[int]:
        """Target sizes with the declared leading batch replaced by the actual one.

        Where this is wrong (the first axis is no batch), the executor notices and runs one by one.
        """
        declared = self.shape(key)
        if self.rows != self.batch and sizes and declared and sizes[0] == declared[0] == self.batch:
            return [self.rows, *sizes[1:]]
        return sizes

    def refuse(self, what: str) -> BackendError:
        return BackendError(f"{self.step.where}: {what} is not supported here")


Function = Callable[[Call], Any]
