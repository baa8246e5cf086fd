"""Float templates: one conversion for each backend and precision of compute, filed under its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mobconv.backends.base import Backend
from mobconv.common.files import aside
from mobconv.errors import BackendError
from mobconv.model import image_input
from mobconv.model.trace import Program
from mobconv.quantize import FloatWeight
from mobconv.schemes import Cell, Compute, Scheme

FOLDER = ".templates"
# Far above what rounding does to a whole network (1e-6 in fp32, 5e-3 in fp16), far below a wrong constant.
_CLOSE = {Compute.FP32: 1e-3, Compute.FP16: 5e-2}


def template(
    backend: Backend, program: Program, compute: Compute, out: Path, converting: Callable[[], None] = lambda: None
) -> Path:
    """The folder of the template, converted now unless it lies below `out` already.

    converting: called before it is converted. The key covers graph, weights, shapes of inputs, tools and mobconv
    itself, so a stale template is never found. Raises what `Backend.convert` raises, and BackendError for a template
    that does not compute what the program does.
    """
    from mobconv import __version__

    named = {
        "program": program.sha256(),
        "edges": [
            [(name, value.shape, str(value.dtype)) for name, value in program.example.items()],
            list(program.outputs),
        ],
        "image": [program.image, list(program.labels), program.scaled],
        "compute": compute.value,
        "tools": backend.versions(),
        "mobconv": __version__,
    }
    key = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
    folder = out / FOLDER / f"{backend.name}-{compute.value}-{key}"
    if not folder.is_dir():
        converting()
        # workers on other machines may outlive their sweep: a template that is there is in use
        with aside(folder, keep=True) as partial:
            partial.mkdir()
            backend.convert(program, compute, partial)
            _check(backend, partial, program, compute)
    return folder


def float_artifact(backend: Backend, folder: Path, program: Program, compute: Compute) -> Path:
    """The fp32 file of a template, beside it: what speed is compared with."""
    path = folder / f"float.{backend.suffix}"
    if not path.exists():
        values = program.floats()
        weights = {name: FloatWeight(name, values[name]) for name in program.sites}
        backend.encode(folder, weights, Cell(backend.name, Scheme(32), compute=compute), path)
    return path


def _check(backend: Backend, folder: Path, program: Program, compute: Compute) -> None:
    """Raise BackendError where the converter computed other constants from weights that will change.

    Converters fold what follows from constants alone, a mean over a weight for one, and every file made from the
    template would keep the value that the fingerprints had. Such a template, the real weights in their places,
    does not compute what the program does.
    """
    runner = backend.open(float_artifact(backend, folder, program, compute))
    try:
        rng = np.random.default_rng(0)
        feeds = {
            name: rng.normal(size=value.shape).astype(value.dtype) if value.dtype.kind == "f" else value
            for name, value in program.example.items()
        }
        if program.image:
            program = image_input.as_scaled(program)
            feeds = {name: rng.integers(0, 256, v.shape).astype(v.dtype) for name, v in program.example.items()}
        got = runner.run({spec.name: feeds[spec.name] for spec in runner.inputs})
    finally:
        runner.close()
    for name, expected in program.run(feeds).items():
        if np.abs(got[name] - expected).max(initial=0.0) > _CLOSE[compute] * np.abs(expected).max(initial=0.0):
            raise BackendError(
                f"the converter to {backend.name} computed other constants from weights that are to be quantized (the "
                "network uses a weight for more than its layer): such a network cannot be quantized from a template"
            )
