"""Building and reading the messages of MIL.proto: types, values, operations.

The vendor's classes come from coremltools.proto, which is imported inside the functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.apple.vendor import proto
from mobconv.backends.coreml.weights_file import DTYPES, BlobWriter, Dtype
from mobconv.errors import InputError

WEIGHTS_NAME = "@model_path/weights/weight.bin"

# The field of immediate values of each type; others are in `bytes` (coremltools: backend/mil/helper.py).
_FIELDS = {
    "FLOAT32": "floats",
    "FLOAT64": "doubles",
    "INT32": "ints",
    "INT16": "ints",
    "UINT16": "ints",
    "INT64": "longInts",
    "UINT64": "longInts",
    "BOOL": "bools",
}

# Reads a value of weight.bin: file name, offset, dtype and number of elements -> flat values.
ReadBlob = Callable[[str, int, Dtype, int], NDArray[Any]]


def value_type(dtype: str, shape: Iterable[int]) -> Any:
    """ValueType of a tensor."""
    mil = proto().MIL_pb2
    shape = tuple(shape)
    message = mil.ValueType()
    message.tensorType.dataType = mil.DataType.Value(dtype)
    message.tensorType.rank = len(shape)
    for size in shape:
        message.tensorType.dimensions.add().constant.size = size
    return message


def immediate(dtype: str, values: NDArray[Any]) -> Any:
    """A value in the program itself; a 0-dimensional array is a scalar."""
    message = proto().MIL_pb2.Value(type=value_type(dtype, values.shape))
    tensor = message.immediateValue.tensor
    if dtype in _FIELDS:
        getattr(tensor, _FIELDS[dtype]).values.extend(values.reshape(-1).tolist())
    else:
        tensor.bytes.values = DTYPES[dtype].pack(values)
    return message


def string(text: str) -> Any:
    """A scalar string."""
    message = proto().MIL_pb2.Value(type=value_type("STRING", ()))
    message.immediateValue.tensor.strings.values.append(text)
    return message


def stored(dtype: str, values: NDArray[Any], blobs: BlobWriter) -> Any:
    """A value in weight.bin."""
    return blob_value(dtype, values.shape, blobs.add(DTYPES[dtype], values))


def blob_value(dtype: str, shape: Iterable[int], offset: int) -> Any:
    """A value in weight.bin, at `offset`."""
    message = proto().MIL_pb2.Value(type=value_type(dtype, shape))
    message.blobFileValue.fileName = WEIGHTS_NAME
    message.blobFileValue.offset = offset
    return message


def operation(
    kind: str,
    name: str,
    output: tuple[str, Iterable[int]],
    inputs: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    label: str = "",
) -> Any:
    """An operation with one output, `name`. inputs: Value messages, or names of other outputs.

    label: the operation's own name, where it differs from the output's.
    """
    mil = proto().MIL_pb2
    message = mil.Operation(type=kind)
    message.attributes["name"].CopyFrom(string(label or name))
    for key, value in (attributes or {}).items():
        message.attributes[key].CopyFrom(value)
    for key, value in (inputs or {}).items():
        binding = message.inputs[key].arguments.add()
        if isinstance(value, str):
            binding.name = value
        else:
            binding.value.CopyFrom(value)
    message.outputs.add(name=name, type=value_type(*output))
    return message


def dtype_name(type_message: Any) -> str:
    """'FLOAT32' and so on; '' for a value that is not a tensor (a list, a dictionary, a state)."""
    if type_message.WhichOneof("type") != "tensorType":
        return ""
    return str(proto().MIL_pb2.DataType.Name(type_message.tensorType.dataType))


def shape_of(type_message: Any) -> tuple[int, ...]:
    """The declared shape; -1 for a length that is open."""
    return tuple(
        int(dim.constant.size) if dim.WhichOneof("dimension") == "constant" else -1
        for dim in type_message.tensorType.dimensions
    )


def read_value(message: Any, read_blob: ReadBlob) -> Any:
    """A Value message -> numpy array of the declared shape, or str, or list of either.

    Sub-byte types become uint8 (int4: int8). Raises InputError for an unknown type and a damaged value.
    """
    if message.type.WhichOneof("type") == "listType":
        return [read_value(item, read_blob) for item in message.immediateValue.list.values]
    name, shape = dtype_name(message.type), shape_of(message.type)
    if message.WhichOneof("value") == "blobFileValue":
        blob = message.blobFileValue
        return read_blob(blob.fileName, blob.offset, _known(name), math.prod(shape)).reshape(shape)
    tensor = message.immediateValue.tensor
    field = tensor.WhichOneof("value")
    if field is None:
        raise InputError(f"a constant of type {name or 'unknown'} has no value")
    values = getattr(tensor, field).values
    if name == "STRING":
        return values[0] if not shape else list(values)
    dtype = _known(name)
    try:
        flat = dtype.unpack(values, math.prod(shape)) if field == "bytes" else np.array(values, dtype.numpy)
        return flat.reshape(shape)
    except ValueError as error:
        raise InputError(f"a constant of type {name} and shape {shape} is damaged: {error}") from error


def _known(name: str) -> Dtype:
    if name not in DTYPES:
        raise InputError(f"a constant has the type {name or 'unknown'}, which mobconv does not read")
    return DTYPES[name]
