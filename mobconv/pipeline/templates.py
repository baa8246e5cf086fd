"""Float templates: one conversion for each backend and precision of compute, filed under its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mobconv.backends.base import Backend, Entry
from mobconv.common.files import aside, write_whole
from mobconv.errors import BackendError, MobconvError, shortened
from mobconv.model import biases
from mobconv.model.program import Floats, Program
from mobconv.pipeline import template_check
from mobconv.quantize import FloatWeight
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute, Scheme

FOLDER = ".templates"
_REMARK = "remark.txt"
_CHECKED = "biases.json"
_MAP = 2  # version of what a template records: 1 had no biases


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
        "map": _MAP,
    }
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    folder = out / FOLDER / f"{backend.name}-{compute.value}-{key}"
    if not folder.is_dir():
        converting()
        # workers on other machines may outlive their sweep: a template that exists is in use
        with aside(folder, keep=True) as partial:
            partial.mkdir()
            _convert(backend, entry, compute, partial)
            remark = template_check.check(backend, partial, entry, compute, float_artifact)
            if remark:
                (partial / _REMARK).write_text(remark)
    return folder


def template_for_biases(
    backend: Backend,
    entry: Entry,
    compute: Compute,
    out: Path,
    changed: Mapping[str, Floats],
    converting: Callable[[], None] = lambda: None,
) -> tuple[Path, Mapping[str, Floats]]:
    """The folder of a template for files with other biases, and all biases that its encoder is to be given.

    It is the entry's own template, unless several of its biases are equal or zero: then it is that of the network with
    distinct ones, and the true values of these are added to `changed`. It is run once with other values in the biases,
    as a converter may compute with a bias and keep it too. Raises what `template` raises, and BackendError for biases
    that files made from it would only change in part.
    """
    program, true = biases.distinct(entry.program)
    if true:
        values = program.floats()
        distinct = {name: values[name] for name in true}
        computed = entry.computed and entry.computed.with_values(distinct)
        entry = replace(entry, program=program, computed=computed)
    folder = template(backend, entry, compute, out, converting)
    names = sorted({*changed, *true})
    path = folder / _CHECKED
    checked: dict[str, bool] = json.loads(path.read_text()) if path.exists() else {}
    if not checked.keys() >= set(names):
        departing = template_check.departing_biases(backend, folder, entry, compute, names)
        checked |= {name: name not in departing for name in names}
        write_whole(path, json.dumps(checked, indent=1).encode())
    wrong = [name for name in names if not checked[name]]
    if wrong:
        raise BackendError(
            f"the converter to {backend.name} computed constants from the biases {', '.join(wrong)}: other values "
            "would change them in part of the file only. Leave these biases as they are, or use another format"
        )
    return folder, {**true, **changed}


def remark(folder: Path) -> str:
    """What the check of a template noticed about its precision, to stand beside every row made from it; or ''."""
    path = folder / _REMARK
    return path.read_text() if path.exists() else ""


def _convert(backend: Backend, entry: Entry, compute: Compute, folder: Path) -> None:
    try:
        backend.convert(entry.program, compute, folder, entry.options)
    except MobconvError:
        raise
    except Exception as error:  # what a vendor raises outside of the places that its backend knows
        raise BackendError(
            f"the converter to {backend.name} cannot convert this network: {type(error).__name__}: {shortened(error)}"
        ) from error


def float_artifact(backend: Backend, folder: Path, program: Program, compute: Compute) -> Path:
    """The fp32 file of a template, beside it: the baseline of latency ratios."""
    path = folder / f"float.{backend.suffix}"
    if not path.exists():
        values = program.floats()
        weights = {name: FloatWeight(name, values[name]) for name in program.sites}
        cell = Cell(backend.name, Scheme(32), compute=compute, default_compute=backend.default_compute)
        backend.encode(folder, QuantizedModel(weights), cell, path)
    return path
