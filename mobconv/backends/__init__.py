"""The backends, by name. Third parties add theirs under the entry point group `mobconv.backends`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mobconv.backends.base import (
    Auditable,
    Backend,
    Encoded,
    Entry,
    Runner,
    Sliceable,
    Support,
    TensorSpec,
)
from mobconv.errors import BackendError, InputError, UsageError, did_you_mean
from mobconv.schemes import Cell

if TYPE_CHECKING:
    from mobconv.recipe import Format

# name -> module with an attribute `backend`; the order is that of tables
BUILT_IN = {
    "onnx": "mobconv.backends.onnx",
    "tflite": "mobconv.backends.tflite",
    "coreml": "mobconv.backends.coreml",
    "coreml-mlmodel": "mobconv.backends.mlmodel",
}
GROUP = "mobconv.backends"


def names() -> list[str]:
    """All backends, built in and registered."""
    registered = dict.fromkeys(point.name for point in entry_points(group=GROUP))
    return [*BUILT_IN, *(name for name in registered if name not in BUILT_IN)]


def get(name: str) -> Backend:
    """The backend of that name. Raises UsageError for an unknown one, BackendError for a plug-in that does not load."""
    if name in BUILT_IN:
        return cast(Backend, import_module(BUILT_IN[name]).backend)
    for point in entry_points(group=GROUP, name=name):
        try:
            return cast(Backend, point.load())
        except Exception as error:  # any error that importing another package's module can raise
            raise BackendError(
                f"the backend {name!r} cannot be loaded from {point.value}: {type(error).__name__}: {error}. Repair or "
                "uninstall the package that registers it"
            ) from error
    raise UsageError(f"Unknown backend {name!r}: {', '.join(names())}{did_you_mean(name, names())}")


def cell(text: str) -> Cell:
    """The cell of a name, `<backend>/<scheme>[@native][@fp16]`, with its backend's default precision of compute.

    Raises UsageError for an unknown backend, and for a name that `Cell.parse` refuses.
    """
    name, slash, _ = text.partition("/")
    return Cell.parse(text, get(name).default_compute) if slash and name else Cell.parse(text)


def formats() -> dict[str, Format]:
    """What a recipe has to know of each backend: its default precision of compute, and the schema of its options."""
    from mobconv.recipe import Format

    return {name: Format(get(name).default_compute, get(name).options_schema) for name in names()}


def for_path(path: Path) -> Backend:
    """The backend whose suffix the artifact has. Raises InputError when there is none."""
    suffixes = {get(name).suffix: name for name in names()}
    suffix = path.suffix.removeprefix(".")
    if suffix not in suffixes:
        known = ", ".join(f".{known}" for known in suffixes)
        if path.is_dir():
            artifacts = sorted(entry for entry in path.iterdir() if entry.suffix.removeprefix(".") in suffixes)
            example = f": {artifacts[0]}, for example" if artifacts else f", one of {known}"
            raise InputError(f"{path} is a folder; name an artifact in it{example}")
        ending = f"ends in .{suffix}" if suffix else "has no ending"
        raise InputError(f"{path}: mobconv opens {known}, and this name {ending}")
    return get(suffixes[suffix])


__all__ = [
    "Auditable",
    "Backend",
    "Encoded",
    "Entry",
    "Runner",
    "Sliceable",
    "Support",
    "TensorSpec",
    "cell",
    "for_path",
    "formats",
    "get",
    "names",
]
