"""An ONNX file, read from disk and run in ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import TensorSpec
from mobconv.errors import InputError

if TYPE_CHECKING:
    import onnx

_LARGE = 1 << 30  # bytes


class OnnxRunner:
    """See `Runner`. Raises InputError for a file that ONNX Runtime does not load."""

    verified = "runtime"
    labels: tuple[str, ...] = ()  # the format has no place for them; they are in the record

    def __init__(self, path: Path, threads: int = 0) -> None:
        if not path.is_file():
            raise InputError(f"{path}: no such ONNX file")
        self._session = session(path, threads)
        self.inputs = tuple(_spec(value) for value in self._session.get_inputs())
        self.outputs = tuple(_spec(value) for value in self._session.get_outputs())
        self.record: str = self._session.get_modelmeta().custom_metadata_map.get("mobconv", "")

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runner.run`; a file of a fixed batch is run several times. Raises InputError for a part of a batch."""
        total = len(next(iter(feeds.values())))
        fixed = self.inputs[0].shape[0]
        step = fixed if fixed > 0 else total
        if step and total % step:
            raise InputError(f"this file has a fixed batch of {step} samples: {total} is not a multiple of it")
        names = [spec.name for spec in self.outputs]
        parts: list[list[NDArray[Any]]] = []
        for start in range(0, total, step):
            parts.append(self._session.run(names, {name: feeds[name][start : start + step] for name in feeds}))
        return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}

    def close(self) -> None:
        """Close the session."""
        del self._session


def session(model: Path | onnx.ModelProto, threads: int, path: Path | None = None) -> Any:
    """An ONNX Runtime session of a file, or of a model in memory. Raises InputError for a model that does not load.

    threads: 0 for the runtime's choice; path: what messages call a model in memory.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="mobconv-") as scratch:
        try:
            source: str | bytes = str(model)
            if not isinstance(model, Path):
                source = _stored(model, Path(scratch) / "model.onnx")
            return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # pybind types without a common base
            raise InputError(f"{path or model}: ONNX Runtime cannot load this file: {error}") from error


def _stored(model: onnx.ModelProto, path: Path) -> str | bytes:
    """A model as bytes; as a file at `path` where it is near protobuf's limit of 2 GiB."""
    import onnx

    if model.ByteSize() < _LARGE:
        return bytes(model.SerializeToString())
    onnx.save(model, str(path), save_as_external_data=True)
    return str(path)


def _spec(value: Any) -> TensorSpec:
    """The spec of an input or output; symbolic dimensions become -1."""
    shape = tuple(length if isinstance(length, int) else -1 for length in value.shape)
    name = value.type.removeprefix("tensor(").removesuffix(")")
    kind = {"float": "float32", "double": "float64"}.get(name, name)
    return TensorSpec(value.name, shape, kind)
