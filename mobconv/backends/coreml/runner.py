"""Opening a package: in Core ML itself where there is one, else through our own executor."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Runner, TensorSpec
from mobconv.backends.coreml import image, package
from mobconv.backends.coreml.executor import Executor
from mobconv.backends.coreml.graph import parse, tensor_spec
from mobconv.backends.coreml.rewrite import RECORD_KEY
from mobconv.backends.coreml.vendor import coremltools, quiet
from mobconv.errors import BackendError, InputError


def open_package(path: Path, threads: int = 0, platform: str = sys.platform) -> Runner:
    """Read a package and make it ready to run; weights are decoded here, once.

    Raises InputError for what is no whole package, BackendError for a program that cannot be run here.
    """
    found = package.read(path)
    graph = parse(found)
    colours = image.colours(found.spec)
    inputs = tuple(tensor_spec(value, found, colours.get(value.name, "")) for value in graph.inputs)
    outputs = tuple(tensor_spec(value, found) for value in graph.outputs)
    if not inputs or not outputs:
        raise InputError(f"{path}: a program without {'outputs' if inputs else 'inputs'}")
    record = str(found.spec.description.metadata.userDefined.get(RECORD_KEY, ""))
    if platform == "darwin":
        scores = str(found.spec.description.predictedProbabilitiesName)
        return NativeRunner(native_model(path), inputs, outputs, record, scores, graph.labels)
    try:
        return EmulatedRunner(Executor(graph), inputs, outputs, record, threads, graph.labels)
    except BackendError as error:
        raise BackendError(f"{path}: {error}") from error


class EmulatedRunner:
    """A package run by mobconv's executor, in torch."""

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
        """See base.Runner. Raises InputError for arrays that do not fit."""
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
        """Let go of the weights."""
        self._executor = None


class NativeRunner:
    """A package run by Core ML on a Mac. model: has predict(dict) -> dict, as coremltools' MLModel.

    scores, labels: of a classifier, the dictionary among its outputs, and its keys in the order of the network.
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
        """See base.Runner: as many predictions as the declared batch needs."""
        batch = max(self.inputs[0].shape[0] if self.inputs[0].shape else 1, 1)
        rows = len(feeds[self.inputs[0].name])
        parts = []
        for start in range(0, rows, batch):
            which = np.minimum(np.arange(start, start + batch), rows - 1)
            found = self._model.predict({spec.name: _fed(feeds[spec.name][which], spec) for spec in self.inputs})
            parts.append({spec.name: self._output(found, spec) for spec in self.outputs})
        whole = {spec.name: np.concatenate([part[spec.name] for part in parts]) for spec in self.outputs}
        return {name: value[:rows] for name, value in whole.items()}

    def close(self) -> None:
        """Let go of the model."""
        self._model = None

    def _output(self, found: Mapping[str, Any], spec: TensorSpec) -> NDArray[Any]:
        if self.labels and spec.name not in found:
            return np.array([[found[self._scores][label] for label in self.labels]], spec.dtype)
        return np.asarray(found[spec.name], spec.dtype)


def _fed(values: NDArray[Any], spec: TensorSpec) -> Any:
    """An input as `predict` takes it: an image where the file says so, from (1, channels, H, W) of 0 to 255."""
    if not spec.colour:
        return np.asarray(values, spec.dtype)
    from PIL import Image

    pixels = np.clip(np.rint(values[0]), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    if spec.colour == "gray":
        return Image.fromarray(pixels[..., 0])
    # Core ML is given a picture, and itself puts the channels in the order that the file asks for
    return Image.fromarray(np.ascontiguousarray(pixels[..., ::-1] if spec.colour == "bgr" else pixels))


def native_model(path: Path) -> Any:
    """The model as Core ML loads it, which takes a Mac. Raises BackendError with its own words."""
    ct = coremltools()
    try:
        with quiet():
            return ct.models.MLModel(str(path))
    except Exception as error:
        raise BackendError(f"{path}: Core ML does not load it: {error}") from error
