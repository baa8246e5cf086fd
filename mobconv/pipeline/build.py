"""The one way that a cell becomes a file and a row: quantize, encode, read back, measure.

`export` and `sweep` both call `build` and `measure_cell`, so a cell's name is the same file from either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobconv import backends
from mobconv.backends.base import Encoded, Entry
from mobconv.data.preprocessing import Preprocessing
from mobconv.evaluate.output_error import output_error
from mobconv.model.checkpoint import Checkpoint
from mobconv.pipeline import templates
from mobconv.pipeline.artifact import EMULATED, open_artifact
from mobconv.pipeline.context import Context
from mobconv.pipeline.measure import Measurement, Seconds, measure
from mobconv.pipeline.quantized import counts
from mobconv.results import Row
from mobconv.schemes import Cell, Scheme


@dataclass(frozen=True)
class Built:
    """A cell's file on disk, what encoding it gave, and what the check of its template noticed."""

    cell: Cell
    path: Path
    encoded: Encoded
    entry: Entry
    remark: str = ""


@dataclass(frozen=True)
class MeasuredCell:
    """A cell's row, and what its file gave on the data; scored is None without data."""

    row: Row
    measurement: Measurement


def build(
    cell: Cell, context: Context, path: Path, template: Path | None = None, seconds: Seconds | None = None
) -> Built:
    """Quantize a network and encode it as a cell, whole or not at all.

    template: its folder, where it is known already; None to convert it now unless it is there. A model with other
    biases may need another one. Raises what converting and encoding raise, such as BackendError for what the format
    cannot hold.
    """
    seconds = seconds or Seconds()
    backend = backends.get(cell.backend)
    quantized = context.quantized(cell.scheme)
    # of a scheme, and shared by its cells, as the time of a conversion is by those of a backend
    seconds.spent["quantize"] = round(quantized.seconds, 4)
    entry = context.entry(backend)
    model = quantized.model
    if model.biases:
        folder, model = context.template_for(backend, cell.compute, model)
    else:
        folder = template or context.template(backend, cell.compute)
    with seconds.of("encode"):
        calibration = None if quantized.calibration is None else quantized.calibration.record
        text = record(
            cell,
            context.checkpoint,
            context.labels,
            entry.preprocessing,
            context.options(backend),
            calibration,
            bool(quantized.model.biases),
        )
        encoded = backend.encode(folder, model, cell, path, text)
    return Built(cell, path, encoded, entry, templates.remark(folder))


def measure_cell(
    built: Built, context: Context, shown: str, seconds: Seconds, timing: bool = True, float_score: float | None = None
) -> MeasuredCell:
    """Read a built file back from disk, run it where there is data, time it, and make its row.

    shown: the path as the row has it; float_score: of the float baseline, where there is data.
    """
    cell, backend = built.cell, backends.get(built.cell.backend)
    with_data = context.plan.data is not None
    reference = context.reference(cell.scheme) if with_data else None
    if reference is not None:
        seconds.spent["reference"] = round(reference.seconds, 4)
    context.stage(f"run {cell}")
    with seconds.of("load"):
        artifact = open_artifact(built.path, context.plan.threads, backend)
    with artifact:
        preprocessing = built.entry.preprocessing or context.checkpoint.preprocessing
        measurement = measure(
            artifact,
            context.task if with_data else None,
            context.data if with_data else None,
            context.fed_through(artifact, preprocessing) if with_data else None,
            built.entry.program.example,
            context.float_runner(backend, cell.compute) if timing and artifact.verified != EMULATED else None,
            timing,
            seconds,
        )
    figures: dict[str, Any] = {"load_ms": round(seconds.spent["load"] * 1e3, 2)}
    scored = measurement.scored
    if scored is not None and reference is not None and float_score is not None:
        metric, error = context.task.metric, output_error(scored.outputs, reference.scored.outputs)
        figures |= {
            "samples": len(context.data),
            "skipped": context.data.skipped,
            "metric": metric.name,
            "score": scored.score,
            "float_score": float_score,
            "reference_score": reference.scored.score,
            "metrics": scored.metrics,
            "quantization_loss": round(metric.loss(float_score, reference.scored.score), 4),
            "conversion_loss": round(metric.loss(reference.scored.score, scored.score), 4),
            "agreement": context.task.agreement(scored.outputs, reference.scored.outputs),
            "snr_db": error.snr_db,
            "max_error": error.max_error,
        }
    row = Row.of_file(
        cell,
        built.encoded,
        built.path,
        shown,
        counts(context.quantized(cell.scheme).model, cell.scheme),
        artifact.verified,
        measurement.latency,
        seconds=seconds.spent,
        **figures,
    )
    rules, calibration = layer_rules(context, cell.scheme), context.quantized(cell.scheme).note
    row.note = "; ".join(text for text in (row.note, rules, calibration, built.remark) if text)
    return MeasuredCell(row, measurement)


def layer_rules(context: Context, scheme: Scheme) -> str:
    """What layer rules changed in a cell, to stand beside its row; empty for nothing."""
    names = [context.plan.scheme_for(name, scheme).name for name in context.program.sites]
    others = [f"{names.count(name)} at {name}" for name in dict.fromkeys(names) if name != scheme.name]
    return f"layer rules: of {len(names)} weights {', '.join(others)}" if others else ""


def record(
    cell: Cell,
    checkpoint: Checkpoint,
    labels: Sequence[str],
    preprocessing: Preprocessing | None,
    options: Mapping[str, Any] | None = None,
    calibration: Mapping[str, Any] | None = None,
    biases: bool = False,
) -> str:
    """The text that travels in an artifact, as JSON: cell, hash of the checkpoint, labels, the network's
    preprocessing, as `input` what of it the file leaves to its caller, the options of its backend; of calibrated cells
    hash, number and seed of the samples, and as `biases` that they are not the checkpoint's."""
    content: dict[str, Any] = {"cell": cell.name, "checkpoint": checkpoint.sha256, "labels": list(labels)}
    if checkpoint.preprocessing is not None:
        content["preprocessing"] = checkpoint.preprocessing.to_json()
    if preprocessing is not None:
        content["input"] = preprocessing.to_json()
    if calibration is not None:
        content["calibration"] = dict(calibration)
    if biases:
        content["biases"] = "changed"
    content |= options or {}
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
