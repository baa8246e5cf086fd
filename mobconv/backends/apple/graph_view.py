"""A network of Core ML as a graph that can be cut; its parts run in our own executor, on a Mac too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.apple.call import Function
from mobconv.backends.apple.executor import Executor
from mobconv.backends.apple.graph import ComputeGraph, Operation, Value
from mobconv.backends.graph_view import COPY, MOVE, PAD, RESHAPE, SCALE, SHIFT, Op, slicing
from mobconv.errors import BackendError, InputError

_KEPT = 4  # executors of cuts
_FED = "/fed"  # ends the names of fed values
_ROLES = {
    **dict.fromkeys(("identity", "cast", "quantize", "dequantize"), COPY),
    "transpose": MOVE,
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), RESHAPE),
    "pad": PAD,
    **dict.fromkeys(("batch_norm", "linear_activation"), SCALE),
}
# kind -> family, parameters that are the activation and the weight
_WEIGHTED = {
    "conv": ("conv", "x", "weight"),
    "conv_transpose": ("conv", "x", "weight"),
    "linear": ("linear", "x", "weight"),
    "gather": ("embedding", "indices", "x"),
    "embedding": ("embedding", "x", "weight"),
}
_DUMMY = Value("/none", "FLOAT32", (1,))


class ComputeGraphView:
    """See `mobconv.backends.graph_view.GraphView`.

    functions: operations by kind, None for those of ML Programs; note: how the file computes.
    """

    layout = "nchw"

    def __init__(
        self,
        path: Path,
        whole: ComputeGraph,
        functions: Mapping[str, Function] | None = None,
        threads: int = 0,
        note: str = "",
    ) -> None:
        whole = _single(whole)
        self.path, self._graph, self._functions, self._threads = path, whole, functions, threads
        self._edges = [
            (
                [name for names in operation.inputs.values() for name in names],
                [value.name for value in operation.outputs],
            )
            for operation in whole.operations
        ]
        self._fixed = slicing.fixed(self._edges, set(whole.constants))
        self.inputs = tuple(value.name for value in whole.inputs)
        self.outputs = tuple(value.name for value in whole.outputs)
        self._values = {
            value.name: value for value in [*whole.inputs, *(v for op in whole.operations for v in op.outputs)]
        }
        self.shapes = {name: value.shape for name, value in self._values.items()}
        self.batch = whole.inputs[0].shape[0] if whole.inputs and whole.inputs[0].shape else -1
        self.ops = tuple(
            self._op(operation)
            for operation in whole.operations
            if not all(v.name in self._fixed for v in operation.outputs)
        )
        self._half = any(value.dtype == "FLOAT16" for value in self._values.values())
        self.note = note or ("rounded to fp16 after every operation" if self._half else "computed in fp32")
        self._executors: dict[tuple[frozenset[str], tuple[str, ...]], Executor] = {}

    def settle(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Nothing to settle: all shapes are declared."""

    def run(self, feeds: Mapping[str, NDArray[Any]], fetch: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `GraphView.run`."""
        known = {name: np.asarray(self._graph.constants[name]) for name in fetch if name in self._graph.constants}
        rest = [name for name in fetch if name not in known]
        key = frozenset(feeds), tuple(rest)
        if rest and key not in self._executors:
            self._executors[key] = self._cut(feeds, rest)
            if len(self._executors) > _KEPT:
                self._executors.pop(next(iter(self._executors)))
        results = self._run(self._executors[key], feeds) if rest else {}
        known |= {name: results[name] if name in results else feeds[name] for name in rest}
        return {name: np.asarray(value, np.float32) for name, value in known.items()}

    def precise(self) -> ComputeGraphView | None:
        """The program with every fp16 value declared as fp32."""
        if not self._half:
            return None
        whole = self._graph
        operations = tuple(
            replace(operation, outputs=tuple(_wide(value) for value in operation.outputs))
            for operation in whole.operations
        )
        inputs, outputs = (tuple(_wide(value) for value in values) for values in (whole.inputs, whole.outputs))
        wide = ComputeGraph(inputs, outputs, whole.constants, operations)
        return ComputeGraphView(self.path, wide, self._functions, self._threads, "an fp16 program, computed in fp32")

    def close(self) -> None:
        """Free all executors."""
        self._executors.clear()

    def _cut(self, feeds: Mapping[str, Any], fetch: Sequence[str]) -> Executor:
        """An executor of the operations that compute `fetch` from `feeds`. Fed values get names of their own."""
        kept = slicing.needed(self._edges, feeds, fetch, set(self._graph.constants))
        operations = []
        read: set[str] = set()
        for position in kept:
            operation = self._graph.operations[position]
            inputs = {
                key: tuple(f"{name}{_FED}" if name in feeds else name for name in names)
                for key, names in operation.inputs.items()
            }
            read.update(name for names in inputs.values() for name in names)
            operations.append(replace(operation, inputs=inputs))
        edges = [replace(self._values[name], name=f"{name}{_FED}") for name in feeds if f"{name}{_FED}" in read]
        computed = {value.name for operation in operations for value in operation.outputs}
        outputs = tuple(self._values[name] for name in fetch if name in computed)
        constants = {name: value for name, value in self._graph.constants.items() if name in read}
        try:
            return Executor(
                ComputeGraph(tuple(edges) or (_DUMMY,), outputs, constants, tuple(operations)), self._functions
            )
        except BackendError as error:
            raise BackendError(f"{self.path}: {error}") from error

    def _run(self, executor: Executor, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import torch

        fed = {f"{name}{_FED}": value for name, value in feeds.items()} or {_DUMMY.name: np.zeros(1, np.float32)}
        before = torch.get_num_threads()
        try:
            if self._threads:
                torch.set_num_threads(self._threads)
            results = executor.run(fed)
        except (BackendError, InputError) as error:
            raise type(error)(f"{self.path}: {error}") from error
        finally:
            torch.set_num_threads(before)
        if feeds:
            return results
        return {name: value.reshape(self.shapes[name]) for name, value in results.items()}

    def _op(self, operation: Operation) -> Op:
        names = [name for given in operation.inputs.values() for name in given]
        moving = [name for name in names if name not in self._fixed]
        source, weight, family = moving[0] if moving else "", None, ""
        if operation.kind in _WEIGHTED:
            its_family, data, which = _WEIGHTED[operation.kind]
            if operation.inputs[which][0] in self._fixed and operation.inputs[data][0] not in self._fixed:
                family, source, weight = its_family, operation.inputs[data][0], operation.inputs[which][0]
        elif operation.kind == "matmul" and len(moving) == 1:
            family, weight = (
                "linear",
                next(operation.inputs[key][0] for key in "xy" if operation.inputs[key][0] in self._fixed),
            )
        outputs = tuple(value.name for value in operation.outputs)
        role = "" if family else self._role(operation)
        added = operation.inputs.get("bias", ()) if family else tuple(names) if operation.kind == "add" else ()
        bias = next((name for name in added if name in self._fixed), None)
        return Op(outputs[0], operation.kind, tuple(names), outputs, source, weight, family, role, bias=bias)

    def _role(self, operation: Operation) -> str:
        if operation.kind in ("add", "sub", "mul", "real_div"):
            constant = [key for key in "xy" if operation.inputs[key][0] in self._fixed]
            if not constant or (operation.kind == "real_div" and "x" in constant):
                return ""
            return SHIFT if operation.kind in ("add", "sub") else SCALE
        return _ROLES.get(operation.kind, "")


def _wide(value: Value) -> Value:
    return replace(value, dtype="FLOAT32") if value.dtype == "FLOAT16" else value


def _single(whole: ComputeGraph) -> ComputeGraph:
    """The same network with every name used once: neural networks use one name for several values."""
    current = {value.name: value.name for value in whole.inputs}
    used = set(current) | set(whole.constants)
    operations = []
    for operation in whole.operations:
        inputs = {key: tuple(current.get(name, name) for name in names) for key, names in operation.inputs.items()}
        outputs = []
        for value in operation.outputs:
            name, number = value.name, 1
            while name in used:
                number += 1
                name = f"{value.name}#{number}"
            used.add(name)
            current[value.name] = name
            outputs.append(replace(value, name=name))
        operations.append(replace(operation, inputs=inputs, outputs=tuple(outputs)))
    outputs = [replace(value, name=current.get(value.name, value.name)) for value in whole.outputs]
    return ComputeGraph(whole.inputs, tuple(outputs), whole.constants, tuple(operations))
