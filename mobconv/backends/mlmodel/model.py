"""The .mlmodel file: one Model message (Model.proto), read, checked and written; and its layers' parameters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobconv.backends.coreml.vendor import proto
from mobconv.errors import InputError

RECORD_KEY = "mobconv"
NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
# specification version -> the first system that reads it (coremltools: _SPECIFICATION_VERSION_IOS_11 and so on)
SYSTEMS = {1: "iOS11", 2: "iOS11.2", 3: "iOS12", 4: "iOS13", 5: "iOS14", 6: "iOS15", 7: "iOS16", 8: "iOS17", 9: "iOS18"}


def parse(data: bytes, name: Path) -> Any:
    """Bytes -> Model message that holds a neural network. Raises InputError for anything else."""
    spec = proto().Model_pb2.Model()
    try:
        spec.ParseFromString(data)
    except Exception as error:  # DecodeError, of whichever implementation of protobuf
        raise InputError(f"{name}: no Core ML model, or one that is cut short: {error}") from error
    kind = spec.WhichOneof("Type")
    if kind is None:
        raise InputError(f"{name}: {'no Core ML model, or one that is cut short' if data else 'the file is empty'}")
    if kind == "mlProgram":
        raise InputError(f"{name}: an ML Program without its weights, which lie in the .mlpackage that it is part of")
    if kind not in NETWORKS:
        raise InputError(f"{name}: the model is of type {kind}, and mobconv runs neural networks only")
    if not network(spec).layers:
        raise InputError(f"{name}: a neural network without layers")
    return spec


def read(path: Path) -> Any:
    """The Model message of a file. Raises InputError for what is no neural network."""
    if path.is_dir():
        raise InputError(f"{path}: an .mlmodel is a file, and this is a folder")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse(data, path)


def network(spec: Any) -> Any:
    """The message with the layers."""
    return getattr(spec, spec.WhichOneof("Type"))


def serialize(spec: Any) -> bytes:
    """A message as bytes, maps in a fixed order."""
    return bytes(spec.SerializeToString(deterministic=True))


def copied(spec: Any) -> Any:
    """The same message again, to be changed."""
    made = type(spec)()
    made.CopyFrom(spec)
    return made


@dataclass(frozen=True)
class Field:
    """One parameter of a layer.

    key      '<position of the layer>.<path of the field>'
    params   its WeightParams message
    shape    its shape, where it is a layer's weight
    axis     the axis that its scales run along; None where the format has one scale for all of it
    """

    key: str
    params: Any
    shape: tuple[int, ...] | None = None
    axis: int | None = None

    @property
    def position(self) -> int:
        return int(self.key.partition(".")[0])


def fields(layers: Any) -> Iterator[Field]:
    """All parameters of all layers, in order; those that are weights with their shapes."""
    for position, layer in enumerate(layers):
        kind = layer.WhichOneof("layer")
        held = getattr(layer, kind)
        for path, params in _params(held):
            shape, axis = weight_layout(kind, held) if path in ("weights", "data") else (None, None)
            yield Field(f"{position}.{path}", params, shape, axis)


# type of a layer -> the fields that are its weight's shape, output channels first
_MATRICES = {
    "innerProduct": ("outputChannels", "inputChannels"),
    "batchedMatmul": ("weightMatrixSecondDimension", "weightMatrixFirstDimension"),  # 'column major'
    "embedding": ("outputChannels", "inputDim"),
    "embeddingND": ("embeddingSize", "vocabSize"),
}


def weight_layout(kind: str, held: Any) -> tuple[tuple[int, ...] | None, int | None]:
    """Shape of a layer's weight, and the axis of its output channels: one scale for each is what the format allows.

    A deconvolution holds (in, out / groups, ..). In more than one group its scales would have to be spread over
    two axes, which no reader does alike, so these have one scale (axis None), as plain constants do.
    """
    if kind == "convolution" and held.isDeconvolution:
        groups = held.nGroups or 1
        return (held.kernelChannels, held.outputChannels // groups, *_window(held)), 1 if groups == 1 else None
    if kind == "convolution":
        return (held.outputChannels, held.kernelChannels, *_window(held)), 0
    if kind in _MATRICES:
        return tuple(getattr(held, size) for size in _MATRICES[kind]), 0
    return (tuple(held.shape), None) if kind in ("loadConstant", "loadConstantND") else (None, None)


def _window(held: Any) -> tuple[int, ...]:
    return tuple(held.kernelSize) or (3, 3)


def _params(message: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every WeightParams below a message that is set, by its path; networks within layers are left alone."""
    for descriptor, value in message.ListFields():
        kind = descriptor.message_type.name if descriptor.message_type is not None else ""
        if not hasattr(value, "ListFields"):  # several of a kind, as recurrent and custom layers have them
            continue
        if kind == "WeightParams":
            yield f"{path}{descriptor.name}", value
        elif kind != "NeuralNetwork":
            yield from _params(value, f"{path}{descriptor.name}.")
