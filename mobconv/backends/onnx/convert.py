"""Program -> float ONNX template: one run of torch's exporter, without metadata that no runtime reads."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mobconv.backends import bias_map, weight_map
from mobconv.backends.onnx import pads
from mobconv.backends.onnx.functions import OPSET
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
    import torch

    with _quiet():
        try:
            exported = torch.onnx.export(
                weight_map.placeholder(program).exported(),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
                input_names=list(program.example),
                output_names=list(program.outputs),
            )
        except Exception as error:  # the exporter raises its own, torch's and onnx's types
            raise BackendError(f"the ONNX exporter refuses this network: {shortened(error)}") from error
    assert exported is not None
    model = exported.model
    _name_edges(model, program)
    _strip(model)
    pads.separate(model)
    if model.opset_imports.get("") != OPSET:
        raise BackendError(f"the exporter wrote opset {model.opset_imports.get('')}, not {OPSET}: update onnxscript")
    model.ir_version = IR_VERSION
    constants = [
        (name, value.const_value.numpy()) for name, value in model.graph.initializers.items() if value.const_value
    ]
    places = weight_map.locate(constants, program.sites)
    placed = {place.key for placements in places.values() for place in placements}
    parameters = {v.tobytes() for name, v in program.floats().items() if name not in program.sites}
    floats = [name for name, value in constants if name not in placed and value.tobytes() in parameters]
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    content = proto.SerializeToString(deterministic=True)
    write_whole(directory / TEMPLATE, content)
    weight_map.save(directory / MAP, places, {"floats": floats}, bias_map.locate(constants, placed, program))


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
