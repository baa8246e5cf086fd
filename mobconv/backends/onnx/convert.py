"""Program -> float ONNX template: torch's exporter, without metadata that no runtime reads.

The exporter computes what depends on constants alone, weights too (Swin V2 has layers of a constant table of offsets).
Where weights are missing in its file, it runs again without knowing their values.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import weight_map
from mobconv.backends.onnx import pads
from mobconv.backends.onnx.functions import OPSET
from mobconv.backends.opaque import lift
from mobconv.common.files import write_whole
from mobconv.errors import BackendError, shortened

if TYPE_CHECKING:
    import onnx_ir as ir

    from mobconv.model.program import Program

# Read by ONNX Runtime 1.17 and later; the onnx package writes the newest version, which runtimes may not read yet.
IR_VERSION = 8
TEMPLATE = "template.onnx"
MAP = "map.json"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which warns of packages that it could use and prints its progress."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def convert(program: Program, directory: Path) -> None:
    """Write ``template.onnx`` and ``map.json``. Raises BackendError with the exporter's message."""
    import onnx_ir as ir

    model = _exported(program)
    missing = [name for name, places in weight_map.search(_constants(model), program.sites).items() if not places]
    if missing:
        model = _exported(program, missing)
    constants = _constants(model)
    places = weight_map.locate(constants, program.sites)
    placed = {place.key for placements in places.values() for place in placements}
    parameters = {v.tobytes() for name, v in program.floats().items() if name not in program.sites}
    floats = [name for name, value in constants if name not in placed and value.tobytes() in parameters]
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    content = proto.SerializeToString(deterministic=True)
    weights = sum(4 * len(placements) * program.floats()[name].size for name, placements in places.items())
    write_whole(directory / TEMPLATE, content)
    weight_map.save(
        directory / MAP,
        places,
        {"base_bytes": len(content) - weights, "floats": floats},
    )


def _exported(program: Program, opaque: Collection[str] = ()) -> ir.Model:
    """The exporter's model with our names. opaque: weights that it must not compute with."""
    import onnx_ir as ir
    import torch

    fingerprinted = weight_map.placeholder(program)
    values: list[NDArray[np.float32]] = []
    with _quiet():
        if opaque:
            values = lift(fingerprinted.module, opaque)
            given = [torch.from_numpy(np.ascontiguousarray(each)) for each in [*program.example.values(), *values]]
            source = torch.export.export(fingerprinted.module, tuple(given), strict=False)
        else:
            source = fingerprinted.exported()
        try:
            exported = torch.onnx.export(
                source,
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                input_names=[*program.example, *(f"lifted_{number}" for number in range(len(values)))],
                output_names=list(program.outputs),
            )
        except Exception as error:  # the exporter raises its own, torch's and onnx's types
            raise BackendError(f"the ONNX exporter refuses this network: {shortened(error)}") from error
    assert exported is not None
    model = exported.model
    for value in values:
        constant = model.graph.inputs.pop(len(program.example))
        constant.const_value = ir.tensor(value, name=constant.name)
        model.graph.register_initializer(constant)
    _name_edges(model, program)
    _strip(model)
    pads.separate(model)
    if model.opset_imports.get("") != OPSET:
        raise BackendError(f"the exporter wrote opset {model.opset_imports.get('')}, not {OPSET}: update onnxscript")
    model.ir_version = IR_VERSION
    return model


def _constants(model: ir.Model) -> list[tuple[str, NDArray[Any]]]:
    """Names and values of the constants in a model."""
    return [(name, value.const_value.numpy()) for name, value in model.graph.initializers.items() if value.const_value]


def _name_edges(model: ir.Model, program: Program) -> None:
    """Give inputs and outputs the program's names."""
    for value, name in zip(model.graph.inputs, program.example, strict=True):
        value.name = name
    for value, name in zip(model.graph.outputs, program.outputs, strict=True):
        value.name = name


def _strip(model: ir.Model) -> None:
    """Drop the exporter's metadata: 300 KB of stack traces and names, more than 1-bit weights have."""
    graph = model.graph
    for holder in (model, graph):
        holder.metadata_props.clear()
        holder.doc_string = None
    for value in [*graph.inputs, *graph.outputs, *graph.initializers.values()]:
        value.metadata_props.clear()
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        node.name = ""
        for value in node.outputs:
            value.metadata_props.clear()
    model.functions.clear()
