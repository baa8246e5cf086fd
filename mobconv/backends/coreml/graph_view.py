"""An ML Program, cut: see `mobconv.anatomy.Anatomy`. Its parts run in our own executor, on a Mac too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.coreml import package
from mobconv.backends.coreml.call import Function
from mobconv.backends.coreml.executor import Executor
from mobconv.backends.coreml.graph import Graph, Step, Value, parse
from mobconv.backends.graph_view import COPY, MOVE, PAD, RESHAPE, SCALE, SHIFT, Op, slicing
from mobconv.errors import BackendError, InputError

_HELD = 4  # executors of cuts that are kept
_FED = "/fed"
_ROLES = {
    **dict.fromkeys(("identity", "cast", "quantize", "dequantize"), COPY),
    "transpose": MOVE,
    **dict.fromkeys(("reshape", "squeeze", "expand_dims"), RESHAPE),
    "pad": PAD,
    **dict.fromkeys(("batch_norm", "linear_activation"), SCALE),
}
# type -> family, parameters of activation and weight
_WEIGHTED = {
    "conv": ("conv", "x", "weight"),
    "conv_transpose": ("conv", "x", "weight"),
    "linear": ("linear", "x", "weight"),
    "gather": ("embedding", "indices", "x"),
    "embedding": ("embedding", "x", "weight"),
}
_DUMMY = Value("/none", "FLOAT32", (1,))


class ProgramAnatomy:
    """See `mobconv.anatomy.Anatomy`. functions: of steps that are no ML Program's; note: how the file computes."""

    layout = "nchw"

    def __init__(
        self,
        path: Path,
        whole: Graph,
        functions: Mapping[str, Function] | None = None,
        threads: int = 0,
        note: str = "",
    ) -> None:
        whole = _single(whole)
        self.path, self._graph, self._functions, self._threads = path, whole, functions, threads
        self._edges = [
            ([name for names in step.inputs.values() for name in names], [value.name for value in step.outputs])
            for step in whole.steps
        ]
        self._fixed = slicing.fixed(self._edges, set(whole.constants))
        self.inputs = tuple(value.name for value in whole.inputs)
        self.outputs = tuple(value.name for value in whole.outputs)
        self._values = {value.name: value for value in [*whole.inputs, *(v for s in whole.steps for v in s.outputs)]}
        self.shapes = {name: value.shape for name, value in self._values.items()}
        self.batch = whole.inputs[0].shape[0] if whole.inputs and whole.inputs[0].shape else -1
        self.ops = tuple(self._op(step) for step in whole.steps if not all(v.name in self._fixed for v in step.outputs))
        self._half = any(value.dtype == "FLOAT16" for value in self._values.values())
        self.note = note or ("rounded to fp16 after every operation" if self._half else "computed in fp32")
        self._executors: dict[tuple[frozenset[str], tuple[str, ...]], Executor] = {}

    def settle(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Shapes are the program's own."""

    def run(self, feeds: Mapping[str, NDArray[Any]], fetch: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Anatomy.run`."""
        known = {name: np.asarray(self._graph.constants[name]) for name in fetch if name in self._graph.constants}
        rest = [name for name in fetch if name not in known]
        key = frozenset(feeds), tuple(rest)
        if rest and key not in self._executors:
            self._executors[key] = self._cut(feeds, rest)
            if len(self._executors) > _HELD:
                self._executors.pop(next(iter(self._executors)))
        found = self._run(self._executors[key], feeds) if rest else {}
        known |= {name: found[name] if name in found else feeds[name] for name in rest}
        return {name: np.asarray(value, np.float32) for name, value in known.items()}

    def precise(self) -> ProgramAnatomy | None:
        """The program with every fp16 value declared as fp32."""
        if not self._half:
            return None
        whole = self._graph
        steps = tuple(replace(step, outputs=tuple(_wide(value) for value in step.outputs)) for step in whole.steps)
        inputs, outputs = (tuple(_wide(value) for value in values) for values in (whole.inputs, whole.outputs))
        wide = Graph(inputs, outputs, whole.constants, steps)
        return ProgramAnatomy(self.path, wide, self._functions, self._threads, "an fp16 program, computed in fp32")

    def close(self) -> None:
        self._executors.clear()

    def _cut(self, feeds: Mapping[str, Any], fetch: Sequence[str]) -> Executor:
        """An executor of the steps that are needed; readers of fed tensors read them under names of their own."""
        kept = slicing.needed(self._edges, feeds, fetch, set(self._graph.constants))
        steps = []
        read: set[str] = set()
        for position in kept:
            step = self._graph.steps[position]
            inputs = {
                key: tuple(f"{name}{_FED}" if name in feeds else name for name in names)
                for key, names in step.inputs.items()
            }
            read.update(name for names in inputs.values() for name in names)
            steps.append(replace(step, inputs=inputs))
        edges = [replace(self._values[name], name=f"{name}{_FED}") for name in feeds if f"{name}{_FED}" in read]
        made = {value.name for step in steps for value in step.outputs}
        outputs = tuple(self._values[name] for name in fetch if name in made)
        constants = {name: value for name, value in self._graph.constants.items() if name in read}
        try:
            return Executor(Graph(tuple(edges) or (_DUMMY,), outputs, constants, tuple(steps)), self._functions)
        except BackendError as error:
            raise BackendError(f"{self.path}: {error}") from error

    def _run(self, executor: Executor, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import torch

        taken = {f"{name}{_FED}": value for name, value in feeds.items()} or {_DUMMY.name: np.zeros(1, np.float32)}
        before = torch.get_num_threads()
        try:
            if self._threads:
                torch.set_num_threads(self._threads)
            found = executor.run(taken)
        except (BackendError, InputError) as error:
            raise type(error)(f"{self.path}: {error}") from error
        finally:
            torch.set_num_threads(before)
        if feeds:
            return found
        return {name: value.reshape(self.shapes[name]) for name, value in found.items()}

    def _op(self, step: Step) -> Op:
        names = [name for given in step.inputs.values() for name in given]
        moving = [name for name in names if name not in self._fixed]
        source, weight, family = moving[0] if moving else "", None, ""
        if step.kind in _WEIGHTED:
            held, data, which = _WEIGHTED[step.kind]
            if step.inputs[which][0] in self._fixed and step.inputs[data][0] not in self._fixed:
                family, source, weight = held, step.inputs[data][0], step.inputs[which][0]
        elif step.kind == "matmul" and len(moving) == 1:
            family, weight = "linear", next(step.inputs[key][0] for key in "xy" if step.inputs[key][0] in self._fixed)
        outputs = tuple(value.name for value in step.outputs)
        role = "" if family else self._role(step)
        return Op(outputs[0], step.kind, tuple(names), outputs, source, weight, family, role)

    def _role(self, step: Step) -> str:
        if step.kind in ("add", "sub", "mul", "real_div"):
            constant = [key for key in "xy" if step.inputs[key][0] in self._fixed]
            if not constant or (step.kind == "real_div" and "x" in constant):
                return ""
            return SHIFT if step.kind in ("add", "sub") else SCALE
        return _ROLES.get(step.kind, "")


def anatomy(path: Path, threads: int = 0) -> ProgramAnatomy:
    """Open a package to be cut. Raises as `runner.open_package`."""
    found = parse(package.read(path))
    if not found.inputs or not found.outputs:
        raise InputError(f"{path}: a program without {'outputs' if found.inputs else 'inputs'}")
    return ProgramAnatomy(path, found, None, threads)


def _wide(value: Value) -> Value:
    return replace(value, dtype="FLOAT32") if value.dtype == "FLOAT16" else value


def _single(whole: Graph) -> Graph:
    """The same with every value named once: networks of layers use a name again for another value."""
    current = {value.name: value.name for value in whole.inputs}
    used = set(current) | set(whole.constants)
    steps = []
    for step in whole.steps:
        inputs = {key: tuple(current.get(name, name) for name in names) for key, names in step.inputs.items()}
        outputs = []
        for value in step.outputs:
            name, number = value.name, 1
            while name in used:
                number += 1
                name = f"{value.name}#{number}"
            used.add(name)
            current[value.name] = name
            outputs.append(replace(value, name=name))
        steps.append(replace(step, inputs=inputs, outputs=tuple(outputs)))
    outputs = [replace(value, name=current.get(value.name, value.name)) for value in whole.outputs]
    return Graph(whole.inputs, tuple(outputs), whole.constants, tuple(steps))
