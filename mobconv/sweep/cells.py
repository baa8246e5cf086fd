"""Cells of a sweep, built, measured and recorded; a cell that fails is a row."""

from __future__ import annotations

from dataclasses import replace

from mobconv import backends, results
from mobconv.common import files
from mobconv.errors import InputError, MobconvError, OutputError
from mobconv.evaluate.inference import rows
from mobconv.pipeline import templates
from mobconv.pipeline.artifact import open_artifact
from mobconv.pipeline.build import build, measure_cell
from mobconv.pipeline.measure import Seconds, feed_of, measure
from mobconv.results import OK, Row
from mobconv.schemes import Cell
from mobconv.sweep.context import SweepContext
from mobconv.sweep.store import Record


def make(
    context: SweepContext, cell: Cell, key: str, template: str, convert_seconds: float, timing: bool = True
) -> Row:
    """Build a cell, read it back, measure it, and record it.

    template: name of its folder; timing: whether to time it now. Raises OutputError, and SupersededError where another
    sweep has begun.
    """
    seconds = Seconds({"convert": round(convert_seconds, 4)})
    try:
        with context.store.workplace() as place:
            relative = cell.path(backends.get(cell.backend).suffix)
            folder = context.store.out / templates.FOLDER / template
            built = build(cell, context, place / relative.name, folder, seconds)
            measured = measure_cell(built, context, str(relative), seconds, timing, context.baseline.score)
            scored = measured.measurement.scored
            scores = None if scored is None else scored.scores
            timed = timing or measured.row.verified == "emulated"
            context.store.put(cell, Record(key, measured.row, timed, scores), built.path)
            return measured.row
    except Exception as error:  # a runtime may raise anything: the sweep goes on
        stop_when_full(context, error)
        row = Row.of(cell, results.FAILED, reason=reason(error), seconds=seconds.spent)
        context.store.put(cell, Record(key, row))
        return row


def time_cell(context: SweepContext, cell: Cell, key: str) -> Row:
    """Time a cell that was made without timings, and record them. Raises InputError where its file is gone."""
    record = context.store.get(cell, key)
    if record is None:
        raise InputError(f"{context.store.out / cell.name} changed while the sweep ran; run the same command again")
    backend, seconds = backends.get(cell.backend), Seconds(record.row.seconds)
    path = context.store.out / str(record.row.path)
    try:
        artifact = open_artifact(path, context.threads, backend)
        artifact.close()
        otherwise = context.entry(backend).preprocessing or context.checkpoint.preprocessing
        feed = feed_of(artifact, context.fed_through(artifact, otherwise), context.data)
        measurement = measure(
            artifact,
            example=feed(rows(context.data.fed, slice(0, 1))),
            baseline=context.float_runner(backend, cell.compute),
            seconds=seconds,
        )
        timing = measurement.latency
        row = replace(
            record.row,
            latency_ms=timing.ms if timing else None,
            latency_ratio=timing.ratio if timing else None,
            load_ms=round(artifact.load_ms, 2),
        )
        row.seconds = seconds.spent
    except Exception as error:
        stop_when_full(context, error)
        row = Row.of(cell, results.FAILED, reason=reason(error), seconds=seconds.spent)
    context.store.put(cell, Record(key, row, True, record.scores if row.status == OK else None))
    return row


def fail(context: SweepContext, cell: Cell, key: str, why: str) -> Row:
    """Record a row for a cell that cannot be tried again."""
    row = Row.of(cell, results.FAILED, reason=why)
    context.store.put(cell, Record(key, row))
    return row


def stop_when_full(context: SweepContext, error: Exception) -> None:
    """Raise OutputError, which ends the sweep, for a full disk, which is not the failure of one cell."""
    if isinstance(error, OutputError):
        raise error
    if files.disk_full(error):
        out = context.store.out
        raise OutputError(f"{out}: the disk is full; free some space and run the same command again") from error


def reason(error: Exception) -> str:
    """One line for a row: our messages as they are, others with their type."""
    text = str(error).strip()
    return text if isinstance(error, MobconvError) else f"{type(error).__name__}: {text.partition(chr(10))[0]}"
