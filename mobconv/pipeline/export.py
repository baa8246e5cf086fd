"""Export: one scheme into one or more formats; files, and what each costs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv import backends
from mobconv.common import files, locks
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import BackendError, InputError, UsageError, did_you_mean, setting
from mobconv.model import image_input
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.loading import load
from mobconv.model.sources.in_memory import load as in_memory
from mobconv.pipeline.build import build, measure_cell
from mobconv.pipeline.context import Context, Plan
from mobconv.pipeline.measure import Seconds
from mobconv.results import CELLS, Row
from mobconv.schemes import Cell, Compute

if TYPE_CHECKING:
    import torch


def cells(to: Sequence[str], scheme: str, compute: str | None = None) -> list[Cell]:
    """The cells of some formats, a scheme (with @native, @fp16 and @fp32 as in a recipe) and a precision of compute.

    compute: None for the scheme's, else each backend's default. Raises UsageError.
    """
    if compute is not None and compute not in list(Compute):
        raise UsageError(f"{setting('compute', compute)}: fp32 or fp16{did_you_mean(compute, Compute)}")
    if "," in scheme or "{" in scheme:
        key = f'schemes: ["{scheme}"]' if "{" in scheme else f"schemes: [{', '.join(scheme.split(','))}]"
        raise UsageError(
            f"{setting('scheme', scheme)}: one scheme an export. `mobconv sweep` makes several: in a recipe, {key}"
        )
    names = [name.strip() for name in to if name.strip()]
    if not names:
        raise UsageError(f"{setting('to')} names no format: {', '.join(backends.names())}, with commas between")
    wanted = []
    for name in dict.fromkeys(names):
        cell = backends.cell(f"{name}/{scheme}")
        if compute is not None:
            stated = [each for each in Compute if f"@{each}" in scheme]
            if stated and stated != [Compute(compute)]:
                raise UsageError(f"{setting('scheme', scheme)} and {setting('compute', compute)} do not go together")
            cell = replace(cell, compute=Compute(compute))
        wanted.append(cell)
    return wanted


def check_support(wanted: Sequence[Cell]) -> None:
    """Raise BackendError where a backend is missing or cannot hold a cell."""
    for cell in wanted:
        backend = backends.get(cell.backend)
        missing, support = backend.missing(), backend.support(cell)
        if missing or support.stored_bits is None:
            raise BackendError(f"{cell}: {missing or support.reason}")


def export(
    source: Checkpoint | torch.nn.Module | Path | str,
    example: Any = None,
    *,
    to: Sequence[str] | str,
    scheme: str = "fp32",
    out: Path | str = "out",
    compute: str | None = None,
    input: str | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Export a network to one or more formats, read each file back, and time it.

    source: a checkpoint of `load`, a reference to one, or a module in memory; example: of a module, its inputs with a
    batch of 1: a tensor or array, a tuple of them in the order of `forward`, or a mapping by name. to: names of formats
    (with commas between, as text); scheme: of the weights, as in `w4-kmeans`; out: folder, where the files are
    `<format>/<scheme>.<suffix>`; compute: 'fp32' or 'fp16', None for the format's default. input: what files take,
    'image' (pixels of 0 to 255), 'image-uint8' or 'tensor'; None for images where the network takes them and its
    preprocessing is known. preprocessing, labels: of a module in memory. options: of formats, by name. say: called with
    a line when a long step begins.

    Returns a row for each file: path, bytes, effective bits, latency (see docs/results.md). Raises UsageError for
    settings that do not fit, InputError for a network that cannot be traced, BackendError, before anything is written,
    when a format is missing here or cannot hold the scheme; LockedError where another process works in the folder.
    """
    wanted = cells(to.split(",") if isinstance(to, str) else to, scheme, compute)
    return export_cells(_checkpoint(source, example, preprocessing, labels), wanted, Path(out), say, input, options)


def _checkpoint(
    source: Checkpoint | torch.nn.Module | Path | str,
    example: Any,
    preprocessing: Preprocessing | None,
    labels: Sequence[str],
) -> Checkpoint:
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, str | Path):
        return load(source, preprocessing=preprocessing)
    return in_memory(source, example, preprocessing, labels)


def export_cells(
    checkpoint: Checkpoint,
    wanted: Sequence[Cell],
    out: Path,
    say: Callable[[str], None] = lambda text: None,
    kind: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Row]:
    """Write, read back and time each cell; see `export`."""
    check_support(wanted)
    _check_folder(out)
    files.ensure_folder(out)
    with tempfile.TemporaryDirectory(prefix="mobconv-") as scratch:
        context = Context(lambda: checkpoint, Plan(input="tensor", options=options or {}), Path(scratch), say)
        program = context.program
        unquantized = program.unquantized() if wanted[0].scheme.mode is not None else ""
        for note in filter(None, (*program.notes, unquantized)):
            say(f"{checkpoint.name}: {note}")
        if wanted[0].scheme.mode is not None and not program.sites:
            raise InputError(
                f"{checkpoint.reference}: the network has no weights to quantize; export it as fp32 or fp16"
            )
        context.plan = replace(context.plan, input=_kind(context, kind, say))
        rows = []
        try:
            with locks.folder(out, "mobconv export"):
                _check_folder(out)  # again, for a sweep that came and went while the network was traced
                for cell in wanted:
                    path, seconds = out / cell.path(backends.get(cell.backend).suffix), Seconds()
                    built = build(cell, context, path, seconds=seconds)
                    rows.append(measure_cell(built, context, str(path), seconds).row)
        finally:
            context.close()
    return rows


def _check_folder(out: Path) -> None:
    """Raise UsageError for the folder of a sweep: its rows would no longer describe its files."""
    marks = [name for name in (CELLS, "results.json") if (out / name).exists()]
    if marks:
        raise UsageError(
            f"{out} is the folder of a sweep (it has {marks[0]}): an export there would replace files that the sweep "
            f"measured, and its results would no longer be theirs. Choose another folder with {setting('out')}"
        )


def _kind(context: Context, kind: str | None, say: Callable[[str], None]) -> str:
    """The kind of input that is asked for, checked; without one, images where network and preprocessing allow it."""
    checkpoint, program = context.checkpoint, context.program
    images = image_input.is_image(program, checkpoint.preprocessing)
    if kind is not None:
        if kind not in image_input.INPUTS:
            known = ", ".join(image_input.INPUTS)
            raise UsageError(f"{setting('input', kind)}: {known}{did_you_mean(kind, image_input.INPUTS)}")
        if kind != "tensor" and not images:
            raise UsageError(
                f"{setting('input', kind)}: {checkpoint.reference} takes no images, or does not say how their pixels "
                f"are normalised ({setting('preprocessing')})"
            )
        return kind
    if images:
        return "image"
    shapes = ", ".join(str(list(value.shape)) for value in program.example.values())
    if checkpoint.preprocessing is None:
        why = "normalisation of pixels is not known; with a preprocessing they would take pixels of 0 to 255"
    else:
        why = "these are not images with the channels of its preprocessing"
    say(f"input: the files take the network's own tensors, {shapes}: {why}")
    return "tensor"
