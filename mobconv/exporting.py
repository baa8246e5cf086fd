"""One scheme into some formats: files, and what each costs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mobconv import backends, evaluate, files, results, sweep, templates
from mobconv.backends.base import Backend
from mobconv.checkpoint import Checkpoint
from mobconv.errors import BackendError, InputError, UsageError, did_you_mean
from mobconv.results import Row
from mobconv.schemes import Cell, Compute


def cells(to: str, scheme: str, compute: str | None) -> list[Cell]:
    """The cells of ``--to``, ``--scheme`` (@native and @fp16 as in a recipe) and ``--compute``. Raises UsageError."""
    if compute is not None and compute not in list(Compute):
        raise UsageError(f"--compute {compute!r}: fp32 or fp16{did_you_mean(compute, Compute)}")
    if compute == "fp32" and "@fp16" in scheme:
        raise UsageError(f"--scheme {scheme} and --compute fp32 do not go together")
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


def export(checkpoint: Checkpoint, wanted: Sequence[Cell], out: Path, say: Callable[[str], None]) -> list[Row]:
    """Write, read back and time each cell.

    Raises BackendError, before anything is written, when a backend is missing or cannot hold a cell.
    """
    for cell in wanted:
        backend = backends.get(cell.backend)
        missing, support = backend.missing(), backend.support(cell)
        if missing or support.stored_bits is None:
            raise BackendError(f"{cell}: {missing or support.reason}")
    files.ensure_folder(out)
    program = checkpoint.trace()
    if wanted[0].scheme.mode is not None and not program.sites:
        raise InputError(f"{checkpoint.path}: the network has no weights to quantize; export it as fp32 or fp16")
    say(f"quantize to {wanted[0].scheme}")
    weights = sweep.quantize_all(program, wanted[0].scheme)
    counts = sweep.describe(weights, wanted[0].scheme)
    rows = []
    with tempfile.TemporaryDirectory(prefix="mobconv-") as scratch:
        for cell in wanted:
            backend = backends.get(cell.backend)
            say(f"convert to {cell.backend}")
            folder = templates.template(backend, program, cell.compute, Path(scratch))
            path = out / cell.path(backend.suffix)
            encoded = backend.encode(folder, weights, cell, path, sweep.record(cell, checkpoint))
            plain = templates.float_artifact(backend, folder, program, cell.compute)
            timing, verified = _time(backend, path, plain, checkpoint)
            rows.append(results.of_file(cell, encoded, path, str(path), counts, verified, timing))
    return rows


def _time(backend: Backend, path: Path, plain: Path, checkpoint: Checkpoint) -> tuple[evaluate.Latency | None, str]:
    """Latency of a file against its float one, where its own runtime is here; and how it is run."""
    runner = backend.open(path, threads=1)
    try:
        if runner.verified == "emulated":
            return None, runner.verified
        baseline = backend.open(plain, threads=1)
        try:
            sample = np.zeros_like(next(iter(checkpoint.example.values())))
            return evaluate.latency(runner, baseline, sample), runner.verified
        finally:
            baseline.close()
    finally:
        runner.close()
