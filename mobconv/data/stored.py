"""Samples in a folder, as one process writes them for others: arrays as .npy files, which are mapped into memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.common import files
from mobconv.data.arrays import Arrays, Samples
from mobconv.data.labelled import Images

_CONTENT = "content.json"


def exists(folder: Path) -> bool:
    """Whether samples were written there, all of them."""
    return (folder / _CONTENT).exists()


def write(folder: Path, samples: Samples) -> None:
    """Write samples. Raises OutputError where the folder cannot be written."""
    files.ensure_folder(folder)
    count = 0

    def stored(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
        """Names of files by names of arrays."""
        nonlocal count
        names = {}
        for name, value in arrays.items():
            names[name] = f"{count}.npy"
            count += 1
            with files.aside(folder / names[name]) as partial, partial.open("wb") as stream:
                np.save(stream, value)
        return names

    fixed = {"groups": samples.groups} if samples.groups is not None else {}
    if isinstance(samples, Images):
        inputs, fixed = {"pixels": samples.pixels}, fixed | {"labels": samples.labels}
    else:
        inputs = dict(samples.inputs)
    content = {
        "kind": samples.kind,
        "source": samples.source,
        "names": list(samples.names),
        "sha256": samples.sha256,
        "split": samples.split,
        "skipped": samples.skipped,
        "notes": list(samples.notes),
        "inputs": stored(inputs),
        "targets": stored(samples.targets),
        "fixed": stored(fixed),
        "float_outputs": None if samples.float_outputs is None else stored(samples.float_outputs),
    }
    files.write_whole(folder / _CONTENT, json.dumps(content))


def read(folder: Path) -> Samples:
    """Read samples that `write` wrote."""
    content = json.loads((folder / _CONTENT).read_text())

    def arrays(names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        return {name: np.load(folder / file, mmap_mode="r", allow_pickle=False) for name, file in names.items()}

    inputs, targets, fixed = (arrays(content[name]) for name in ("inputs", "targets", "fixed"))
    outputs = None if content["float_outputs"] is None else arrays(content["float_outputs"])
    about: dict[str, Any] = {
        "source": content["source"],
        "names": tuple(content["names"]),
        "sha256": content["sha256"],
        "groups": fixed.get("groups"),
        "targets": targets,
        "float_outputs": outputs,
        "split": content["split"],
        "skipped": content["skipped"],
        "notes": tuple(content["notes"]),
    }
    if content["kind"] == "images":
        return Images(pixels=inputs["pixels"], labels=fixed["labels"], **about)
    return Arrays(inputs=inputs, **about)
