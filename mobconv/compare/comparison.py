"""Compare a file with its checkpoint: the steps with their intervals, the layers, and the mistake in preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.compare import corrected_call
from mobconv.compare.diagnosis import Diagnosis, NormalisesInside, diagnose, is_gain
from mobconv.compare.layer_errors import LayerErrors, layer_errors
from mobconv.compare.probe import ProbeResult
from mobconv.compare.waterfall import LossStep, preprocessing_of, run_waterfall
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError
from mobconv.evaluate import class_names, input_spec, tasks
from mobconv.evaluate.inference import single
from mobconv.evaluate.tasks import Metric
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.labels import classes
from mobconv.model.loading import load
from mobconv.pipeline import samples as samples_of
from mobconv.pipeline.artifact import Artifact, open_artifact
from mobconv.pipeline.measure import feed_of
from mobconv.stats.paired import Difference

Range = tuple[float, float, float]

LAYER_IMAGES = 32


@dataclass(frozen=True)
class Comparison:
    """Where the loss of a file comes from.

    expected      preprocessing of the file's caller; input_text: the same in words
    differences   of each step against the step before, None for the first
    total         from the float baseline to the whole file
    layer_errors  worst first
    probe_result  None where nothing is to be explained, or in a file that is better than the float baseline
    inside        of a file that does not say what it takes, and normalises inside; else None
    wrong_input   whether the file's input is not what the network wants
    corrected     code or command to paste, where a mistake is named; else ''
    seen, wanted  least, mean and greatest value in front of the first layer, on the first images: in the file, and in
                  the checkpoint
    verified      how the file was run, see pipeline.artifact.Artifact; run_by: the same in words
    other_checkpoint  whether the file was made from another checkpoint, by its record
    baseline_warning  what makes the float baseline doubtful, '' for nothing
    names_warning     doubts that classes of data and file are the same, '' for none
    """

    artifact: str
    expected: input_spec.Expected
    input_text: str
    images: int
    metric: Metric
    steps: tuple[LossStep, ...]
    differences: tuple[Difference | None, ...]
    total: Difference
    layer_errors: LayerErrors
    probe_result: ProbeResult | None
    inside: NormalisesInside | None
    wrong_input: bool
    corrected: str
    seen: Range
    wanted: Range
    verified: str
    run_by: str
    other_checkpoint: bool
    baseline_warning: str
    names_warning: str

    @property
    def is_gain(self) -> bool:
        """Whether the file is better than the float baseline, beyond noise."""
        return is_gain(self.total)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Doubts about the figures."""
        return tuple(text for text in (self.baseline_warning, self.names_warning) if text)

    def to_json(self) -> dict[str, Any]:
        """All figures; outputs and scores of samples left out."""
        names = ("name", "measures", "score", "loss", "agreement_float", "agreement", "snr_db", "note")
        inside = self.inside
        return {
            "artifact": self.artifact,
            "images": self.images,
            "metric": asdict(self.metric),
            "verified": self.verified,
            "input": self.expected.preprocessing.to_json(),
            "input_by": self.expected.source,
            "normalises_inside": None
            if inside is None
            else {
                "takes": inside.option,
                "snr_db": _finite(inside.snr_db),
                "score_normalised_twice": inside.score,
            },
            "other_checkpoint": self.other_checkpoint,
            "warnings": list(self.warnings),
            "steps": [
                {name: getattr(step, name) for name in names} | {"interval": _interval(difference)}
                for step, difference in zip(self.steps, self.differences, strict=True)
            ],
            "total": {"loss": self.total.loss, "interval": _interval(self.total)},
            "layers": [asdict(error) for error in self.layer_errors.layers],
            "between_layers": [asdict(error) for error in self.layer_errors.between],
            "layer_images": self.layer_errors.images,
            "not_compared": list(self.layer_errors.skipped),
            "sees": [_finite(value) for value in self.seen],
            "wants": [_finite(value) for value in self.wanted],
            "probe": None if self.probe_result is None else _probe_json(self.probe_result, self.corrected),
        }


def compare(
    checkpoint: Checkpoint | Path | str,
    artifact: Path | str,
    data: str,
    *,
    takes: Preprocessing | None = None,
    samples: int | None = None,
    task: str = "classification",
    skip_bad: bool = False,
    metric: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    checkpoint_options: Sequence[str] = (),
) -> Comparison:
    """Find out where the loss of one artifact comes from, and which mistake in preprocessing explains it.

    checkpoint: that the file was made from, loaded or a reference; artifact: of any tool; data: a parquet file, a
    folder of images by class, or a name on the hub; takes: what the file's caller does to pixels, where the file does
    not say it; samples: how many are taken, the first ones, None for all; task, metric: as for evaluate.tasks.get;
    skip_bad: leave out images that cannot be decoded; say: called with a line when a long step begins;
    checkpoint_options: words of the command line that say how the checkpoint is loaded, for the command to paste.

    Raises UsageError for a checkpoint without preprocessing, and for `takes` where the file normalises inside;
    InputError for a file or data that cannot be read, or do not fit, and for a file of another network; BackendError
    where a runtime is missing, or the format's files cannot be cut.
    """
    path, the_task = Path(artifact), tasks.get(task, metric)
    with open_artifact(path) as opened:
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
        network = preprocessing_of(loaded)
        single(opened.outputs, str(path), "output")
        expected = opened.image_input(takes, network, "takes")
        say("data")
        images = _images(data, loaded, network, samples, the_task, skip_bad)
        input_spec.check_image_size(images, expected.preprocessing, opened.inputs[0], str(path))
        doubt = ""
        if the_task.name == "classification":
            outputs = classes({spec.name: spec.shape for spec in opened.outputs})
            images, doubt = class_names.match(images, opened.labels or loaded.labels, outputs, str(path))
        for note in images.notes:
            say(f"{data}: {note}")
        feed = feed_of(opened, expected.preprocessing)
        waterfall = run_waterfall(loaded, path, images, feed, the_task, say=say, other_biases=opened.has_other_biases)
        try:
            say("layers")
            errors = layer_errors(waterfall.alignment, network(images.pixels[:LAYER_IMAGES]))
            diagnosis = diagnose(waterfall, opened, expected, say)
        finally:
            waterfall.alignment.close()
    return _comparison(opened, loaded, diagnosis, errors, doubt, checkpoint_options)


def _images(
    data: str, checkpoint: Checkpoint, network: Preprocessing, limit: int | None, task: tasks.Task, skip_bad: bool
) -> Images:
    """The images to compare on. Raises InputError, also for arrays that are not images."""
    inputs = {name: value.shape for name, value in checkpoint.example.items()}
    images = samples_of.load(data, inputs, lambda: network, limit, task, skip_bad)
    if not isinstance(images, Images):
        raise InputError(
            f"{data}: `mobconv compare` takes images: an .npz has them as bytes (N, height, width, channels). For "
            "other arrays, `mobconv evaluate` with the checkpoint says how far a file's outputs are from the float "
            "network's"
        )
    return images


def _comparison(
    artifact: Artifact,
    checkpoint: Checkpoint,
    diagnosis: Diagnosis,
    errors: LayerErrors,
    names_warning: str,
    checkpoint_options: Sequence[str],
) -> Comparison:
    waterfall, expected = diagnosis.waterfall, diagnosis.expected
    steps, spec = waterfall.steps, artifact.inputs[0]
    return Comparison(
        str(artifact.path),
        expected,
        input_spec.described(expected.preprocessing, spec),
        len(waterfall.images),
        waterfall.task.metric,
        steps,
        (None, *(waterfall.difference(position, position + 1) for position in range(len(steps) - 1))),
        waterfall.total(),
        errors,
        diagnosis.probe_result,
        diagnosis.inside,
        diagnosis.wrong_input,
        _corrected(artifact, checkpoint, diagnosis, checkpoint_options),
        _range(waterfall.seen),
        _range(waterfall.wanted),
        artifact.verified,
        artifact.backend.runtime_label(artifact.verified),
        artifact.record.get("checkpoint", checkpoint.sha256) != checkpoint.sha256,
        waterfall.task.warning(steps[0].score, {"output": steps[0].outputs}),
        names_warning,
    )


def _corrected(
    artifact: Artifact, checkpoint: Checkpoint, diagnosis: Diagnosis, checkpoint_options: Sequence[str]
) -> str:
    """Code or command that does it right, where a mistake is named: the export of a file of ours, else Python."""
    result, network = diagnosis.probe_result, preprocessing_of(checkpoint)
    if result is None or result.named is None:
        return ""
    spec, preprocessing = artifact.inputs[0], diagnosis.expected.preprocessing
    command = ""
    if preprocessing.untouched:
        command = corrected_call.exported_again(
            artifact.record, spec, checkpoint.reference, network, checkpoint_options
        )
    return command or corrected_call.corrected(artifact.backend, spec, network, preprocessing)


def _probe_json(result: ProbeResult, corrected: str) -> dict[str, Any]:
    named = result.named
    return {
        "named": named.mistake.name if named else None,
        "tried": result.tried,
        "images": result.images,
        "score": result.score,
        "reference_score": result.reference_score,
        "restored_score": named.restored if named else None,
        "clean_db": _finite(result.clean_db),
        "trials": [{"name": trial.mistake.name, "snr_db": _finite(trial.forwards_db)} for trial in result.trials],
        "corrected_call": corrected or None,
    }


def _interval(difference: Difference | None) -> dict[str, Any] | None:
    return None if difference is None else asdict(difference) | {"within_noise": difference.within_noise}


def _range(values: NDArray[np.float32]) -> Range:
    return float(values.min()), float(values.mean()), float(values.max())


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
