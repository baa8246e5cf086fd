"""Keys of cells: one hash over everything that a cell is made of.

A row of an earlier sweep is reused only where nothing of it has changed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import uuid
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mobconv import backends
from mobconv.common import files
from mobconv.model import checkpoint
from mobconv.pipeline.calibration_data import CalibrationFacts
from mobconv.pipeline.quantized import calibrates
from mobconv.recipe import Recipe
from mobconv.schemes import Cell
from mobconv.sweep import source_hash
from mobconv.sweep.job import Job
from mobconv.sweep.store import FloatBaseline

# float baseline and reference; weights; `data` keeps its own
_TOOLS = ("torch", "numpy", "numba", "llvmlite", "scipy")
_DECODERS = ("datasets", "pillow", "pyarrow")


@dataclass(frozen=True)
class Inputs:
    """A job's files, hashed without decoding them.

    checkpoint  sha256 of the file
    code        hash over the factory of the network, its arguments and source, and the recipe's input settings
    data        hash over the data's files and the number of samples taken; None for data of the hub
    followed    whether the code that builds the network could be hashed
    task        hash over the task, its metric and code of the user's that scores outputs
    calibration hash over the files of the calibration data, and which samples are chosen; None for data of the hub, and
                without calibration data
    """

    checkpoint: str
    code: str
    data: str | None
    followed: bool = True
    task: str = ""
    calibration: str | None = None

    @cached_property
    def baseline(self) -> str:
        """The key of the float baseline's record."""
        tools = _versions(*_TOOLS, *_DECODERS)
        return _hash([self.checkpoint, self.code, self.task, self.data, source_hash.of_mobconv(), _machine(), tools])

    @property
    def facts(self) -> str:
        """The key of the record of the calibration data, which was compared with the data."""
        return _hash([self.baseline, self.calibration])


def environment() -> list[str]:
    """What may differ from machine to machine: kind of machine, Python and versions of tools."""
    versions = _versions(*_TOOLS, *_DECODERS)
    for name in backends.BUILT_IN:
        if backends.get(name).missing() is None:
            versions |= backends.get(name).versions()
    return [*_machine(), *(f"{name} {number}" for name, number in sorted(versions.items()))]


def inputs(job: Job, with_data: bool = True) -> Inputs:
    """Hash what a job starts from; with_data: its data too. Raises InputError for a checkpoint that cannot be read."""
    recipe, options = job.recipe, job.options
    fingerprint = checkpoint.fingerprint(recipe.checkpoint, options)
    statements = {
        "factory": recipe.model,
        "arguments": recipe.arguments,
        "input_shape": recipe.input_shape,
        "preprocessing": options.preprocessing.to_json() if options.preprocessing else None,
        "key": recipe.key,
        "packages": _versions(*fingerprint.packages),
        "labels": job.labels,
        "skip_bad": recipe.skip_bad,
        "sources": source_hash.of_factory(recipe.model, job.here) if recipe.model else {},
        # code that only loading finds may have changed: such a key is used once
        "once": None if fingerprint.followed else uuid.uuid4().hex,
    }
    samples = data(recipe.data, recipe.images) if with_data else None
    calibrating = calibration(recipe) if with_data else None
    return Inputs(fingerprint.sha256, _hash(statements), samples, fingerprint.followed, _hash(_task(job)), calibrating)


def data(source: str, limit: int | None) -> str | None:
    """Hash over a file or folder of samples; None for a name on the hub, whose content is known once it is loaded."""
    path = Path(source)
    return _hash([files.sha256(path), path.is_dir(), limit]) if path.exists() else None


def calibration(recipe: Recipe) -> str | None:
    """Hash over calibration data and the choice of its samples; None for a name on the hub, and where there is none."""
    wanted = recipe.calibration
    if wanted is None or not Path(wanted.data).exists():
        return None
    return _hash([files.sha256(Path(wanted.data)), Path(wanted.data).is_dir(), wanted.model_dump(exclude={"data"})])


def cell(
    inputs: Inputs, baseline: FloatBaseline, job: Job, which: Cell, calibration: CalibrationFacts | None = None
) -> str:
    """The key of a cell. Of a recipe's layer rules it has what they change of the cell's scheme in this network.

    calibration: the recipe's, for a cell that uses it; the keys of others do not depend on it.
    """
    recipe = job.recipe
    backend = backends.get(which.backend)
    content = {
        "cell": which.name,
        "checkpoint": inputs.checkpoint,
        "code": inputs.code,
        "data": baseline.data_sha256,
        "labels": baseline.class_names,
        "layers": [[name, recipe.scheme_for(name, which.scheme).name] for name in baseline.sites],
        "task": _task(job),
        "input": recipe.input,
        "options": recipe.options.get(which.backend, {}),
        "threads": recipe.threads,  # load_ms is measured with it
        "source": [source_hash.of_mobconv(), source_hash.of_mobconv(which.backend)],
        "tools": {**_versions(*_TOOLS), **backend.versions()},
        "machine": _machine(),
    }
    if calibration is not None and calibrates(baseline.sites, which.scheme, recipe.scheme_for):
        content["calibration"] = {**calibration.record, "shared": calibration.shared}
    return _hash(content)


def _task(job: Job) -> list[Any]:
    """What scores outputs: the task, its metric and code of the user's."""
    recipe = job.recipe
    return [recipe.task, recipe.metric, recipe.higher_is_better, recipe.postprocess, job.code]


def _machine() -> list[str]:
    """Core ML runs natively on some."""
    return [sys.platform, platform.machine(), platform.python_version()]


def _versions(*names: str) -> dict[str, str]:
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
