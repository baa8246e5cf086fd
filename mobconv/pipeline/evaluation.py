"""Evaluate one artifact, of any tool, on data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mobconv.backends.base import Backend
from mobconv.common import files
from mobconv.data.arrays import Arrays, Samples
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing, stated
from mobconv.errors import UsageError, setting, worded
from mobconv.evaluate import class_names, input_spec, tasks
from mobconv.evaluate.tasks import Metric, Scores
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.labels import check_number, classes
from mobconv.model.labels import read as read_labels
from mobconv.model.loading import load
from mobconv.pipeline import samples as samples_of
from mobconv.pipeline.artifact import Artifact, backend_of, open_artifact
from mobconv.pipeline.context import Context, Plan
from mobconv.pipeline.measure import measure


@dataclass(frozen=True)
class Evaluation:
    """An artifact's figures, measured from the file.

    cell        that mobconv made it as; None for another tool's file
    samples     number of samples; scores: of each, (N,), in the metric's unit
    score       the task's metric; metrics: further ones by name
    latency_ms  median of one sample on one thread; None where no runtime of its own ran it (emulated)
    further     metrics of `metrics` by name, where their unit is not that of the task's metric
    input       what its caller does to pixels, None for arrays; input_by: where that is stated; input_text: in words
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
    input: Preprocessing | None
    input_by: str
    input_text: str
    further: Mapping[str, Metric] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: int = 0
    split: str = ""

    def to_json(self) -> dict[str, Any]:
        """All figures; scores of samples left out."""
        left_out = ("scores", "metric", "further", "input", "input_text")
        values = {name: value for name, value in vars(self).items() if name not in left_out}
        return values | {
            "metric": asdict(self.metric),
            "input": self.input.to_json() if self.input else None,
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }


def evaluate(
    artifact: Path | str,
    data: Path | str,
    *,
    task: str = "classification",
    metric: str | None = None,
    postprocess: str | None = None,
    higher_is_better: bool | None = None,
    checkpoint: Checkpoint | Path | str | None = None,
    samples: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | str | None = None,
    labels: Sequence[str] | Path | str | None = None,
    skip_bad: bool = False,
    threads: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Measure score, size and latency of one artifact on data.

    data: a parquet file, a folder of images by class, a CSV file of paths and labels, an .npz or .npy file of arrays,
    or a name on the hub; task, metric, postprocess, higher_is_better: what outputs mean and are judged by (see
    evaluate.tasks.get); checkpoint: the float network, for a task that compares with its outputs; samples: take the
    first so many, None for all; preprocessing: what the file's caller does to pixels, None where the file says it;
    labels: names of the outputs, or a file of them, None for those in the file; skip_bad: leave out images that cannot
    be decoded; threads: of the runtime, 0 for all cores; say: called with a line for each note and warning. Raises
    InputError for a file or data that cannot be read, or do not fit; UsageError where the file does not say what it
    takes, or the task needs a checkpoint; BackendError where its runtime is missing.
    """
    path = Path(artifact)
    the_task = tasks.get(task, metric, postprocess, higher_is_better)
    network = _network(the_task, checkpoint)
    backend = _warmed_up(path)
    with open_artifact(path, threads, backend) as opened:
        content = _content(opened, str(data), samples, stated(preprocessing), the_task, skip_bad)
        doubt = ""
        if the_task.name == "classification" and isinstance(content.data, Images):
            images, doubt = _matched(content.data, opened, labels)
            content = content._replace(data=images)
        if network is not None:
            context = Context(lambda: network, Plan(task=the_task, threads=threads), path.parent)
            content = content._replace(data=context.with_float_outputs(content.data))
        measurement = measure(opened, the_task, content.data, content.preprocessing)
    scored = measurement.scored
    assert scored is not None
    for text in (*(f"{data}: {note}" for note in content.data.notes), *([f"warning: {doubt}"] if doubt else ())):
        say(text)
    return Evaluation(
        artifact=str(path),
        cell=opened.record.get("cell"),
        samples=len(content.data),
        metric=the_task.metric,
        score=scored.score,
        metrics=scored.metrics,
        scores=scored.scores,
        file_bytes=files.size(path),
        latency_ms=measurement.latency.ms if measurement.latency else None,
        load_ms=opened.load_ms,
        verified=opened.verified,
        run_by=backend.runtime_label(opened.verified),
        input=content.preprocessing,
        input_by=content.source,
        input_text=content.text,
        further=tasks.further(the_task),
        warnings=(worded(doubt, "python"),) if doubt else (),
        notes=tuple(worded(note, "python") for note in content.data.notes),
        skipped=content.data.skipped,
        split=content.data.split,
    )


def _matched(images: Images, opened: Artifact, labels: Sequence[str] | Path | str | None) -> tuple[Images, str]:
    """Match the data's classes with a file's outputs, and return a doubt, '' for none. Raises InputError."""
    shapes = {spec.name: spec.shape for spec in opened.outputs}
    names = opened.labels
    if labels is not None:
        names = read_labels(labels)
        check_number(names, shapes, str(opened.path))
    return class_names.match(images, names, classes(shapes), str(opened.path))


class _Content(NamedTuple):
    """Data for a file; preprocessing: of its caller, None for arrays; source: where it is stated; text: in words."""

    data: Samples
    preprocessing: Preprocessing | None
    source: str
    text: str


def _content(
    opened: Artifact, data: str, limit: int | None, by_user: Preprocessing | None, task: tasks.Task, skip_bad: bool
) -> _Content:
    """Read the data that a file is fed. Raises InputError and UsageError, as `evaluate`."""
    expected: input_spec.Expected | None = None

    def preprocessing() -> Preprocessing:
        nonlocal expected
        expected = opened.image_input(by_user)
        return expected.preprocessing

    inputs = {spec.name: spec.shape for spec in opened.inputs}
    loaded = samples_of.load(data, inputs, preprocessing, limit, task, skip_bad)
    if isinstance(loaded, Arrays):
        text = ", ".join(f"{spec.name} {spec.dtype} {tuple(spec.shape)}" for spec in opened.inputs)
        return _Content(loaded, None, "its inputs", text)
    taken = preprocessing()
    assert expected is not None
    input_spec.check_image_size(loaded, taken, opened.inputs[0], str(opened.path))
    return _Content(loaded, taken, expected.source, input_spec.described(taken, opened.inputs[0]))


def _network(task: tasks.Task, checkpoint: Checkpoint | Path | str | None) -> Checkpoint | None:
    """The float network, for a task that compares with its outputs; None for others. Raises UsageError."""
    if not tasks.compares_with_float(task):
        return None
    if checkpoint is None:
        raise UsageError(
            f"the task {task.name} compares outputs with those of the float network: name it, "
            f"{setting('checkpoint', 'net.safetensors')}"
        )
    return checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)


def _warmed_up(path: Path) -> Backend:
    """The format of a file, its runtime imported: that takes seconds, and does not count as loading the file."""
    backend = backend_of(path)
    backend.open(path).close()
    return backend
