"""A .tflite file from disk, run by the stock LiteRT interpreter, with its default delegate XNNPACK."""

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

# Samples of an invocation, where the graph runs more than it declares. With one thread, one sample an invocation is
# faster (its activations stay in the cache); with several, threads wait for each other at the end of every op, which
# costs more than a small op itself: 18 ms against 2 ms for an image on a busy machine.
_BATCH = 32


class TFLiteRunner:
    """See `Runner`. Raises InputError for a file that is not TFLite, and for one that the runtime refuses."""

    verified = "runtime"

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._threads = threads
        self._data, _, names, entries = read(path)
        self._record = entries.get(RECORD_KEY, b"").decode()
        self._metadata = metadata.read(entries.get(metadata.KEY, b""), self._data)
        self._declared = self._interpreter()
        self._inputs = [(self._spec(detail, names), detail["index"]) for detail in self._declared.get_input_details()]
        if len(self._inputs) == 1:  # the metadata describes one image; with several inputs it is not known which
            stated = self._metadata
            image = replace(self._inputs[0][0], colour=stated.colour, mean=stated.mean, std=stated.std)
            self._inputs = [(image, self._inputs[0][1])]
        self._outputs = [(self._spec(detail, names), detail["index"]) for detail in self._declared.get_output_details()]
        self._batched: Any = None  # an interpreter resized to _BATCH; None: not tried yet, False: not possible

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

        Raises InputError for missing or unknown names, and for other shapes than the file declares.
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
            if short:  # the last piece is padded with its own last sample
                piece = {name: np.concatenate([v, np.repeat(v[-1:], short, axis=0)]) for name, v in piece.items()}
            outputs = self._invoke(interpreter, piece)
            pieces.append({name: value[: step - short] for name, value in outputs.items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def close(self) -> None:
        """Free the interpreters. The runner cannot run afterwards."""
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
            raise InputError(f"{self._path}: the TFLite runtime refuses this file: {notes}") from error
        return interpreter

    def _can_batch(self, feeds: Mapping[str, NDArray[Any]]) -> bool:
        """Whether the graph, resized to _BATCH, computes the same as sample by sample. Tried once, on real samples."""
        if self._batched is None:
            self._batched = False
            piece = {name: value[:_BATCH] for name, value in feeds.items()}
            try:
                resized = self._interpreter(_BATCH)
                together = self._invoke(resized, piece)
            except (InputError, ValueError):  # the graph has a batch of one built in
                return False
            for i in (0, 1, _BATCH - 1):
                single = self._invoke(self._declared, {name: value[i : i + 1] for name, value in piece.items()})
                if not all(_same(single[name], together[name], i) for name in single):
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
            raise InputError(f"{self._path} has the inputs {wanted}; given: {', '.join(feeds) or 'none'}")
        counts = set()
        for spec in self.inputs:
            shape = feeds[spec.name].shape
            if len(shape) != len(spec.shape) or shape[1:] != spec.shape[1:] or not shape or shape[0] == 0:
                raise InputError(
                    f"{self._path}: {spec.name} is {list(spec.shape)} in the file, {list(shape)} was given"
                )
            counts.add(shape[0])
        if len(counts) != 1:
            raise InputError(f"{self._path}: its inputs were given different numbers of samples: {sorted(counts)}")
        return int(counts.pop())

    @staticmethod
    def _spec(detail: Mapping[str, Any], names: Mapping[int, str]) -> TensorSpec:
        """The spec of an input or output. names: of the signature, by tensor number."""
        shape = tuple(int(length) for length in detail["shape"])
        scale, zero = detail["quantization"]
        name, dtype = names.get(detail["index"], detail["name"]), np.dtype(detail["dtype"]).name
        return TensorSpec(name, shape, dtype, quantization=(float(scale), int(zero)) if scale else None)


def run_bytes(data: bytes, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run the bytes of a file once, at its declared shapes. Inputs and outputs go by the names of its signature."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        runner = Interpreter(model_content=data).get_signature_runner()
        declared = runner.get_input_details()
        typed = {name: value.astype(declared[name]["dtype"]) for name, value in feeds.items()}
        outputs: dict[str, NDArray[Any]] = runner(**typed)
    return outputs


def _same(single: NDArray[Any], together: NDArray[Any], i: int) -> bool:
    """Whether row i of a batch is the result of one sample, up to rounding."""
    if together.shape != (_BATCH, *single.shape[1:]):
        return False
    # kernels may add in another order: a few units in the last place, as between two runtimes
    return bool(np.abs(single[0] - together[i]).max(initial=0.0) <= 1e-5 * np.abs(single[0]).max(initial=0.0))


def read(path: Path) -> tuple[bytes, Any, dict[int, str], dict[str, bytes]]:
    """The bytes of a file, its tables as objects, names of inputs and outputs by tensor number, metadata by key.

    Raises InputError for a file with an offset that points outside of it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(data) < 8 or data[4:8] != b"TFL3":
        fault = "is empty" if not data else "is not a TFLite file (its identifier TFL3 is missing)"
        raise InputError(f"{path} {fault}")
    try:
        return (data, *_parsed(data))
    except Exception as error:  # any error that reading unexpected bytes can raise
        raise InputError(f"{path} is damaged or truncated: its tables point outside the file") from error


def _parsed(data: bytes) -> tuple[Any, dict[int, str], dict[str, bytes]]:
    """The tables, names of the signature by tensor number (empty unless there is one signature), metadata by key.

    Every table of the flatbuffer is read, and every number that points at another is checked: the runtime trusts them.
    Raises any error that reading unexpected bytes can raise.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    _check_range([0], len(model.subgraphs))
    for graph in model.subgraphs:
        _check_range((tensor.buffer for tensor in graph.tensors), len(model.buffers))
        _check_range([*graph.inputs, *graph.outputs], len(graph.tensors))
        _check_range((operator.opcodeIndex for operator in graph.operators), len(model.operatorCodes))
        for operator in graph.operators:
            # -1 is an optional input that is not given
            _check_range((i for i in [*operator.inputs, *operator.outputs] if i != -1), len(graph.tensors))
    entries = {entry.name.decode(): bytes(_buffer(model, entry.buffer)) for entry in model.metadata or []}
    signatures = model.signatureDefs or []
    if len(signatures) != 1:
        return model, {}, entries
    tensors = [*(signatures[0].inputs or []), *(signatures[0].outputs or [])]
    return model, {tensor.tensorIndex: tensor.name.decode() for tensor in tensors}, entries


def _buffer(model: Any, number: int) -> Any:
    _check_range([number], len(model.buffers))
    data = model.buffers[number].data
    return b"" if data is None else data


def _check_range(indices: Iterable[int], count: int) -> None:
    for index in indices:
        if not 0 <= index < count:
            raise ValueError(f"{index} of {count}")
