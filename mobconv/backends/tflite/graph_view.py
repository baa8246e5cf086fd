"""A TFLite file as a graph that can be cut: its parts are files of their own to the stock interpreter.

A tensor's name in the view is its number in the file, as text.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import Op, slicing
from mobconv.backends.tflite import operators
from mobconv.backends.tflite.quiet import quiet
from mobconv.backends.tflite.runner import read
from mobconv.errors import BackendError, InputError

_KEPT = 4  # interpreters of cuts


class TFLiteGraphView:
    """See `mobconv.backends.graph_view.GraphView`. Raises InputError for a file that is not TFLite."""

    layout = "nhwc"

    def __init__(self, path: Path, threads: int = 0) -> None:
        from ai_edge_litert.tools import flatbuffer_utils

        self.path, self._threads = path, threads
        data, _, _, _ = read(path)
        self._model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
        if len(self._model.subgraphs) != 1:
            raise BackendError(f"{path}: {len(self._model.subgraphs)} subgraphs (control flow); mobconv compares one")
        subgraph = self._model.subgraphs[0]
        self._tensors, self._operators = list(subgraph.tensors), list(subgraph.operators)
        self._edges = [
            ([str(i) for i in operator.inputs if i >= 0], [str(i) for i in operator.outputs if i >= 0])
            for operator in self._operators
        ]
        self._constants = {
            str(i) for i, tensor in enumerate(self._tensors) if self._model.buffers[tensor.buffer].data is not None
        }
        self._fixed = slicing.fixed(self._edges, self._constants)
        self.inputs = tuple(str(i) for i in subgraph.inputs)
        self.outputs = tuple(str(i) for i in subgraph.outputs)
        self.shapes = {
            str(i): tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ()))
            for i, tensor in enumerate(self._tensors)
        }
        self.batch = self.shapes[self.inputs[0]][0] if self.inputs and self.shapes[self.inputs[0]] else 1
        kinds = [operators.code(self._model, operator) for operator in self._operators]
        self.ops: tuple[Op, ...] = tuple(
            operators.op(self._tensors, operator, kind, self._fixed)
            for operator, kind in zip(self._operators, kinds, strict=True)
            if not all(str(i) in self._fixed for i in operator.outputs)
        )
        moving = [i for i in range(len(self._tensors)) if str(i) not in self._fixed]
        types = {operators.type_name(self._tensors[i]) for i in moving}
        hybrid = [op for op in self.ops if op.weight and operators.is_coded(self._tensors[int(op.weight)])]
        self.note = "computed in fp32"
        if types & {"INT8", "UINT8", "INT16"}:
            self.note = "activations in integers: integer kernels, which cannot run in fp32"
        elif hybrid:
            self.note = "activations rounded to 8 bits as it runs: integer kernels, which cannot run in fp32"
        self._interpreters: dict[tuple[frozenset[str], tuple[str, ...]], Any] = {}

    def settle(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Nothing to settle: all shapes are fixed in the file."""

    def run(self, feeds: Mapping[str, NDArray[Any]], fetch: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `GraphView.run`."""
        if not feeds:
            return self._decoded(fetch)
        key = frozenset(feeds), tuple(fetch)
        if key not in self._interpreters:
            self._interpreters[key] = self._cut(feeds, fetch)
            if len(self._interpreters) > _KEPT:
                self._interpreters.pop(next(iter(self._interpreters)))
        interpreter, sources, targets = self._interpreters[key]
        typed = {name: self._typed(name, feeds[name]) for name in sources}
        lengths = {name: self.shapes[name][0] if self.shapes[name] else 1 for name in typed}
        for name, value in typed.items():
            if value.shape[1:] != self.shapes[name][1:]:
                raise InputError(
                    f"{self.path}: tensor {name} has shape {list(self.shapes[name])}, {list(value.shape)} was given"
                )

        def once(part: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
            for name, value in part.items():
                interpreter.set_tensor(sources[name], value)
            try:
                interpreter.invoke()
            except RuntimeError as error:
                raise InputError(f"{self.path}: the TFLite runtime cannot run this file: {error}") from error
            return {name: interpreter.get_tensor(index) for name, index in targets.items()}

        results = slicing.in_batches(typed, lengths, once)
        return {name: self._floats(name, results[name]) if name in results else feeds[name] for name in fetch}

    def precise(self) -> None:
        """None: the runtime computes in the types that the file declares; see `note`."""

    def close(self) -> None:
        """Free all interpreters."""
        self._interpreters.clear()

    def _decoded(self, fetch: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Constants in float32: decoded here where they are stored, else computed by the interpreter."""
        values: dict[str, NDArray[np.float32]] = {}
        computed = []
        for name in fetch:
            if name in self._constants:
                tensor = self._tensors[int(name)]
                values[name] = operators.constant(tensor, self._model.buffers[tensor.buffer].data, self.path)
            else:
                computed.append(name)
        if computed:
            interpreter, _, targets = self._cut({}, computed)
            with quiet():
                interpreter.invoke()
            values |= {name: np.asarray(interpreter.get_tensor(targets[name]), np.float32) for name in computed}
        return values

    def _typed(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """An array in the tensor's own type, quantized where that is an integer one."""
        tensor = self._tensors[int(name)]
        kind = operators.numpy_type(tensor)
        if value.dtype.kind == "f" and np.dtype(kind).kind in "iu":
            return operators.quantized(tensor, value)
        return np.ascontiguousarray(value, kind)

    def _floats(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        """Codes dequantized; other values as they are."""
        tensor = self._tensors[int(name)]
        if value.dtype.kind in "iu" and operators.is_coded(tensor):
            return operators.dequantized(tensor, value)
        return value

    def _cut(self, feeds: Mapping[str, Any], fetch: Sequence[str]) -> tuple[Any, dict[str, int], dict[str, int]]:
        """An interpreter of the ops that compute `fetch` from `feeds`; the numbers of its inputs and outputs by name.

        Numbers stay those of the file. A fed tensor that the ops compute as well gets a second number, which is fed.
        """
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
        from ai_edge_litert.tools import flatbuffer_utils

        kept = slicing.needed(self._edges, feeds, fetch, self._constants)
        computed = {name for position in kept for name in self._edges[position][1]}
        read = {name for position in kept for name in self._edges[position][0]}
        tensors = [copy.copy(tensor) for tensor in self._tensors]
        sources: dict[str, int] = {}
        for name in feeds:
            if name in read:
                sources[name] = int(name)
                if name in computed:
                    tensors.append(copy.copy(tensors[int(name)]))
                    sources[name] = len(tensors) - 1
        moved = {int(name): index for name, index in sources.items()}
        targets = {name: int(name) for name in fetch if name in computed}
        model, subgraph = copy.copy(self._model), copy.copy(self._model.subgraphs[0])
        model.subgraphs, model.signatureDefs, model.metadata = [subgraph], None, None
        subgraph.tensors = tensors
        subgraph.operators = [copy.copy(self._operators[position]) for position in kept]
        for operator in subgraph.operators:
            operator.inputs = [moved.get(i, i) for i in operator.inputs]
        subgraph.inputs, subgraph.outputs = list(sources.values()), list(targets.values())
        used = {tensors[i].buffer for operator in subgraph.operators for i in operator.inputs if i >= 0}
        empty = type(self._model.buffers[0])()
        model.buffers = [buffer if i in used else empty for i, buffer in enumerate(self._model.buffers)]
        try:
            with quiet():
                content = bytes(flatbuffer_utils.convert_object_to_bytearray(model))
                # XNNPACK refuses graphs without inputs
                resolver = OpResolverType.AUTO if sources else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
                interpreter = Interpreter(
                    model_content=content,
                    num_threads=self._threads or None,
                    experimental_op_resolver_type=resolver,
                )
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            first = str(error).partition("\n")[0]
            raise InputError(f"{self.path}: the TFLite runtime refuses this part of the file: {first}") from error
        return interpreter, sources, targets


def open_graph(path: Path, threads: int = 0) -> TFLiteGraphView:
    """Open a file as a graph view. Raises InputError for a missing file, and for another kind of file."""
    return TFLiteGraphView(path, threads)
