"""The backends, by name. Third parties add theirs under the entry point group `mobconv.backends`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import cast

from mobconv.backends.base import Backend, Encoded, Runner, Support, TensorSpec
from mobconv.errors import InputError, UsageError, did_you_mean

# name -> module with an attribute `backend`; the order is that of tables
BUILT_IN = {
    "onnx": "mobconv.backends.onnx",
    "tflite": "mobconv.backends.tflite",
    "coreml": "mobconv.backends.coreml",
    "coreml-mlmodel": "mobconv.backends.mlmodel",
}


def names() -> list[str]:
    """All backends, built in and registered."""
    return [*BUILT_IN, *(point.name for point in entry_points(group="mobconv.backends") if point.name not in BUILT_IN)]


def get(name: str) -> Backend:
    """The backend of that name. Raises UsageError for an unknown one."""
    if name in BUILT_IN:
        return cast(Backend, import_module(BUILT_IN[name]).backend)
    for point in entry_points(group="mobconv.backends", name=name):
        return cast(Backend, point.load())
    raise UsageError(f"{name!r} is no backend: {', '.join(names())}{did_you_mean(name, names())}")


def for_path(path: Path) -> Backend:
    """The backend whose suffix the artifact has. Raises InputError when there is none."""
    found = {get(name).suffix: name for name in names()}
    suffix = path.suffix.removeprefix(".")
    if suffix not in found:
        known = ", ".join(f".{known}" for known in found)
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.removeprefix(".") in found)
            example = f": {inside[0]}, for one" if inside else f", one of {known}"
            raise InputError(f"{path} is a folder; name an artifact in it{example}")
        ends = f"ends in .{suffix}" if suffix else "has no ending"
        raise InputError(f"{path}: mobconv opens {known}, and a name that {ends} is none of them")
    return get(found[suffix])


__all__ = ["Backend", "Encoded", "Runner", "Support", "TensorSpec", "for_path", "get", "names"]
