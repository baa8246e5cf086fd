"""A TFLite file, cut: see `mobconv.anatomy.Anatomy`. Its parts are files of their own to the stock interpreter.

Tensors are known by their number, as text.
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

_HELD = 4  # interpreters of cuts that are kept


class TFLiteAnatomy:
    """See `mobconv.anatomy.Anatomy`. Raises InputError for a file that is not TFLite."""

    layout = "nhwc"

    def __init__(self, path: Path, threads: int = 0) -> None:
        from ai_edge_litert.tools import flatbuffer_utils

        self.path, self._threads = path, threads
        data, _, _, _ = read(path)
        self._model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
        if len(self._model.subgraphs) != 1:
            raise BackendError(f"{path}: {len(self._model.subgraphs)} subgraphs (control flow); mobconv compares one")
        held = self._model.subgraphs[0]
        self._tensors, self._operators = list(held.tensors), list(held.operators)
        self._edges = [
            ([str(i) for i in each.inputs if i >= 0], [str(i) for i in each.outputs if i >= 0])
            for each in self._operators
        ]
        self._constants = {
            str(i) for i, tensor in enumerate(self._tensors) if self._model.buffers[tensor.buffer].data is not None
        }
        self._fixed = slicing.fixed(self._edges, self._constants)
        self.inputs = tuple(str(i) for i in held.inputs)
        self.outputs = tuple(str(i) for i in held.outputs)
        self.shapes = {
            str(i): tuple(int(n) for n in (tensor.shape if tensor.shape is not None else ()))
            for i, tensor in enumerate(self._tensors)
        }
        self.batch = self.shapes[self.inputs[0]][0] if self.inputs and self.shapes[self.inputs[0]] else 1
        codes = [operators.code(self._model, each) for each in self._operators]
        self.ops: tuple[Op, ...] = tuple(
            operators.op(self._tensors, each, kind, self._fixed)
            for each, kind in zip(self._operators, codes, strict=True)
            if not all(str(i) in self._fixed for i in each.outputs)
        )
        moving = [i for i in range(len(self._tensors)) if str(i) not in self._fixed]
        kinds = {operators.type_name(self._tensors[i]) for i in moving}
        hybrid = [op for op in self.ops if op.weight and operators.is_coded(self._tensors[int(op.weight)])]
        self.note = "computed in fp32"
        if kinds & {"INT8", "UINT8", "INT16"}:
            self.note = "activations in integers: integer kernels, which cannot be run in fp32"
        elif hybrid:
            self.note = "activations rounded to 8 bits as it runs: integer kernels, which cannot be run in fp32"
        self._interpreters: dict[tuple[frozenset[str], tuple[str, ...]], Any] = {}

    def settle(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Shapes are the file's own."""

    def run(self, feeds: Mapping[str, NDArray[Any]], fetch: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `Anatomy.run`."""
        if not feeds:
            return self._decoded(fetch)
        key = frozenset(feeds), tuple(fetch)
        if key not in self._interpreters:
            self._interpreters[key] = self._cut(feeds, fetch)
            if len(self._interpreters) > _HELD:
                self._interpreters.pop(next(iter(self._interpreters)))
        interpreter, sources, targets = self._interpreters[key]
        typed = {name: self._typed(name, feeds[name]) for name in sources}
        lengths = {name: self.shapes[name][0] if self.shapes[name] else 1 for name in typed}
        for name, value in typed.items():
            if value.shape[1:] != self.shapes[name][1:]:
                raise InputError(f"{self.path}: takes {list(self.shapes[name])}, and was given {list(value.shape)}")

        def once(part: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
            for name, value in part.items():
                interpreter.set_tensor(sources[name], value)
            try:
                interpreter.invoke()
            except RuntimeError as error:
                raise InputError(f"{self.path}: the TFLite runtime cannot run this file: {error}") from error
            return {name: interpreter.get_tensor(index) for name, index in targets.items()}

        found = slicing.in_batches(typed, lengths, once)
        return {name: self._floats(name, found[name]) if name in found else feeds[name] for name in fetch}

    def precise(self) -> None:
        """The runtime computes in what the file says: see `note`."""

    def close(self) -> None:
        self._interpreters.clear()

    def _decoded(self, fetch: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        found: dict[str, NDArray[np.float32]] = {}
        computed = []
        for name in fetch:
            if name in self._constants:
                tensor = self._tensors[int(name)]
                found[name] = operators.constant(tensor, self._model.buffers[tensor.buffer].data, self.path)
            else:
                computed.append(name)
        if computed:
            interpreter, _, targets = self._cut({}, computed)
            with quiet():
                interpreter.invoke()
            found |= {name: np.asarray(interpreter.get_tensor(targets[name]), np.float32) for name in computed}
        return found

    def _typed(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        tensor = self._tensors[int(name)]
        kind = operators.numpy_type(tensor)
        if value.dtype.kind == "f" and np.dtype(kind).kind in "iu":
            return operators.quantized(tensor, value)
        return np.ascontiguousarray(value, kind)

    def _floats(self, name: str, value: NDArray[Any]) -> NDArray[Any]:
        tensor = self._tensors[int(name)]
        if value.dtype.kind in "iu" and operators.is_coded(tensor):
            return operators.dequantized(tensor, value)
        return value

    def _cut(self, feeds: Mapping[str, Any], fetch: Sequence[str]) -> tuple[Any, dict[str, int], dict[str, int]]:
        """An interpreter of the ops that are needed; the numbers of its inputs and outputs, by tensor.

        Numbers stay as in the file. A fed tensor that is also computed is fed under a number of its own.
        """
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
        from ai_edge_litert.tools import flatbuffer_utils

        kept = slicing.needed(self._edges, feeds, fetch, self._constants)
        made = {name for position in kept for name in self._edges[position][1]}
        read = {name for position in kept for name in self._edges[position][0]}
        tensors = [copy.copy(tensor) for tensor in self._tensors]
        sources: dict[str, int] = {}
        for name in feeds:
            if name in read:
                sources[name] = int(name)
                if name in made:
                    tensors.append(copy.copy(tensors[int(name)]))
                    sources[name] = len(tensors) - 1
        moved = {int(name): index for name, index in sources.items()}
        targets = {name: int(name) for name in fetch if name in made}
        model, held = copy.copy(self._model), copy.copy(self._model.subgraphs[0])
        model.subgraphs, model.signatureDefs, model.metadata = [held], None, None
        held.tensors = tensors
        held.operators = [copy.copy(self._operators[position]) for position in kept]
        for operator in held.operators:
            operator.inputs = [moved.get(i, i) for i in operator.inputs]
        held.inputs, held.outputs = list(sources.values()), list(targets.values())
        used = {tensors[i].buffer for operator in held.operators for i in operator.inputs if i >= 0}
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
            raise InputError(f"{self.path}: the TFLite runtime does not take this part of the file: {first}") from error
        return interpreter, sources, targets


def anatomy(path: Path, threads: int = 0) -> TFLiteAnatomy:
    """Open a file to be cut. Raises InputError for what is no TFLite file."""
    return TFLiteAnatomy(path, threads)
