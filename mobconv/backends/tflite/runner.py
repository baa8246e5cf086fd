"""A .tflite file from disk, run by the stock LiteRT interpreter (XNNPACK included, as it comes)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import TensorSpec
from mobconv.backends.tflite import metadata
from mobconv.backends.tflite.graph import RECORD_KEY
from mobconv.backends.tflite.quiet import quiet
from mobconv.errors import InputError

# Examples an invocation, where the graph takes more than it declares. With one thread an invocation an
# example is faster (its activations stay in the cache), with several the threads wait for each other at
# the end of every op, which costs more than a small op itself: 18 ms against 2 an image on a busy machine.
_BATCH = 32


class TFLiteRunner:
    """Satisfies `Runner`. Raises InputError for a file that is not TFLite or that the runtime refuses."""

    verified = "runtime"

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._threads = threads
        self._data, _, edges, held = read(path)
        self._record = held.get(RECORD_KEY, b"").decode()
        self._metadata = metadata.read(held.get(metadata.KEY, b""), self._data)
        self._declared = self._interpreter()
        self._inputs = [(self._spec(detail, edges), detail["index"]) for detail in self._declared.get_input_details()]
        if len(self._inputs) == 1:  # the metadata is about an image, and no more is known of several inputs
            said = self._metadata
            image = replace(self._inputs[0][0], colour=said.colour, mean=said.mean, std=said.std)
            self._inputs = [(image, self._inputs[0][1])]
        self._outputs = [(self._spec(detail, edges), detail["index"]) for detail in self._declared.get_output_details()]
        self._batched: Any = None  # an interpreter resized to _BATCH; None: not tried yet, False: cannot

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec, _ in self._inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec, _ in self._outputs)

    @property
    def record(self) -> str:
        return self._record

    @property
    def labels(self) -> tuple[str, ...]:
        return self._metadata.labels

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Named inputs (N, ...) -> named outputs (N, ...), for any N >= 1.

        Raises InputError for missing or unknown names and for shapes that the file does not take.
        """
        count = self._check(feeds)
        step = self._inputs[0][0].shape[0] if self._inputs[0][0].shape else 1
        interpreter = self._declared
        if self._threads > 1 and step == 1 and count >= _BATCH and self._can_batch(feeds):
            interpreter, step = self._batched, _BATCH
        if count == step:
            return self._invoke(interpreter, feeds)
        pieces = []
        for start in range(0, count, step):
            piece = {name: value[start : start + step] for name, value in feeds.items()}
            short = step - min(step, count - start)
            if short:  # the last piece is filled up with its own last example
                piece = {name: np.concatenate([v, np.repeat(v[-1:], short, axis=0)]) for name, v in piece.items()}
            found = self._invoke(interpreter, piece)
            pieces.append({name: value[: step - short] for name, value in found.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def close(self) -> None:
        """Free the interpreters. Running afterwards is an error of the caller."""
        self._declared = self._batched = None

    def _interpreter(self, batch: int | None = None) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        try:
            with quiet():
                interpreter = Interpreter(model_content=self._data, num_threads=self._threads or None)
                if batch is not None:
                    for spec, index in self._inputs:
                        interpreter.resize_tensor_input(index, [batch, *spec.shape[1:]])
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            notes = " ".join([str(error).splitlines()[0], *getattr(error, "__notes__", [])])
            raise InputError(f"{self._path}: the TFLite runtime does not take this file: {notes}") from error
        return interpreter

    def _can_batch(self, feeds: Mapping[str, NDArray[Any]]) -> bool:
        """Whether the graph, resized, gives what it gives for single examples. Tried once, on real ones."""
        if self._batched is None:
            self._batched = False
            piece = {name: value[:_BATCH] for name, value in feeds.items()}
            try:
                resized = self._interpreter(_BATCH)
                together = self._invoke(resized, piece)
            except (InputError, ValueError):  # a batch of one is built into the graph
                return False
            for i in (0, 1, _BATCH - 1):
                alone = self._invoke(self._declared, {name: value[i : i + 1] for name, value in piece.items()})
                if not all(_same(alone[name], together[name], i) for name in alone):
                    return False
            self._batched = resized
        return self._batched is not False

    def _invoke(self, interpreter: Any, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        for spec, index in self._inputs:
            interpreter.set_tensor(index, np.ascontiguousarray(feeds[spec.name], spec.dtype))
        try:
            interpreter.invoke()
        except RuntimeError as error:
            raise InputError(f"{self._path}: the TFLite runtime cannot run this file: {error}") from error
        return {spec.name: interpreter.get_tensor(index) for spec, index in self._outputs}

    def _check(self, feeds: Mapping[str, NDArray[Any]]) -> int:
        if set(feeds) != {spec.name for spec in self.inputs}:
            wanted = ", ".join(spec.name for spec in self.inputs)
            raise InputError(f"{self._path} takes {wanted}, and was given {', '.join(feeds) or 'nothing'}")
        counts = set()
        for spec in self.inputs:
            shape = feeds[spec.name].shape
            if len(shape) != len(spec.shape) or shape[1:] != spec.shape[1:] or not shape or shape[0] == 0:
                raise InputError(
                    f"{self._path}: {spec.name} is {list(spec.shape)} in the file, {list(shape)} was given"
                )
            counts.add(shape[0])
        if len(counts) != 1:
            raise InputError(f"{self._path}: its inputs were given different batches: {sorted(counts)}")
        return int(counts.pop())

    @staticmethod
    def _spec(detail: Mapping[str, Any], edges: Mapping[int, str]) -> TensorSpec:
        shape = tuple(int(length) for length in detail["shape"])
        scale, zero = detail["quantization"]
        name, dtype = edges.get(detail["index"], detail["name"]), np.dtype(detail["dtype"]).name
        return TensorSpec(name, shape, dtype, quantization=(float(scale), int(zero)) if scale else None)


def run_bytes(data: bytes, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run a file that is not on disk once, at its declared shapes; names as in its signature."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        runner = Interpreter(model_content=data).get_signature_runner()
        declared = runner.get_input_details()
        typed = {name: value.astype(declared[name]["dtype"]) for name, value in feeds.items()}
        found: dict[str, NDArray[Any]] = runner(**typed)
    return found


def _same(alone: NDArray[Any], together: NDArray[Any], i: int) -> bool:
    if together.shape != (_BATCH, *alone.shape[1:]):
        return False
    # kernels may add in another order: a few units in the last place, as between two runtimes
    return bool(np.abs(alone[0] - together[i]).max(initial=0.0) <= 1e-5 * np.abs(alone[0]).max(initial=0.0))


def read(path: Path) -> tuple[bytes, Any, dict[int, str], dict[str, bytes]]:
    """The bytes of a file, its tables as objects, tensor number -> name at its edges, its metadata by key.

    Raises InputError for a file of which any offset points outside.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(data) < 8 or data[4:8] != b"TFL3":
        what = "is empty" if not data else "is no TFLite file (its identifier TFL3 is missing)"
        raise InputError(f"{path} {what}")
    try:
        return (data, *_parsed(data))
    except Exception as error:  # whatever a reader of bytes meets in bytes that are not what it expects
        raise InputError(f"{path} is damaged or cut short: its tables point outside the file") from error


def _parsed(data: bytes) -> tuple[Any, dict[int, str], dict[str, bytes]]:
    """The tables; tensor number -> name in the signature, where there is one signature; the metadata by key.

    Reads every table of the flatbuffer on the way and checks every number that points at another, which
    the runtime, trusting them, does not do. Raises whatever Python meets in bytes of another kind.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    _check_range([0], len(model.subgraphs))
    for graph in model.subgraphs:
        _check_range((tensor.buffer for tensor in graph.tensors), len(model.buffers))
        _check_range([*graph.inputs, *graph.outputs], len(graph.tensors))
        _check_range((operator.opcodeIndex for operator in graph.operators), len(model.operatorCodes))
        for operator in graph.operators:
            # -1 is an optional input that is not there
            _check_range((i for i in [*operator.inputs, *operator.outputs] if i != -1), len(graph.tensors))
    held = {entry.name.decode(): bytes(_buffer(model, entry.buffer)) for entry in model.metadata or []}
    signatures = model.signatureDefs or []
    if len(signatures) != 1:
        return model, {}, held
    entries = [*(signatures[0].inputs or []), *(signatures[0].outputs or [])]
    return model, {entry.tensorIndex: entry.name.decode() for entry in entries}, held


def _buffer(model: Any, number: int) -> Any:
    _check_range([number], len(model.buffers))
    data = model.buffers[number].data
    return b"" if data is None else data


def _check_range(indices: Iterable[int], count: int) -> None:
    for index in indices:
        if not 0 <= index < count:
            raise ValueError(f"{index} of {count}")
