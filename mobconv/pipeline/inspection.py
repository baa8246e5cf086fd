"""Inspect one artifact: what it takes and gives, and the bytes of each of its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobconv.backends.base import Auditable, Backend
from mobconv.backends.size_audit import Audit, cell_of, judged, record_of
from mobconv.errors import BackendError, MobconvError
from mobconv.evaluate import input_spec
from mobconv.pipeline.artifact import backend_of, open_artifact


@dataclass(frozen=True)
class Inspection:
    """An artifact, taken apart.

    audit   what each weight takes on disk, compared with the bits that were asked
    header  file, cell, record, inputs, outputs, pixels and labels; `not_run` has the reason where it cannot be opened
    """

    audit: Audit
    header: dict[str, Any]


def inspect(artifact: Path | str, asked: float | None = None) -> Inspection:
    """Account for every byte of an artifact, of any tool.

    asked: bits a weight that were asked for; None for those of a file of ours. Raises InputError for a file that is
    missing, damaged or of no known format, BackendError where its format's packages are missing.
    """
    path = Path(artifact)
    backend = backend_of(path)
    if not isinstance(backend, Auditable):
        raise BackendError(
            f"The backend {backend.name} does not account for its files: it lacks the method `size_audit`"
        )
    audit = backend.size_audit(path)
    cell = cell_of(audit)
    reason = "" if cell is None or asked is not None else backend.support(cell).reason
    audit = judged(audit, asked if asked is not None or cell is None else cell.scheme.bits, reason)
    return Inspection(audit, _header(path, backend, audit))


def _header(path: Path, backend: Backend, audit: Audit) -> dict[str, Any]:
    """What the file is, takes and gives; opens it."""
    cell = cell_of(audit)
    header: dict[str, Any] = {
        "artifact": str(path),
        "cell": None if cell is None else cell.name,
        "record": record_of(audit.record, path),
    }
    try:
        opened = open_artifact(path, backend=backend)
    except MobconvError as error:
        text = str(error).removeprefix(f"{path}: ").partition("\n")[0]
        return {**header, "inputs": None, "outputs": None, "not_run": text}
    with opened:
        header |= {
            "inputs": [asdict(spec) for spec in opened.inputs],
            "outputs": [asdict(spec) for spec in opened.outputs],
            "pixels": None,
            "pixels_by": None,
            "labels": list(opened.labels),
        }
        try:
            expected = opened.image_input()
        except MobconvError:  # the file takes no images, or does not say what it does to them
            return {**header, "not_run": None}
        header["pixels"] = input_spec.described(expected.preprocessing, opened.inputs[0])
        header["pixels_by"] = expected.source
    return {**header, "not_run": None}
