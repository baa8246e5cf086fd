"""Float templates: one conversion for each backend and precision of compute, filed under its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mobconv.backends.base import Backend, Entry
from mobconv.common.files import aside
from mobconv.errors import BackendError
from mobconv.model.program import Program
from mobconv.quantize import FloatWeight
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute, Scheme

FOLDER = ".templates"
# Far above what rounding does to a whole network (1e-6 in fp32, 5e-3 in fp16), far below a wrong constant.
_CLOSE = {Compute.FP32: 1e-3, Compute.FP16: 5e-2}


def template(
    backend: Backend, entry: Entry, compute: Compute, out: Path, converting: Callable[[], None] = lambda: None
) -> Path:
    """The folder of an entry's template, converted now unless it lies below `out` already.

    converting: called before it is converted. The key of the folder covers graph, weights, shapes of inputs, options,
    tools and mobconv itself, so that a stale template is never used. Raises what `Backend.convert` raises, and
    BackendError for a template that does not compute what the program does.
    """
    from mobconv.common.version import __version__

    program = entry.program
    content = {
        "program": program.sha256(),
        "edges": [
            [(name, value.shape, str(value.dtype)) for name, value in program.example.items()],
            list(program.outputs),
        ],
        "image": [program.image, list(program.labels)],
        "options": entry.options,
        "compute": compute.value,
        "tools": backend.versions(),
        "mobconv": __version__,
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    folder = out / FOLDER / f"{backend.name}-{compute.value}-{key}"
    if not folder.is_dir():
        converting()
        # workers on other machines may outlive their sweep: a template that exists is in use
        with aside(folder, keep=True) as partial:
            partial.mkdir()
            backend.convert(program, compute, partial, entry.options)
            _check(backend, partial, entry, compute)
    return folder


def float_artifact(backend: Backend, folder: Path, program: Program, compute: Compute) -> Path:
    """The fp32 file of a template, beside it: the baseline of latency ratios."""
    path = folder / f"float.{backend.suffix}"
    if not path.exists():
        values = program.floats()
        weights = {name: FloatWeight(name, values[name]) for name in program.sites}
        cell = Cell(backend.name, Scheme(32), compute=compute, default_compute=backend.default_compute)
        backend.encode(folder, QuantizedModel(weights), cell, path)
    return path


def _check(backend: Backend, folder: Path, entry: Entry, compute: Compute) -> None:
    """Raise BackendError where the converter computed other constants from weights that will change.

    Converters fold what follows from constants alone, a mean over a weight for example, and every file made from the
    template would keep the value of the fingerprints. With the real weights in their places such a template does not
    compute what the program does.
    """
    program = entry.computed or entry.program
    runner = backend.open(float_artifact(backend, folder, entry.program, compute))
    try:
        rng = np.random.default_rng(0)
        feeds = {
            name: rng.normal(size=value.shape).astype(value.dtype) if value.dtype.kind == "f" else value
            for name, value in program.example.items()
        }
        if program.image:
            feeds = {name: rng.integers(0, 256, v.shape).astype(v.dtype) for name, v in program.example.items()}
        outputs = runner.run({spec.name: feeds[spec.name] for spec in runner.inputs})
    finally:
        runner.close()
    for name, expected in program.run(feeds).items():
        if np.abs(outputs[name] - expected).max(initial=0.0) > _CLOSE[compute] * np.abs(expected).max(initial=0.0):
            raise BackendError(
                f"the converter to {backend.name} computed other constants from weights that are to be quantized (the "
                "network uses a weight for more than its layer): such a network cannot be quantized from a template"
            )
