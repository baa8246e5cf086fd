"""Evaluate one artifact, of any tool, on labelled data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobconv.backends.base import Backend
from mobconv.common import files
from mobconv.data import labelled
from mobconv.data.preprocessing import Preprocessing
from mobconv.evaluate import input_spec, tasks
from mobconv.evaluate.tasks import Metric, Scores
from mobconv.evaluate.tasks.classification import check_class_names
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
    warnings    doubts about the figures
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

    def to_json(self) -> dict[str, Any]:
        """All figures; scores of samples left out."""
        left_out = ("scores", "metric", "input", "input_text")
        values = {name: value for name, value in vars(self).items() if name not in left_out}
        return values | {"metric": asdict(self.metric), "input": self.input.to_json(), "warnings": list(self.warnings)}


def evaluate(
    artifact: Path | str,
    data: str,
    *,
    task: str = "classification",
    samples: int | None = None,
    preprocessing: Preprocessing | None = None,
    threads: int = 0,
) -> Evaluation:
    """Measure accuracy, size and latency of one artifact on labelled data.

    data: a parquet file, a folder of images by class, or a name on the hub; samples: take the first so many, None for
    all; preprocessing: what the file's caller does to pixels, None where the file says it; threads: of the runtime, 0
    for all cores. Raises InputError for a file or data that cannot be read, or do not fit; UsageError where the file
    does not say what it takes; BackendError where its runtime is missing.
    """
    path = Path(artifact)
    backend = _warmed_up(path)
    with open_artifact(path, threads, backend) as opened:
        expected = opened.image_input(preprocessing)
        images = labelled.load(data, samples, expected.preprocessing.fit)
        input_spec.check_image_size(images, expected.preprocessing, opened.inputs[0], str(path))
        the_task = tasks.get(task)
        doubt = check_class_names(images, opened.labels, str(path)) if task == "classification" else ""
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
    )


def _warmed_up(path: Path) -> Backend:
    """The format of a file, its runtime imported: that takes seconds, and does not count as loading the file."""
    backend = backend_of(path)
    backend.open(path).close()
    return backend
