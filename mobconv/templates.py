"""Float templates: one conversion for each backend and precision of compute, filed under its content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from mobconv.backends.base import Backend
from mobconv.files import aside
from mobconv.quantize import FloatWeight
from mobconv.schemes import Cell, Compute, Scheme
from mobconv.trace import Program

FOLDER = ".templates"


def template(backend: Backend, program: Program, compute: Compute, out: Path) -> Path:
    """The folder of the template, converted now unless it lies below `out` already.

    The key covers graph, weights, tools and mobconv itself, so a stale template is never found.
    Raises what `Backend.convert` raises.
    """
    from mobconv import __version__

    named = {
        "program": program.sha256(),
        "edges": [list(program.example), list(program.outputs)],
        "compute": compute.value,
        "tools": backend.versions(),
        "mobconv": __version__,
    }
    key = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
    folder = out / FOLDER / f"{backend.name}-{compute.value}-{key}"
    if not folder.is_dir():
        with aside(folder) as partial:
            partial.mkdir()
            backend.convert(program, compute, partial)
    return folder


def float_artifact(backend: Backend, folder: Path, program: Program, compute: Compute) -> Path:
    """The fp32 file of a template, beside it: what speed is compared with."""
    path = folder / f"float.{backend.suffix}"
    if not path.exists():
        values = program.floats()
        weights = {name: FloatWeight(name, values[name]) for name in program.sites}
        backend.encode(folder, weights, Cell(backend.name, Scheme(32), compute=compute), path)
    return path
