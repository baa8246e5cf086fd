"""The call of an operation: its parameters, as the function that computes it in torch gets them.

Values are float32 (the executor rounds fp16), int64 and bool tensors; constants of rank 0 are Python numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from mobconv.backends.apple.graph import Operation, Value
from mobconv.errors import BackendError

_REQUIRED = object()


@dataclass(frozen=True)
class Call:
    """One operation on actual values.

    operation  the operation
    values     all values that are needed now or later, by name
    declared   types and shapes of all values, as the network declares them
    fixed      names of the constants
    batch      number of samples that the network declares
    rows       number of samples that it runs with
    """

    operation: Operation
    values: Mapping[str, Any]
    declared: Mapping[str, Value]
    fixed: Collection[str]
    batch: int
    rows: int

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        """A parameter, or the default where it is not given. Raises BackendError without a default."""
        names = self.operation.inputs.get(key)
        if names is None:
            if default is _REQUIRED:
                raise BackendError(f"{self.operation.where}: the parameter {key} is missing")
            return default
        return self.values[names[0]]

    def all(self, key: str) -> list[Any]:
        """A parameter that is a list of values."""
        return [self.values[name] for name in self.operation.inputs[key]]

    def ints(self, key: str, default: Any = _REQUIRED) -> Any:
        """A parameter as a list of integers; a scalar becomes a list of one."""
        value = self.get(key, default)
        if value is None or isinstance(value, list):
            return value
        return [int(value)] if not hasattr(value, "tolist") or not value.dim() else value.tolist()

    def flags(self, key: str, count: int) -> list[bool]:
        """A parameter as a list of `count` booleans; all False where it is not given."""
        value = self.get(key, None)
        return [False] * count if value is None else [bool(flag) for flag in value.tolist()]

    def shape(self, key: str) -> tuple[int, ...]:
        """The declared shape of a parameter."""
        return self.declared[self.operation.inputs[key][0]].shape

    def widened(self, sizes: list[int], key: str = "x") -> list[int]:
        """Target sizes with the declared number of samples, in the first place, replaced by the actual one.

        Where that is wrong (the first axis is not the batch), the executor notices and runs sample by sample.
        """
        declared = self.shape(key)
        if self.rows != self.batch and sizes and declared and sizes[0] == declared[0] == self.batch:
            return [self.rows, *sizes[1:]]
        return sizes

    def refuse(self, feature: str) -> BackendError:
        """The error to raise for a feature that is not implemented."""
        return BackendError(f"{self.operation.where}: {feature} is not supported here")


Function = Callable[[Call], Any]
