"""Program -> float template: one run of litert-torch, with fingerprints in the weights.

A template is a folder of two files:

    template.tflite   the network with fingerprints for weights and the real values of everything else, inputs and
                      outputs named as in the program, without metadata that no runtime reads
    map.json          image: colour, labels and name of an image input
                      places: where each weight is (see mobconv/backends/weight_map.py; keys are tensor numbers)
                      floats: tensor number -> name, of the other parameters (biases), which are found by their
                      values, so that scheme fp16 can halve them too
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import weight_map
from mobconv.backends.tflite.graph import Graph
from mobconv.backends.tflite.quiet import quiet
from mobconv.backends.tflite.runner import run_bytes
from mobconv.errors import BackendError

if TYPE_CHECKING:
    from mobconv.model.program import Program

TEMPLATE = "template.tflite"
MAP = "map.json"


def convert(program: Program, directory: Path) -> None:
    """Write the template of `program` to an existing empty folder.

    Raises BackendError when litert-torch refuses the network, for a weight that the converted file does not have
    (naming it), and for one that the converter merged into another constant.
    """
    with quiet():
        marked = weight_map.placeholder(program)
    converted = Graph(_litert_torch(marked))
    converted.strip(
        {f"args_{i}": name for i, name in enumerate(program.example)},
        {f"output_{i}": name for i, name in enumerate(program.outputs)},
    )
    # tensors are numbered as in the file that encode will read, so its bytes come first
    data = converted.to_bytes()
    constants = [(str(index), values) for index, values in Graph(data).constants()]
    places = weight_map.locate(constants, program.sites)
    by_value = {
        np.ascontiguousarray(values).tobytes(): name
        for name, values in program.floats().items()
        if name not in program.sites
    }
    floats = {key: by_value[values.tobytes()] for key, values in constants if values.tobytes() in by_value}
    _refuse_derived(data, constants, places, set(floats), program)
    (directory / TEMPLATE).write_bytes(data)
    image = {"colour": program.image, "labels": program.labels, "inputs": list(program.example)}
    weight_map.save(directory / MAP, places, {"floats": floats, "image": image if program.image else {}})


def _refuse_derived(
    data: bytes,
    constants: list[tuple[str, NDArray[np.float32]]],
    places: weight_map.Places,
    floats: set[str],
    program: Program,
) -> None:
    """Raise BackendError where the converter computed another constant from weights that will change.

    For example, it moves the bias of a linear layer through a linear layer that follows directly (W2 b1 + b2). Such a
    constant, computed from fingerprints, is neither a weight nor a parameter of the program, and the template with the
    real weights in it does not compute what the program does.
    """
    known = floats | {place.key for placements in places.values() for place in placements}
    foreign = [values for key, values in constants if key not in known and values.size > 1 and np.ptp(values) > 0]
    if not foreign:
        return
    graph = Graph(data)
    values = program.floats()
    for name, placements in places.items():
        for place in placements:
            graph.set_constant(int(place.key), place.place(values[name]))
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.normal(size=value.shape).astype(value.dtype) if value.dtype.kind == "f" else value
        for name, value in program.example.items()
    }
    expected = program.run(feeds)
    for name, output in run_bytes(graph.to_bytes(), feeds).items():
        if np.abs(output - expected[name]).max(initial=0.0) > 1e-3 * np.abs(expected[name]).max(initial=0.0):
            shapes = ", ".join(str(list(values.shape)) for values in foreign)
            raise BackendError(
                f"litert-torch merged weights into other constants (of shape {shapes}), as it does with the biases "
                "of linear layers that follow each other directly: such a network cannot be quantized from a template"
            )


def _litert_torch(program: Program) -> bytes:
    """The converter's file, which it only writes to a path."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "converted.tflite"
        try:
            with quiet():
                import litert_torch
                import torch

                example = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in program.example.values())
                litert_torch.convert(program.module.eval(), example).export(str(path))
        except Exception as error:  # the converter raises what each of its passes raises
            notes = " ".join(getattr(error, "__notes__", []))
            first = (str(error).strip() or notes or type(error).__name__).splitlines()[0]
            raise BackendError(f"litert-torch cannot convert this network: {type(error).__name__}: {first}") from error
        return path.read_bytes()
