"""Runs a network of Core ML in torch, on any machine, with the types that it declares.

fp32 is computed in fp32. fp16 is emulated: every operation is computed in fp32 and its result rounded to fp16, which
is exact to a rounding for each operation (Core ML's own accumulators are not documented).

A program declares its batch, mostly 1. More samples run together where that gives the same as one after another. This
is tried on random samples when the file is opened, and again on the first real ones, so that a program with a fixed
batch in it (a transformer's reshapes) never gives wrong results, only slower ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.apple import ops
from mobconv.backends.apple.call import Call, Function
from mobconv.backends.apple.graph import ComputeGraph, Value
from mobconv.errors import BackendError, InputError, MobconvError

# Samples run in chunks of such a size that the largest value of the program has about this number of elements, 64 MB:
# smaller chunks have torch's overhead more often (2.6 times eager for 8 images of 224x224 one by one), larger ones fill
# the memory.
_CHUNK_ELEMENTS = 1 << 24
_CHUNK_ROWS = 256


class Executor:
    """A network with its constants as tensors. Raises BackendError for an unknown operation.

    functions: the function of each kind of operation; None for those of ML Programs.
    """

    def __init__(self, graph: ComputeGraph, functions: Mapping[str, Function] | None = None) -> None:
        self._graph = graph
        known = ops.table() if functions is None else functions
        for operation in graph.operations:
            if operation.kind not in known:
                raise BackendError(
                    f"{operation.where}: mobconv does not know this operation, so the file cannot be run here"
                )
        self._functions = [known[operation.kind] for operation in graph.operations]
        self._constants = {name: operand(value) for name, value in graph.constants.items()}
        self._declared = _declared(graph)
        self._last = _last_uses(graph)
        self._batch = graph.inputs[0].shape[0] if graph.inputs and graph.inputs[0].shape else 1
        largest = max((abs(math.prod(v.shape)) for op in graph.operations for v in op.outputs), default=1)
        per_row = max(largest // max(abs(self._batch), 1), 1)
        self._chunk = max(self._batch, min(_CHUNK_ROWS, _CHUNK_ELEMENTS // per_row), 1)
        self._half = any(value.dtype == "FLOAT16" for operation in graph.operations for value in operation.outputs)
        self._together = self._batch == -1 or (self._has_batch() and self._agrees(self._random_rows()))
        self._tried = self._batch == -1

    @property
    def takes_batches(self) -> bool:
        """Whether more samples than declared run together."""
        return self._together

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run any number of samples. Raises InputError for arrays that do not fit."""
        rows = self._check(feeds)
        if self._together and not self._tried and rows > self._batch:
            some = sorted({0, 1, rows - 1})[: max(2, 3 // self._batch)]
            self._together = self._agrees({name: _rows(value, some * self._batch) for name, value in feeds.items()})
            self._tried = True
        step = self._chunk if self._together else self._batch
        parts = []
        for start in range(0, rows, step):
            part = {name: value[start : start + step] for name, value in feeds.items()}
            have = min(step, rows - start)
            if have < self._batch:  # fewer than the program runs: repeat the last row, and drop the repetitions
                part = {name: _rows(v, [*range(have), *[have - 1] * (self._batch - have)]) for name, v in part.items()}
            parts.append({name: v[:have] if v.ndim else v for name, v in self._once(part).items()})
        return {value.name: self._join([part[value.name] for part in parts], value) for value in self._graph.outputs}

    def _join(self, parts: list[NDArray[Any]], value: Value) -> NDArray[Any]:
        stack = not value.shape or (value.shape[0] != self._batch and self._batch == 1)
        return np.stack(parts) if stack else np.concatenate(parts)

    def _once(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run all operations once, all rows together."""
        import torch

        values: dict[str, Any] = dict(self._constants)
        for value in self._graph.inputs:
            values[value.name] = _rounded(_tensor(feeds[value.name]), value)
        rows = len(feeds[self._graph.inputs[0].name]) if self._graph.inputs[0].shape else 1
        with torch.inference_mode():
            for operation, function, last in zip(self._graph.operations, self._functions, self._last, strict=True):
                call = Call(operation, values, self._declared, self._constants, self._batch, rows)
                try:
                    results = function(call)
                except MobconvError:
                    raise
                except (RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError) as error:
                    raise BackendError(f"{operation.where}: cannot be run: {error}") from error
                for value, result in zip(
                    operation.outputs, results if isinstance(results, tuple) else (results,), strict=False
                ):
                    values[value.name] = _rounded(result, value)
                for name in last:
                    del values[name]
        return {value.name: _array(values[value.name], value) for value in self._graph.outputs}

    def _check(self, feeds: Mapping[str, NDArray[Any]]) -> int:
        """The number of samples. Raises InputError for missing inputs and other shapes than declared."""
        rows: set[int] = set()
        for value in self._graph.inputs:
            if value.name not in feeds:
                raise InputError(f"the input {value.name} is missing; given: {', '.join(feeds) or 'none'}")
            shape = feeds[value.name].shape
            fits = len(shape) == len(value.shape) and all(
                want in (have, -1) for have, want in zip(shape[1:], value.shape[1:], strict=True)
            )
            if not fits or not shape:
                raise InputError(f"the input {value.name} is declared as {value.shape} and fed as {shape}")
            rows.add(shape[0])
        if len(rows) != 1 or 0 in rows:
            raise InputError(f"the inputs are fed with {sorted(rows)} samples; all need the same number, at least one")
        return rows.pop()

    def _has_batch(self) -> bool:
        """Whether the first axis of all inputs and outputs may be the batch."""
        edges = [*self._graph.inputs, *self._graph.outputs]
        return all(value.shape and value.shape[0] == self._batch for value in edges)

    def _random_rows(self) -> dict[str, NDArray[Any]]:
        rng, rows = np.random.default_rng(0), 3 * self._batch
        feeds = {}
        for value in self._graph.inputs:
            shape = (rows, *(8 if size == -1 else size for size in value.shape[1:]))
            floats = value.dtype in ("FLOAT16", "FLOAT32")
            feeds[value.name] = rng.normal(size=shape).astype(np.float32) if floats else rng.integers(0, 2, shape)
        return feeds

    def _agrees(self, feeds: Mapping[str, NDArray[Any]]) -> bool:
        """Whether rows, a multiple of the declared batch, give the same together as batch by batch."""
        rows = len(next(iter(feeds.values())))
        try:
            together = self._once(feeds)
        except BackendError:
            return False
        starts = range(0, rows, self._batch)
        batches = [self._once({n: v[start : start + self._batch] for n, v in feeds.items()}) for start in starts]
        tolerance = 3e-2 if self._half else 1e-4
        for name, value in together.items():
            single = np.concatenate([part[name] for part in batches])
            if value.shape != single.shape:
                return False
            error = np.abs(value.astype(np.float64) - single).max(initial=0.0)
            if not error <= tolerance * np.abs(single.astype(np.float64)).max(initial=0.0):
                return False  # also where one of them is NaN
        return True


def _rows(value: NDArray[Any], which: list[int]) -> NDArray[Any]:
    return np.asarray(value[which])


def _declared(graph: ComputeGraph) -> dict[str, Value]:
    """Types and shapes of all values, by name."""
    declared = {value.name: value for value in graph.inputs}
    for operation in graph.operations:
        declared.update((value.name, value) for value in operation.outputs)
    for name, value in graph.constants.items():
        declared[name] = Value(name, "", tuple(value.shape) if isinstance(value, np.ndarray) else ())
    return declared


def _last_uses(graph: ComputeGraph) -> list[list[str]]:
    """For each operation, the values that nothing needs after it."""
    keep = {value.name for value in graph.outputs} | set(graph.constants)
    last: dict[str, int] = {}
    for index, operation in enumerate(graph.operations):
        for name in [*(n for names in operation.inputs.values() for n in names), *(v.name for v in operation.outputs)]:
            last[name] = index
    freed: list[list[str]] = [[] for _ in graph.operations]
    for name, index in last.items():
        if name not in keep:
            freed[index].append(name)
    return freed


def operand(value: Any) -> Any:
    """A constant as operations get it: a tensor, a Python number for rank 0, strings and lists as they are."""
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim == 0:
        return value.item()
    tensor = _tensor(value)
    if value.ndim == 4 and value.dtype.kind == "f":
        # the layout in which torch's convolutions are fastest on CPUs; their outputs keep it
        import torch

        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def _tensor(value: NDArray[Any]) -> Any:
    import torch

    if value.dtype.kind == "f":
        return torch.from_numpy(np.array(value, np.float32))
    return torch.from_numpy(np.array(value, bool if value.dtype.kind == "b" else np.int64))


def _rounded(result: Any, value: Value) -> Any:
    if value.dtype == "FLOAT16" and result.is_floating_point():
        return result.half().float()
    return result


def _array(result: Any, value: Value) -> NDArray[Any]:
    names = {"FLOAT32": "<f4", "FLOAT16": "<f2", "INT32": "<i4", "BOOL": "?", "INT8": "i1"}
    import torch

    tensor = result if isinstance(result, torch.Tensor) else torch.tensor(result)
    return np.asarray(tensor.numpy(), names.get(value.dtype, tensor.numpy().dtype))
