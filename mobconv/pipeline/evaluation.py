"""Evaluate one artifact, of any tool, on labelled data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobconv.backends.base import Backend
from mobconv.common import files
from mobconv.data import labelled
from mobconv.data.preprocessing import Preprocessing
from mobconv.evaluate import class_names, input_spec, tasks
from mobconv.evaluate.tasks import Metric, Scores
from mobconv.model.labels import check_number, classes
from mobconv.model.labels import read as read_labels
from mobconv.pipeline.artifact import backend_of, open_artifact
from mobconv.pipeline.measure import measure


@dataclass(frozen=True)
class Evaluation:
    """An artifact's figures, measured from the file.

    cell        that mobconv made it as; None for another tool's file
    samples     number of samples; scores: of each, (N,), in the metric's unit
    score       the task's metric; metrics: further ones by name
    latency_ms  median of one sample on one thread; None where no runtime of its own ran it (emulated)
    input       what its caller does to pixels; input_by: where that is stated; input_text: the same in words
    warnings    doubts about the figures; notes: what was chosen or left out of the data
    skipped     samples that could not be read and were left out; split: that was read, '' where there is none
    """

    artifact: str
    cell: str | None
    samples: int
    metric: Metric
    score: float
    metrics: dict[str, float]
    scores: Scores
    file_bytes: int
    latency_ms: float | None
    load_ms: float
    verified: str
    run_by: str
    input: Preprocessing
    input_by: str
    input_text: str
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: int = 0
    split: str = ""

    def to_json(self) -> dict[str, Any]:
        """All figures; scores of samples left out."""
        left_out = ("scores", "metric", "input", "input_text")
        values = {name: value for name, value in vars(self).items() if name not in left_out}
        return values | {
            "metric": asdict(self.metric),
            "input": self.input.to_json(),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }


def evaluate(
    artifact: Path | str,
    data: str,
    *,
    task: str = "classification",
    samples: int | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | Path | str | None = None,
    skip_bad: bool = False,
    threads: int = 0,
) -> Evaluation:
    """Measure accuracy, size and latency of one artifact on labelled data.

    data: a parquet file, a folder of images by class, a CSV file of paths and labels, or a name on the hub; samples:
    take the first so many, None for all; preprocessing: what the file's caller does to pixels, None where the file says
    it; labels: names of the outputs, or a file of them, None for those in the file; skip_bad: leave out images that
    cannot be decoded; threads: of the runtime, 0 for all cores. Raises InputError for a file or data that cannot be
    read, or do not fit; UsageError where the file does not say what it takes; BackendError where its runtime is
    missing.
    """
    path = Path(artifact)
    backend = _warmed_up(path)
    with open_artifact(path, threads, backend) as opened:
        expected = opened.image_input(preprocessing)
        images = labelled.load(data, samples, expected.preprocessing.fit, expected.preprocessing.channels, skip_bad)
        input_spec.check_image_size(images, expected.preprocessing, opened.inputs[0], str(path))
        the_task = tasks.get(task)
        doubt = ""
        if task == "classification":
            shapes = {spec.name: spec.shape for spec in opened.outputs}
            names, outputs = opened.labels, classes(shapes)
            if labels is not None:
                names = read_labels(labels)
                check_number(names, shapes, str(path))
            images, doubt = class_names.match(images, names, outputs, str(path))
        measurement = measure(opened, the_task, images, expected.preprocessing)
    scored = measurement.scored
    assert scored is not None
    return Evaluation(
        artifact=str(path),
        cell=opened.record.get("cell"),
        samples=len(images),
        metric=the_task.metric,
        score=scored.score,
        metrics=scored.metrics,
        scores=scored.scores,
        file_bytes=files.size(path),
        latency_ms=measurement.latency.ms if measurement.latency else None,
        load_ms=opened.load_ms,
        verified=opened.verified,
        run_by=backend.runtime_label(opened.verified),
        input=expected.preprocessing,
        input_by=expected.source,
        input_text=input_spec.described(expected.preprocessing, opened.inputs[0]),
        warnings=(doubt,) if doubt else (),
        notes=images.notes,
        skipped=images.skipped,
        split=images.split,
    )


def _warmed_up(path: Path) -> Backend:
    """The format of a file, its runtime imported: that takes seconds, and does not count as loading the file."""
    backend = backend_of(path)
    backend.open(path).close()
    return backend
