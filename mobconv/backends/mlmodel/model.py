"""The .mlmodel file: one Model message (Model.proto), read, checked and written; and the parameters of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobconv.backends.apple.vendor import proto
from mobconv.errors import InputError

NETWORKS = ("neuralNetwork", "neuralNetworkClassifier", "neuralNetworkRegressor")
# specification version -> the first system that reads it (coremltools: _SPECIFICATION_VERSION_IOS_11 and so on)
SYSTEMS = {1: "iOS11", 2: "iOS11.2", 3: "iOS12", 4: "iOS13", 5: "iOS14", 6: "iOS15", 7: "iOS16", 8: "iOS17", 9: "iOS18"}


def parse(data: bytes, name: Path) -> Any:
    """Bytes -> Model message with a neural network. Raises InputError for anything else."""
    spec = proto().Model_pb2.Model()
    try:
        spec.ParseFromString(data)
    except Exception as error:  # DecodeError, which each implementation of protobuf has its own of
        raise InputError(f"{name}: not a Core ML model, or truncated: {error}") from error
    kind = spec.WhichOneof("Type")
    if kind is None:
        raise InputError(f"{name}: {'not a Core ML model, or truncated' if data else 'the file is empty'}")
    if kind == "mlProgram":
        raise InputError(f"{name}: an ML Program without its weights, which are in the .mlpackage that it is part of")
    if kind not in NETWORKS:
        raise InputError(f"{name}: the model is of type {kind}; in .mlmodel files, mobconv runs neural networks only")
    if not network(spec).layers:
        raise InputError(f"{name}: a neural network without layers")
    return spec


def read(path: Path) -> Any:
    """The Model message of a file. Raises InputError for a missing, foreign or damaged one."""
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
    """A copy of a message, to be changed."""
    copy = type(spec)()
    copy.CopyFrom(spec)
    return copy


@dataclass(frozen=True)
class Field:
    """One parameter of a layer.

    key      '<position of the layer>.<path of the field>'
    params   its WeightParams message
    shape    of a layer's weight; None for other parameters
    axis     of the output channels, which may have a scale each; None where the format has one scale for all
    """

    key: str
    params: Any
    shape: tuple[int, ...] | None = None
    axis: int | None = None

    @property
    def position(self) -> int:
        """Of its layer."""
        return int(self.key.partition(".")[0])


def fields(layers: Any) -> Iterator[Field]:
    """All parameters of all layers, in order; weights with their shapes."""
    for position, layer in enumerate(layers):
        kind = layer.WhichOneof("layer")
        message = getattr(layer, kind)
        for path, params in _params(message):
            shape, axis = weight_layout(kind, message) if path in ("weights", "data") else (None, None)
            yield Field(f"{position}.{path}", params, shape, axis)


# type of a layer -> fields with its weight's shape, output channels first
_MATRICES = {
    "innerProduct": ("outputChannels", "inputChannels"),
    "batchedMatmul": ("weightMatrixSecondDimension", "weightMatrixFirstDimension"),  # 'column major'
    "embedding": ("outputChannels", "inputDim"),
    "embeddingND": ("embeddingSize", "vocabSize"),
}


def weight_layout(kind: str, message: Any) -> tuple[tuple[int, ...] | None, int | None]:
    """Shape of a layer's weight, and the axis of its output channels, which may have a scale each.

    message: of the layer's parameters. A deconvolution has (in, out / groups, ..). With more than one group its
    channels are on two axes, which readers treat differently, so it has one scale (axis None), as constants have.
    """
    if kind == "convolution" and message.isDeconvolution:
        groups = message.nGroups or 1
        return (message.kernelChannels, message.outputChannels // groups, *_window(message)), 1 if groups == 1 else None
    if kind == "convolution":
        return (message.outputChannels, message.kernelChannels, *_window(message)), 0
    if kind in _MATRICES:
        return tuple(getattr(message, size) for size in _MATRICES[kind]), 0
    return (tuple(message.shape), None) if kind in ("loadConstant", "loadConstantND") else (None, None)


def _window(message: Any) -> tuple[int, ...]:
    return tuple(message.kernelSize) or (3, 3)


def _params(message: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, message) of every WeightParams below a message; networks nested in layers are left out."""
    for descriptor, value in message.ListFields():
        kind = descriptor.message_type.name if descriptor.message_type is not None else ""
        if not hasattr(value, "ListFields"):  # a repeated field, as recurrent and custom layers have
            continue
        if kind == "WeightParams":
            yield f"{path}{descriptor.name}", value
        elif kind != "NeuralNetwork":
            yield from _params(value, f"{path}{descriptor.name}.")
