"""Program -> float template: one run of litert-torch, with fingerprints in the weights.

A template is a folder of two files:

    template.tflite   the network with fingerprints for weights and the real values of everything else,
                      edges named as in the program, nothing in it that no runtime reads
    map.json          places: where each weight lives (see mobconv/backends/placement.py; keys are tensor
                      numbers); floats: tensor number -> name, of the other parameters (biases), found
                      by their values, so that scheme fp16 can halve them too
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobconv.backends import placement
from mobconv.backends.tflite.graph import Graph
from mobconv.backends.tflite.quiet import quiet
from mobconv.errors import BackendError

if TYPE_CHECKING:
    from mobconv.trace import Program

TEMPLATE = "template.tflite"
MAP = "map.json"


def convert(program: Program, directory: Path) -> None:
    """Write the template of `program` to an existing empty folder.

    Raises BackendError when litert-torch refuses the network, and for a weight that is not found in
    what it made (naming it).
    """
    with quiet():
        marked = placement.placeholder(program)
    converted = Graph(_litert_torch(marked))
    converted.strip(
        {f"args_{i}": name for i, name in enumerate(program.example)},
        {f"output_{i}": name for i, name in enumerate(program.outputs)},
    )
    # numbers of tensors are those of the file that encode will read, so it is written first
    data = converted.to_bytes()
    constants = [(str(index), values) for index, values in Graph(data).constants()]
    places = placement.locate(constants, program.sites)
    by_value = {
        np.ascontiguousarray(values).tobytes(): name
        for name, values in program.floats().items()
        if name not in program.sites
    }
    floats = {key: by_value[values.tobytes()] for key, values in constants if values.tobytes() in by_value}
    (directory / TEMPLATE).write_bytes(data)
    placement.save(directory / MAP, places, {"floats": floats})


def _litert_torch(program: Program) -> bytes:
    """The converter's own file. It can only be had through a path."""
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
