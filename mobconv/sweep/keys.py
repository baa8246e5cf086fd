"""What made a cell, as one hash: a row is taken from an earlier sweep only where nothing of it has changed."""

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
from mobconv.errors import InputError
from mobconv.model import checkpoint
from mobconv.schemes import Cell
from mobconv.sweep import source_hash
from mobconv.sweep.job import Job
from mobconv.sweep.store import Network

# float baseline and reference; weights; `data` keeps its own
_TOOLS = ("torch", "numpy", "numba", "llvmlite", "scipy")
_DECODERS = ("datasets", "pillow", "pyarrow")


@dataclass(frozen=True)
class Inputs:
    """A job's files, hashed as they lie there, decoded by nobody.

    checkpoint  sha256 of the file
    code        hash over what else builds the network: factory, arguments, source, what the recipe says of its input
    data        hash over the images' files and how many are taken; None where they come from the hub
    """

    checkpoint: str
    code: str
    data: str | None
    followed: bool = True

    @cached_property
    def network(self) -> str:
        """The key of the float baseline and of what is known of the network."""
        told = [
            self.checkpoint,
            self.code,
            self.data,
            source_hash.of_mobconv(),
            _machine(),
            _versions(*_TOOLS, *_DECODERS),
        ]
        return _hash(told)


def environment() -> list[str]:
    """What may differ from machine to machine: kind of machine, Python and versions of tools."""
    found = _versions(*_TOOLS, *_DECODERS)
    for name in backends.BUILT_IN:
        if backends.get(name).missing() is None:
            found |= backends.get(name).versions()
    return [*_machine(), *(f"{name} {number}" for name, number in sorted(found.items()))]


def inputs(job: Job, data: bool = True) -> Inputs:
    """Hash what a job starts from; data: its images too. Raises InputError for a checkpoint that cannot be read."""
    plan = job.plan
    try:
        content = plan.checkpoint.read_bytes()
    except OSError:
        # loading it says what is wrong, as every command does
        job.load()
        raise InputError(f"{plan.checkpoint}: cannot be read") from None
    followed = not (
        plan.model is None
        and plan.checkpoint.suffix != ".safetensors"
        and checkpoint.kind_of(plan.checkpoint, content) == "pickle"
    )
    held = job.options.preprocessing
    told = {
        "factory": plan.model,
        "arguments": plan.arguments,
        "input_shape": plan.input_shape,
        "preprocessing": held.to_json() if held else None,
        "sources": source_hash.of_factory(plan.model, job.here) if plan.model else {},
        # a pickled module is built by code that only its loading finds
        "once": None if followed else uuid.uuid4().hex,
    }
    return Inputs(
        hashlib.sha256(content).hexdigest(), _hash(told), images(plan.data, plan.images) if data else None, followed
    )


def images(source: str, limit: int | None) -> str | None:
    """Hash over a file or folder of images; None for a name on the hub, which only loading it can tell."""
    path = Path(source)
    return _hash([files.sha256(path), path.is_dir(), limit]) if path.exists() else None


def cell(made: Inputs, network: Network, job: Job, which: Cell) -> str:
    """The key of a cell: of a recipe's rules, what they change of its scheme in this network."""
    plan = job.plan
    backend = backends.get(which.backend)
    told = {
        "cell": which.name,
        "checkpoint": made.checkpoint,
        "code": made.code,
        "pixels": network.pixels,
        "layers": [[name, plan.scheme_for(name, which.scheme).name] for name in network.sites],
        "input": plan.input,
        "image_type": plan.image_type.model_dump() if plan.image_type else None,
        "threads": plan.threads,  # load_ms is measured with it
        "source": [source_hash.of_mobconv(), source_hash.of_mobconv(which.backend)],
        "tools": {**_versions(*_TOOLS), **backend.versions()},
        "machine": _machine(),
    }
    return _hash(told)


def _machine() -> list[str]:
    """Core ML runs natively on some."""
    return [sys.platform, platform.machine(), platform.python_version()]


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _hash(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
