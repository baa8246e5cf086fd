"""An opened file of Core ML: run by Core ML itself on a Mac, else by our own executor."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.apple.executor import Executor
from mobconv.backends.apple.vendor import coremltools, quiet
from mobconv.backends.base import TensorSpec
from mobconv.errors import BackendError, InputError

LABELS = {
    "emulated": "mobconv's own executor of Core ML files (emulated)",
    "macos": "Core ML, on macOS",
}  # by Runner.verified


class EmulatedRunner:
    """A file run by mobconv's executor, in torch."""

    verified = "emulated"

    def __init__(
        self,
        executor: Executor,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        record: str = "",
        threads: int = 0,
        labels: tuple[str, ...] = (),
    ) -> None:
        self.inputs, self.outputs, self.record, self.labels = inputs, outputs, record, labels
        self._executor: Executor | None = executor
        self._threads = threads

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runner.run`."""
        if self._executor is None:
            raise InputError("this runner is closed")
        if not self._threads:
            return self._executor.run(feeds)
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        try:
            return self._executor.run(feeds)
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """Free the weights."""
        self._executor = None


class NativeRunner:
    """A file run by Core ML on a Mac. model: has predict(dict) -> dict, as coremltools' MLModel.

    scores, labels: of a classifier, the name of the dictionary among its outputs, and its keys in the network's order.
    """

    verified = "macos"

    def __init__(
        self,
        model: Any,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        record: str = "",
        scores: str = "",
        labels: tuple[str, ...] = (),
    ) -> None:
        self.inputs, self.outputs, self.record, self.labels = inputs, outputs, record, labels
        self._model, self._scores = model, scores

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Runner.run`: one prediction for each declared batch."""
        batch = max(self.inputs[0].shape[0] if self.inputs[0].shape else 1, 1)
        rows = len(feeds[self.inputs[0].name])
        parts = []
        for start in range(0, rows, batch):
            which = np.minimum(np.arange(start, start + batch), rows - 1)
            outputs = self._model.predict({spec.name: _fed(feeds[spec.name][which], spec) for spec in self.inputs})
            parts.append({spec.name: self._output(outputs, spec) for spec in self.outputs})
        whole = {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.outputs}
        return {name: value[:rows] for name, value in whole.items()}

    def close(self) -> None:
        """Free the model."""
        self._model = None

    def _output(self, outputs: Mapping[str, Any], spec: TensorSpec) -> NDArray[Any]:
        """An output as an array; of a classifier, from its dictionary."""
        if self.labels and spec.name not in outputs:
            return np.array([[outputs[self._scores][label] for label in self.labels]], spec.dtype)
        return np.asarray(outputs[spec.name], spec.dtype)


def _fed(values: NDArray[Any], spec: TensorSpec) -> Any:
    """An input for `predict`: a picture where the file's input is an image, from (1, channels, H, W) of 0 to 255."""
    if not spec.colour:
        return np.asarray(values, spec.dtype)
    from PIL import Image

    pixels = np.clip(np.rint(values[0]), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    if spec.colour == "gray":
        return Image.fromarray(pixels[..., 0])
    # Core ML gets a picture, and puts the channels in the order that the file declares
    return Image.fromarray(np.ascontiguousarray(pixels[..., ::-1] if spec.colour == "bgr" else pixels))


def native_model(path: Path) -> Any:
    """The model loaded by Core ML, on a Mac. Raises BackendError with Core ML's message."""
    ct = coremltools()
    try:
        with quiet():
            return ct.models.MLModel(str(path))
    except Exception as error:
        raise BackendError(f"{path}: Core ML does not load it: {error}") from error
