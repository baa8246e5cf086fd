"""Export: one scheme into one or more formats; files, and what each costs."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv import backends
from mobconv.common import files, locks
from mobconv.data.chosen import CalibrationData
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import (
    BackendError,
    CellError,
    InputError,
    MobconvError,
    OutputError,
    UsageError,
    did_you_mean,
    setting,
)
from mobconv.evaluate import tasks
from mobconv.evaluate.output_error import output_error
from mobconv.model import image_input
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.loading import labelled, load
from mobconv.pipeline.artifact import open_artifact
from mobconv.pipeline.build import build, measure_cell
from mobconv.pipeline.calibration_data import UNUSED, check_given
from mobconv.pipeline.context import Context, Plan
from mobconv.pipeline.example_error import example_error
from mobconv.pipeline.measure import Scored, Seconds
from mobconv.results import CELLS, FAILED, OK, UNSUPPORTED, Row
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


def refused(wanted: Sequence[Cell]) -> dict[Cell, str]:
    """Cells whose backend is missing here or cannot hold them, with the reason.

    Raises BackendError where none of the cells is left.
    """
    reasons = {}
    for cell in wanted:
        backend = backends.get(cell.backend)
        missing, support = backend.missing(), backend.support(cell)
        if missing or support.stored_bits is None:
            reasons[cell] = missing or support.reason
    if len(reasons) == len(wanted):
        raise BackendError("\n".join(f"{cell}: {reason}" for cell, reason in reasons.items()))
    return reasons


def failure(rows: Sequence[Row]) -> BackendError | CellError | None:
    """The error of an export some of whose files could not be written; None where all were.

    A CellError for a cell that failed where it should have worked, else a BackendError.
    """
    lost = [row for row in rows if row.status != OK]
    if not lost:
        return None
    reasons = [f"{row.cell}: {row.reason.removeprefix(f'{row.cell}: ')}" for row in lost]
    text = "\n".join([f"{len(lost)} of {len(rows)} files could not be written:", *reasons])
    return CellError(text) if any(row.status == FAILED for row in lost) else BackendError(text)


def export(
    source: Checkpoint | torch.nn.Module | Path | str,
    example: Any = None,
    *,
    to: Sequence[str] | str,
    scheme: str = "fp32",
    out: Path | str = "out",
    compute: str | None = None,
    input: str | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | str | None = None,
    labels: Sequence[str] | Path | str | None = None,
    data: str | None = None,
    samples: int | None = None,
    skip_bad: bool = False,
    calibrate: Path | str | None = None,
    calibrate_images: int | None = None,
    calibrate_seed: int | None = None,
    calibrate_split: str | None = None,
    allow_leak: bool = False,
    task: str = "classification",
    metric: str | None = None,
    postprocess: str | None = None,
    higher_is_better: bool | None = None,
    options: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Export a network to one or more formats, read each file back, compare it with PyTorch, and time it.

    source: a checkpoint of `load`, a reference to one, or a module in memory; example: of a module, its inputs with a
    batch of 1: a tensor or array, a tuple of them in the order of `forward`, or a mapping by name. to: names of formats
    (with commas between, as text); scheme: of the weights, as in `w4-kmeans`; out: folder, where the files are
    `<format>/<scheme>.<suffix>`; compute: 'fp32' or 'fp16', None for the format's default. input: what files take,
    'image' (pixels of 0 to 255), 'image-uint8' or 'tensor'; None for images where the network takes them and its
    preprocessing is known. preprocessing: of the network, where the checkpoint does not say, as in `load`. labels:
    names of the classes or a file of them, `none` for no names; None for those of the checkpoint, else of the data.
    data, samples, skip_bad: that the files are run on, as in `evaluate`; without, on random inputs beside PyTorch.
    calibrate: data that schemes such as w2-kmeans-gptq are fitted on, other samples than those of `data` and without
    labels; calibrate_images are chosen at random (1,024) by calibrate_seed (0), of calibrate_split (calibration, else
    train, validation); allow_leak: also those that are in `data`. task, metric, postprocess, higher_is_better: what
    outputs mean on that data, see evaluate.tasks.get. options: of formats, by name. say: called with a line when a
    long step begins.

    Returns a row for each file: path, bytes, effective bits, error against PyTorch, latency (see docs/results.md).
    Where only some of the formats can be written, the rows of the others have `status` unsupported or failed, and a
    reason. Raises UsageError for settings that do not fit, InputError for a network that cannot be traced, and for
    labels that are equal or not as many as the outputs; BackendError where no file can be written, as the formats are
    missing here or cannot hold the scheme; LockedError where another process works in the folder.
    """
    wanted = cells(to.split(",") if isinstance(to, str) else to, scheme, compute)
    reference = None if calibrate is None else str(calibrate)
    calibration = CalibrationData.of(reference, calibrate_images, calibrate_seed, calibrate_split, allow_leak)
    check_given([cell.scheme for cell in wanted], calibration)
    checkpoint = _checkpoint(source, example, preprocessing, labels)
    plan = Plan(
        data=data,
        limit=samples,
        skip_bad=skip_bad,
        name_classes=labels is None,
        task=tasks.get(task, metric, postprocess, higher_is_better),
        input="tensor",
        options=options or {},
        calibration=calibration,
    )
    return export_cells(checkpoint, wanted, Path(out), say, input, plan)


def _checkpoint(
    source: Checkpoint | torch.nn.Module | Path | str,
    example: Any,
    preprocessing: Preprocessing | Mapping[str, Any] | str | None,
    labels: Sequence[str] | Path | str | None,
) -> Checkpoint:
    if isinstance(source, Checkpoint):
        return labelled(source, labels)
    return load(source, example, preprocessing=preprocessing, labels=labels)


def export_cells(
    checkpoint: Checkpoint,
    wanted: Sequence[Cell],
    out: Path,
    say: Callable[[str], None] = lambda text: None,
    kind: str | None = None,
    plan: Plan | None = None,
) -> list[Row]:
    """Write, read back, compare and time each cell; see `export`. plan: its input is replaced by `kind`."""
    plan = plan or Plan(input="tensor")
    reasons = refused(wanted)
    check_given([cell.scheme for cell in wanted], plan.calibration)
    _check_folder(out)
    files.ensure_folder(out)
    with tempfile.TemporaryDirectory(prefix="mobconv-") as scratch:
        context = Context(lambda: checkpoint, plan, Path(scratch), say)
        program = context.program
        unquantized = program.unquantized() if wanted[0].scheme.mode is not None else ""
        for note in filter(None, (*program.notes, unquantized)):
            say(f"{checkpoint.name}: {note}")
        if wanted[0].scheme.mode is not None and not program.sites:
            raise InputError(
                f"{checkpoint.reference}: the network has no weights to quantize; export it as fp32 or fp16"
            )
        context.plan = replace(context.plan, input=_kind(context, kind, say))
        context.labels  # noqa: B018  checked before the first file is written
        baseline = context.run_baseline() if context.plan.data is not None else None
        for note in _notes(context, baseline, [cell for cell in wanted if cell not in reasons]):
            say(note)
        rows, errors = [], []
        try:
            with locks.folder(out, "mobconv export"):
                _check_folder(out)  # again, for a sweep that came and went while the network was traced
                for cell in wanted:
                    if cell in reasons:
                        rows.append(Row.of(cell, UNSUPPORTED, reason=reasons[cell]))
                        continue
                    try:
                        rows.append(_export_cell(cell, context, out, baseline))
                    except MobconvError as error:
                        if isinstance(error, OutputError):
                            raise
                        errors.append(error)
                        status = UNSUPPORTED if isinstance(error, BackendError) else FAILED
                        rows.append(Row.of(cell, status, reason=error.text))
        finally:
            context.close()
    if errors and not any(row.status == OK for row in rows):
        raise (
            errors[0]
            if len(rows) == 1
            else type(errors[0])("\n".join(f"{row.cell}: {row.reason.removeprefix(f'{row.cell}: ')}" for row in rows))
        )
    return rows


def _notes(context: Context, baseline: Scored | None, possible: Sequence[Cell]) -> Iterator[str]:
    """What to say of evaluation and calibration data before files are written. Raises what reading them does."""
    if baseline is not None:
        yield from (f"{context.data.source}: {note}" for note in context.data.notes)
        if warning := context.task.warning(baseline.score, baseline.outputs):
            yield f"warning: {warning}"
    calibration = context.plan.calibration
    if calibration is not None:
        used = any(context.calibrates(cell.scheme) for cell in possible)
        yield from (f"{calibration.data}: {note}" for note in (context.calibration_facts.notes if used else (UNUSED,)))


def _export_cell(cell: Cell, context: Context, out: Path, baseline: Scored | None) -> Row:
    """Write a file and measure it: against PyTorch on the data, of which `baseline` is the module's, else on noise.

    A file that cannot be read back is removed. Raises MobconvError; what converters and runtimes raise is a CellError.
    """
    backend, seconds = backends.get(cell.backend), Seconds()
    path = out / cell.path(backend.suffix)
    try:
        built = build(cell, context, path, seconds=seconds)
        try:
            measured = measure_cell(
                built, context, str(path), seconds, float_score=None if baseline is None else baseline.score
            )
            scored = measured.measurement.scored
            if baseline is not None and scored is not None:
                deviation = output_error(scored.outputs, baseline.outputs)
            else:
                with open_artifact(path, context.plan.threads, backend) as artifact:
                    deviation = example_error(artifact, context.checkpoint, built.entry)
        except Exception:
            files.remove(path)
            raise
    except MobconvError:
        raise
    except Exception as error:  # converters and runtimes raise anything
        if files.disk_full(error):
            raise
        text = str(error).strip().partition("\n")[0]
        raise CellError(f"{cell}: {type(error).__name__}: {text}") from error
    row = measured.row
    row.float_snr_db, row.float_error = deviation.snr_db, deviation.max_error
    if not math.isfinite(deviation.max_error):
        row.float_error = None
        row.note = "; ".join(
            filter(None, (row.note, "its outputs are not finite (NaN or infinity) where it was compared with PyTorch"))
        )
    return row


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
        if all(value.ndim != 4 for value in program.example.values()):
            return "tensor"  # nothing that could be images
        why = "normalisation of pixels is not known; with a preprocessing they would take pixels of 0 to 255"
    else:
        why = "these are not images with the channels of its preprocessing"
    say(f"input: the files take the network's own tensors, {shapes}: {why}")
    return "tensor"
