"""Bytes that quantized weights add to a package: the package, less the same program with weights that take none.

That program is the package's with a float constant in place of the operations that decode each weight, less the bytes
of these floats. Blobs are only counted, not written.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from mobconv.backends.apple.description import RECORD_KEY
from mobconv.backends.coreml import mil, package
from mobconv.backends.coreml.package import Package
from mobconv.backends.coreml.rewrite import main_block
from mobconv.backends.coreml.weights_file import ALIGNMENT, DTYPES

_FEW = 10  # numbers of a constant that lies in the program, see forms.py


class _Layout:
    """Offsets of blobs in weight.bin, by their sizes."""

    def __init__(self) -> None:
        self.size = ALIGNMENT
        self._offsets: dict[int, int] = {}

    def add(self, bits: int, copied: int | None = None) -> int:
        """The offset of a blob. copied: its offset in the package; blobs of one offset there are one blob."""
        if copied in self._offsets:
            return self._offsets[copied]
        offset = -(-self.size // ALIGNMENT) * ALIGNMENT
        self.size = offset + ALIGNMENT + -(-bits // 8)
        if copied is not None:
            self._offsets[copied] = offset
        return offset


def added_bytes(opened: Package, blobs: int, weights: Collection[str], alone: bool) -> int:
    """Bytes of a package of ours without its record, less those of the program with weights that take none.

    blobs: bytes of its weight.bin. weights: names of the values that the network reads as weights. alone: whether
    nothing else is decoded (but under fp16, biases are). Raises ValueError where something is.
    """
    spec = type(opened.spec)()
    spec.CopyFrom(opened.spec)
    spec.description.metadata.userDefined.pop(RECORD_KEY, None)
    before = len(package.serialize(spec)) + blobs
    block = main_block(spec)
    makers = _makers(block)
    needed = _needed(block, makers, weights)
    if alone and any(makers[name].type.startswith("constexpr_") for name in needed):
        raise ValueError("it decodes what the network does not read as a weight")
    layout, kept, floats, casts = _Layout(), [], 0, 0
    for op in block.operations:
        name = op.outputs[0].name if op.outputs else ""
        if name in weights:
            dtype, shape = mil.dtype_name(op.outputs[0].type), mil.shape_of(op.outputs[0].type)
            bits = DTYPES[dtype].bits * math.prod(shape)
            floats += bits // 8
            kept.append(_constant(name, dtype, shape, layout))
        elif name not in makers or name in needed:
            _copy_blobs(op, layout)
            if op.type == "constexpr_cast":  # named by their number, from which weights are left out
                casts += 1
                op.attributes["name"].CopyFrom(mil.string(f"q{casts}"))
            kept.append(op)
    copies = [type(op).FromString(op.SerializeToString(deterministic=True)) for op in kept]
    del block.operations[:]
    block.operations.extend(copies)
    return before - (len(package.serialize(spec)) + layout.size - floats)


def _constant(name: str, dtype: str, shape: tuple[int, ...], layout: _Layout) -> Any:
    """The operation of a float constant, of whatever values."""
    count = math.prod(shape)
    if count < _FEW:
        value = mil.immediate(dtype, np.ones(shape, DTYPES[dtype].numpy))
    else:
        value = mil.blob_value(dtype, shape, layout.add(DTYPES[dtype].bits * count))
    return mil.operation("const", name, (dtype, shape), attributes={"val": value})


def _makers(block: Any) -> dict[str, Any]:
    """Name of a value -> the operation that computes it from constants alone, or the constant itself."""
    makers: dict[str, Any] = {}
    for op in block.operations:
        inputs = [binding.name for argument in op.inputs.values() for binding in argument.arguments if binding.name]
        constant = op.type == "const" or op.type.startswith("constexpr_")
        if constant or (inputs and all(name in makers for name in inputs)):
            makers.update({output.name: op for output in op.outputs})
    return makers


def _needed(block: Any, makers: dict[str, Any], weights: Collection[str]) -> set[str]:
    """Constants that the network reads, with those that they are computed from, except for weights."""
    waiting = [
        binding.name
        for op in block.operations
        if not op.outputs or op.outputs[0].name not in makers
        for argument in op.inputs.values()
        for binding in argument.arguments
    ]
    waiting += block.outputs
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in makers and name not in weights and name not in needed:
            needed.add(name)
            waiting += [b.name for argument in makers[name].inputs.values() for b in argument.arguments if b.name]
    return needed


def _copy_blobs(op: Any, layout: _Layout) -> None:
    values = [*op.attributes.values()]
    values += [b.value for argument in op.inputs.values() for b in argument.arguments if b.HasField("value")]
    for value in values:
        if value.WhichOneof("value") == "blobFileValue":
            bits = DTYPES[mil.dtype_name(value.type)].bits * math.prod(mil.shape_of(value.type))
            value.blobFileValue.offset = layout.add(bits, int(value.blobFileValue.offset))
