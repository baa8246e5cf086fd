"""Size audit of an .mlmodel with a neural network: each layer has its weight, scales and table itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mobconv.backends.apple import description
from mobconv.backends.byte_attribution import rest
from mobconv.backends.mlmodel import model
from mobconv.backends.mlmodel.added import added_bytes
from mobconv.backends.mlmodel.model import Field
from mobconv.backends.size_audit import (
    OTHER,
    PROGRAM,
    Added,
    Audit,
    TensorAudit,
    counted,
    explained,
    threshold,
    with_added,
)
from mobconv.errors import InputError
from mobconv.schemes import Cell

# layer -> its kind in words
_WORDS = {
    "convolution": "conv",
    "innerProduct": "linear",
    "batchedMatmul": "matmul",
    "embedding": "embedding",
    "embeddingND": "embedding",
}
_RECURRENT = ("WeightMatrix", "RecursionMatrix", "weightMatrix", "recursionMatrix")
_THRESHOLD = 2048
_SMALL = "2,048 weights or fewer: coremltools leaves such tensors float"


def audit(path: Path) -> Audit:
    """`Auditable.size_audit` of .mlmodel files."""
    spec = model.read(path)
    size = path.stat().st_size
    tensors, keys, other = [], list[str](), 0
    for layers in _networks(model.network(spec).layers):
        for field in model.fields(layers):
            layer = layers[field.position]
            kind = layer.WhichOneof("layer")
            recurrent = field.key.endswith(_RECURRENT)
            if (kind in _WORDS and field.shape is not None) or recurrent:
                word = "recurrent" if recurrent else _WORDS[kind]
                word += " transpose" if kind == "convolution" and layer.convolution.isDeconvolution else ""
                try:
                    tensor = _tensor(field, layer.name, word)
                except InputError as error:
                    raise InputError(f"{path}: {error}") from error
                tensors += [tensor] if tensor is not None else []
                keys += [field.key] if tensor is not None else []
                other += 0 if tensor is not None else sum(_sizes(field.params).values())
            else:
                other += sum(_sizes(field.params).values())
    record = description.record(spec)
    program = size - sum(tensor.bytes for tensor in tensors) - other
    parts = Audit(
        path,
        f"Core ML, neural network (specification {spec.specificationVersion})",
        size,
        tuple(tensors),
        rest([(OTHER, other), (PROGRAM, program)], path),
        record,
        tuple(description.image_notes(spec)),
    )
    return explained(
        with_added(parts, lambda cell: _added(cell, parts, spec, keys)), threshold(tensors, _THRESHOLD, _SMALL)
    )


def _added(cell: Cell, parts: Audit, spec: Any, keys: list[str]) -> Added | None:
    if len(set(keys)) < len(keys):  # fields of nested networks have the same keys
        return None
    weights = counted(cell, parts.tensors, keys)
    count = sum(tensor.weights for tensor in weights.values())
    return Added(cell.scheme.bits // 8 * count if cell.scheme.mode is None else added_bytes(spec, weights), count)


def _networks(layers: Any) -> Iterator[Any]:
    """The layers of a network, and those of the networks nested in them."""
    yield layers
    for layer in layers:
        kind = layer.WhichOneof("layer")
        inner = {"branch": ("ifBranch", "elseBranch"), "loop": ("conditionNetwork", "bodyNetwork")}.get(kind, ())
        for name in inner:
            yield from _networks(getattr(getattr(layer, kind), name).layers)


def _sizes(params: Any) -> dict[str, int]:
    """Bytes of a parameter's values, by their role."""
    linear, table = params.quantization.linearQuantization, params.quantization.lookupTableQuantization
    return {
        "float32": 4 * len(params.floatValue),
        "float16": len(params.float16Value),
        "codes": len(params.rawValue),
        "int8": len(params.int8RawValue),
        "table": 4 * len(table.floatValue),
        "scale": 4 * len(linear.scale),
        "bias": 4 * len(linear.bias),
    }


def _tensor(field: Field, name: str, word: str) -> TensorAudit | None:
    """The weight of a layer; None for a layer without values."""
    sizes, quantization = _sizes(field.params), field.params.quantization
    kind = next((kind for kind in ("codes", "int8", "float16", "float32") if sizes[kind]), None)
    if kind is None:
        return None
    bits = {"codes": int(quantization.numberOfBits) or 8, "int8": 8, "float16": 16, "float32": 32}[kind]
    shape = field.shape or (8 * sizes[kind] // bits,)
    if 8 * sizes[kind] < bits * math.prod(shape):
        raise InputError(f"layer {name!r}: {sizes[kind]} bytes are not its {math.prod(shape)} weights of {bits} bits")
    encoding = kind
    if kind in ("codes", "int8"):
        groups = len(quantization.linearQuantization.scale)
        how = " per tensor" if groups == 1 else " per channel"
        encoding = f"affine {bits}-bit codes{how}" if sizes["scale"] else f"{bits}-bit codes"
        if sizes["table"]:
            encoding = f"lookup table {sizes['table'] // 4} x float32, {bits}-bit codes"
    part = field.key.rpartition(".")[2]
    return TensorAudit(
        name=name if word != "recurrent" else f"{name}.{part}",
        shape=tuple(int(length) for length in shape),
        weights=math.prod(shape),
        op=word,
        stored=float(bits),
        encoding=encoding,
        code_bytes=sizes[kind],
        table_bytes=sizes["table"],
        scale_bytes=sizes["scale"],
        zero_point_bytes=sizes["bias"],
        other_bytes=sum(sizes[other] for other in ("codes", "int8", "float16", "float32") if other != kind),
    )
