"""A template with other constants: the files of a whole package, in memory."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.apple.description import RECORD_KEY
from mobconv.backends.apple.vendor import proto
from mobconv.backends.coreml import mil, package
from mobconv.backends.coreml.forms import Encoder
from mobconv.backends.coreml.package import Package
from mobconv.backends.coreml.weights_file import DTYPES, BlobWriter
from mobconv.backends.weight_map import Places
from mobconv.errors import BackendError, InputError
from mobconv.quantize.weights import Weight


def main_block(spec: Any) -> Any:
    """The block of the main function. Raises InputError where there is none."""
    if spec.WhichOneof("Type") != "mlProgram":
        kind = spec.WhichOneof("Type")
        raise InputError(f"the model is of type {kind}; in packages, mobconv runs ML Programs only")
    functions = spec.mlProgram.functions
    if "main" not in functions:
        raise InputError(f"the program has no function 'main', but {', '.join(functions) or 'none'}")
    main = functions["main"]
    if main.opset not in main.block_specializations:
        raise InputError(f"the program has no block for its opset {main.opset!r}")
    return main.block_specializations[main.opset]


def build(
    template: Package,
    places: Places,
    weights: Mapping[str, Weight],
    floats: Collection[str],
    record: str = "",
    biases: Mapping[str, NDArray[np.float32]] | None = None,
    chains: bool = True,
) -> dict[str, bytes]:
    """The files of a package: the template's, with `weights` at their places.

    floats: names of other constants, which become fp16; record: text for the metadata, under RECORD_KEY; biases: values
    of other constants, by name and in their layout; chains: see forms.Encoder. Raises BackendError for a weight that
    this program cannot represent.
    """
    by_key = {
        place.key: (weights[name], place)
        for name, placements in places.items()
        for place in placements
        if name in weights
    }
    biases = biases or {}
    spec = proto().Model_pb2.Model()
    spec.CopyFrom(template.spec)
    if record:
        spec.description.metadata.userDefined[RECORD_KEY] = record
    block = main_block(spec)
    blobs = BlobWriter()
    encoder = Encoder(
        blobs,
        floats=_float_type(block, by_key),
        ios18=spec.specificationVersion >= 9,
        names={output.name for op in block.operations for output in op.outputs},
        chains=chains,
    )
    done: list[Any] = []
    for op in block.operations:
        key = op.outputs[0].name if op.outputs else ""
        if op.type == "const" and key in by_key:
            weight, place = by_key[key]
            if mil.shape_of(op.outputs[0].type) != place.shape or weight.dequantize().size != math.prod(place.shape):
                raise BackendError(f"{weight.name}: does not fit its place {key} of shape {place.shape}")
            done += encoder.weight(weight, place)
        elif op.type == "const" and key in floats:
            values = biases[key] if key in biases else mil.read_value(op.attributes["val"], template.read_blob)
            done += encoder.float_constant(key, np.asarray(values, np.float32), half=True)
        elif op.type == "const" and key in biases:
            _put(op.attributes["val"], biases[key], blobs)
            done.append(op)
        else:
            copy_blobs(op, template, blobs)
            done.append(op)
    # copies, as `block` is itself part of the message that is changed
    kept = [type(op).FromString(op.SerializeToString(deterministic=True)) for op in done]
    del block.operations[:]
    block.operations.extend(kept)
    return package.contents(spec, blobs.finish())


def _put(value: Any, numbers: NDArray[np.float32], blobs: BlobWriter) -> None:
    """Put other numbers into a value, in its own float type, in the program or in weight.bin as it was."""
    name = mil.dtype_name(value.type)
    typed = numbers.astype(DTYPES[name].numpy)
    if value.WhichOneof("value") == "blobFileValue":
        value.CopyFrom(mil.stored(name, typed, blobs))
    else:
        value.CopyFrom(mil.immediate(name, typed))


def copy_blobs(op: Any, source: Package, blobs: BlobWriter) -> None:
    """Copy an operation's values in weight.bin into `blobs`, and let the operation refer to the copies."""
    values = [*op.attributes.values()]
    values += [
        b.value for argument in op.inputs.values() for b in argument.arguments if b.WhichOneof("binding") == "value"
    ]
    for value in values:
        if value.WhichOneof("value") == "blobFileValue":
            dtype = DTYPES[mil.dtype_name(value.type)]
            data = mil.read_value(value, source.read_blob)
            value.blobFileValue.fileName = mil.WEIGHTS_NAME
            value.blobFileValue.offset = blobs.add(dtype, data)


def _float_type(block: Any, by_key: Mapping[str, Any]) -> str:
    """The float type of the weights' constants: fp32, or fp16 where the program computes in it."""
    types = {
        mil.dtype_name(op.outputs[0].type) for op in block.operations if op.outputs and op.outputs[0].name in by_key
    }
    if len(types) > 1:
        raise BackendError(f"the weights of this program have several types: {', '.join(sorted(types))}")
    return types.pop() if types else "FLOAT32"


def stored_count(places: Places, names: Collection[str] | None = None) -> int:
    """Number of weights in the file: a tensor's count once for each layout that it is stored in."""
    return sum(
        math.prod(shape)
        for name, placements in places.items()
        if names is None or name in names
        for _, shape in {(place.perm, place.shape) for place in placements}
    )
