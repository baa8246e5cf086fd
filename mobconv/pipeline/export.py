"""One scheme into some formats: files, and what each costs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mobconv import backends, results
from mobconv.backends.base import Backend
from mobconv.common import files, locks
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import BackendError, InputError, UsageError, did_you_mean
from mobconv.evaluate import latency
from mobconv.model import image_input
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.trace import Program
from mobconv.pipeline import network, templates
from mobconv.results import Row
from mobconv.schemes import Cell, Compute


def cells(to: str, scheme: str, compute: str | None) -> list[Cell]:
    """The cells of ``--to``, ``--scheme`` (@native and @fp16 as in a recipe) and ``--compute``. Raises UsageError."""
    if compute is not None and compute not in list(Compute):
        raise UsageError(f"--compute {compute!r}: fp32 or fp16{did_you_mean(compute, Compute)}")
    if compute == "fp32" and "@fp16" in scheme:
        raise UsageError(f"--scheme {scheme} and --compute fp32 do not go together")
    if "," in scheme or "{" in scheme:
        raise UsageError(
            f"--scheme {scheme}: one scheme an export. `mobconv sweep` makes several: in a recipe, "
            + (f'schemes: ["{scheme}"]' if "{" in scheme else f"schemes: [{', '.join(scheme.split(','))}]")
        )
    names = [name.strip() for name in to.split(",") if name.strip()]
    if not names:
        raise UsageError(f"--to names no format: {', '.join(backends.names())}, with commas between")
    found = []
    for name in dict.fromkeys(names):
        backends.get(name)
        cell = Cell.parse(f"{name}/{scheme}")
        if compute or (name == "coreml" and cell.compute is Compute.FP32):
            cell = replace(cell, compute=Compute(compute or "fp16"))
        found.append(cell)
    return found


def export(
    checkpoint: Checkpoint, wanted: Sequence[Cell], out: Path, say: Callable[[str], None], takes: str | None = None
) -> list[Row]:
    """Write, read back and time each cell.

    takes: kind of the files' input, of image_input.INPUTS; None for images where the network takes them.

    Raises BackendError, before anything is written, when a backend is missing or cannot hold a cell; UsageError for a
    sweep's folder; LockedError where another process works in the folder.
    """
    for cell in wanted:
        backend = backends.get(cell.backend)
        missing, support = backend.missing(), backend.support(cell)
        if missing or support.stored_bits is None:
            raise BackendError(f"{cell}: {missing or support.reason}")
    _check_folder(out)
    files.ensure_folder(out)
    program = checkpoint.trace()
    if wanted[0].scheme.mode is not None and not program.sites:
        raise InputError(f"{checkpoint.path}: the network has no weights to quantize; export it as fp32 or fp16")
    takes = takes or _kind(checkpoint, program, say)
    say(f"quantize to {wanted[0].scheme}")
    weights = network.quantize_all(program, wanted[0].scheme)
    counts = network.describe(weights, wanted[0].scheme)
    rows = []
    with tempfile.TemporaryDirectory(prefix="mobconv-") as scratch, locks.folder(out, "mobconv export"):
        _check_folder(out)  # again, for a sweep that came and went while the network was traced
        for cell in wanted:
            backend = backends.get(cell.backend)
            say(f"convert to {cell.backend}")
            entered, left = _entrance(checkpoint, program, backend, takes)
            folder = templates.template(backend, entered, cell.compute, Path(scratch))
            path = out / cell.path(backend.suffix)
            encoded = backend.encode(folder, weights, cell, path, network.record(cell, checkpoint, left))
            plain = templates.float_artifact(backend, folder, entered, cell.compute)
            timing, verified = _time(backend, path, plain, next(iter(entered.example.values())))
            rows.append(results.of_file(cell, encoded, path, str(path), counts, verified, timing))
    return rows


def _check_folder(out: Path) -> None:
    """Raise UsageError for a folder whose files a sweep has measured, or was about to."""
    marks = [name for name in (results.CELLS, "results.json") if (out / name).exists()]
    if marks:
        raise UsageError(
            f"{out} is the folder of a sweep (it has {marks[0]}): an export there would replace files that the sweep "
            "measured, and its results would no longer be theirs. Choose another folder with -o"
        )


def _kind(checkpoint: Checkpoint, program: Program, say: Callable[[str], None]) -> str:
    """Images where the network takes them and says how they are normalised; else say why not."""
    if image_input.is_image(program, checkpoint.preprocessing):
        return "image"
    shapes = ", ".join(str(list(value.shape)) for value in program.example.values())
    if checkpoint.preprocessing is None:
        why = "it is not known how pixels are normalised; with --preprocessing they take pixels of 0 to 255"
    else:
        why = "which are no images of its preprocessing's channels"
    say(f"input: the files take the network's own tensors, {shapes}: {why}")
    return "tensor"


def _entrance(
    checkpoint: Checkpoint, program: Program, backend: Backend, takes: str
) -> tuple[Program, Preprocessing | None]:
    """As image_input.entrance. Raises UsageError for an image input of a network whose normalisation is not known."""
    if takes not in image_input.INPUTS:
        raise UsageError(f"--input {takes!r}: {', '.join(image_input.INPUTS)}{did_you_mean(takes, image_input.INPUTS)}")
    if takes != "tensor" and not image_input.is_image(program, checkpoint.preprocessing):
        raise UsageError(
            f"--input {takes}: {checkpoint.path} takes no images, or does not say how their pixels are normalised "
            "(--preprocessing)"
        )
    return image_input.entrance(program, checkpoint.preprocessing, checkpoint.labels, backend, takes)


def _time(backend: Backend, path: Path, plain: Path, sample: NDArray[Any]) -> tuple[latency.Latency | None, str]:
    """Latency of a file against its float one, where its own runtime is here; and how it is run."""
    runner = backend.open(path, threads=1)
    try:
        if runner.verified == "emulated":
            return None, runner.verified
        baseline = backend.open(plain, threads=1)
        try:
            return latency.latency(runner, baseline, sample), runner.verified
        finally:
            baseline.close()
    finally:
        runner.close()
