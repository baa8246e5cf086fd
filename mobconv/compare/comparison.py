"""Compare a file with its checkpoint: the steps with their intervals, the layers, and the mistake in preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.compare import corrected_call
from mobconv.compare.diagnosis import Diagnosis, NormalisesInside, diagnose, is_gain
from mobconv.compare.layer_errors import LayerErrors, layer_errors
from mobconv.compare.probe import ProbeResult
from mobconv.compare.waterfall import LossStep, network_inputs, preprocessing_of, run_waterfall
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing, stated
from mobconv.errors import InputError, UsageError, setting, worded
from mobconv.evaluate import class_names, input_spec, tasks
from mobconv.evaluate.inference import rows
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

    expected      preprocessing of the file's caller, None for arrays; input_text: what it takes, in words
    images        number of images, or of other samples
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
    expected: input_spec.Expected | None
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
    def samples(self) -> str:
        """What was compared on: 'images' or 'samples'."""
        return "samples" if self.expected is None else "images"

    @property
    def is_gain(self) -> bool:
        """Whether the file is better than the float baseline, beyond noise."""
        return is_gain(self.total)

    @property
    def doubts(self) -> tuple[str, ...]:
        """Doubts about the figures; they may contain settings (see mobconv.errors.setting)."""
        return tuple(text for text in (self.baseline_warning, self.names_warning) if text)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The doubts, with settings as in Python."""
        return tuple(worded(text, "python") for text in self.doubts)

    def to_json(self) -> dict[str, Any]:
        """All figures; outputs and scores of samples left out."""
        names = ("name", "measures", "score", "loss", "agreement_float", "agreement", "snr_db", "note")
        inside = self.inside
        return {
            "artifact": self.artifact,
            "images": self.images,
            "metric": asdict(self.metric),
            "verified": self.verified,
            "input": self.expected.preprocessing.to_json() if self.expected else None,
            "input_by": self.expected.source if self.expected else "its inputs",
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
    data: Path | str,
    *,
    takes: Preprocessing | Mapping[str, Any] | str | None = None,
    samples: int | None = None,
    task: str = "classification",
    skip_bad: bool = False,
    metric: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    checkpoint_options: Sequence[str] = (),
) -> Comparison:
    """Find out where the loss of one artifact comes from, and which mistake in preprocessing explains it.

    checkpoint: that the file was made from, loaded or a reference; artifact: of any tool; data: a parquet file, a
    folder of images by class, an .npz or .npy file of arrays, or a name on the hub; takes: what the file's caller does
    to pixels, where the file does not say it; samples: how many are taken, the first ones, None for all; task, metric:
    as for evaluate.tasks.get; skip_bad: leave out images that cannot be decoded; say: called with a line when a long
    step begins; checkpoint_options: words of the command line that say how the checkpoint is loaded, for the command to
    paste.

    Raises UsageError for a checkpoint without preprocessing, and for `takes` where the file normalises inside;
    InputError for a file or data that cannot be read, or do not fit, and for a file of another network; BackendError
    where a runtime is missing, or the format's files cannot be cut.
    """
    path, the_task = Path(artifact), tasks.get(task, metric)
    with open_artifact(path) as opened:
        loaded = checkpoint if isinstance(checkpoint, Checkpoint) else load(checkpoint)
        for what, count in (("inputs", len(opened.inputs)), ("outputs", len(opened.outputs))):
            if count != 1:
                raise InputError(
                    f"{path} has {count} {what}, and `mobconv compare` compares files with one. `mobconv evaluate` "
                    "with the checkpoint says how far its outputs are from the float network's"
                )
        say("data")
        inputs = {name: value.shape for name, value in loaded.example.items()}
        images = samples_of.load(str(data), inputs, lambda: preprocessing_of(loaded), samples, the_task, skip_bad)
        network = network_inputs(loaded, images)
        expected, doubt = None, ""
        if isinstance(images, Images):
            expected = opened.image_input(stated(takes), preprocessing_of(loaded), "takes")
            input_spec.check_image_size(images, expected.preprocessing, opened.inputs[0], str(path))
        elif takes is not None:
            raise UsageError(f"{setting('takes')} is for images, and {data} has arrays, which go in as they are")
        if isinstance(images, Images) and the_task.name == "classification":
            outputs = classes({spec.name: spec.shape for spec in opened.outputs})
            images, doubt = class_names.match(images, opened.labels or loaded.labels, outputs, str(path))
        for note in images.notes:
            say(f"{data}: {note}")
        feed = feed_of(opened, expected.preprocessing if expected else None, images)
        waterfall = run_waterfall(loaded, path, images, feed, the_task, say=say, other_biases=opened.has_other_biases)
        try:
            say("layers")
            errors = layer_errors(waterfall.alignment, network(rows(images.fed, slice(0, LAYER_IMAGES))))
            diagnosis = diagnose(waterfall, opened, expected, say)
        finally:
            waterfall.alignment.close()
    return _comparison(opened, loaded, diagnosis, errors, doubt, checkpoint_options)


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
        input_spec.described(expected.preprocessing, spec)
        if expected
        else f"{spec.name} {spec.dtype} {tuple(spec.shape)}",
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
    result, expected = diagnosis.probe_result, diagnosis.expected
    if result is None or result.named is None or expected is None:
        return ""
    spec, preprocessing, network = artifact.inputs[0], expected.preprocessing, preprocessing_of(checkpoint)
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
