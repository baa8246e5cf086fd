"""Where a file's loss comes from, all of it: the steps with their intervals, the layers, and the mistake in
preprocessing where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv import backends
from mobconv.backends.size_audit import record_of
from mobconv.compare import Injections, Step, corrected_call, layers, waterfall
from mobconv.compare.diagnosis import File, Inside, better, diagnose, difference
from mobconv.compare.probe import Finding
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import BackendError, UsageError
from mobconv.evaluate import inference, input_spec
from mobconv.evaluate.tasks import classification
from mobconv.model.checkpoint import Checkpoint
from mobconv.stats.paired import Difference

Floats = NDArray[np.float32]
Range = tuple[float, float, float]

LAYER_IMAGES = 32


@dataclass(frozen=True)
class Comparison:
    """What `mobconv compare` tells.

    steps, lost   of the waterfall, and per step the points lost against the step before (None for the first)
    total         from the float baseline to the whole file
    injections    layers, worst first; None where they cannot be told apart
    finding       of the probe; None: there was nothing to explain, or no mistake to look for in a `better` file
    inside        of a file that does not say what it takes, and was found to normalise inside
    off           whether the file's input is not what the network wants
    guessing      a warning where the float baseline is no better than guessing; or ''
    call          the corrected call, where a mistake is named
    sees, wants   least, mean and greatest value in front of the first layer, on the first images: in the file, and in
                  the checkpoint
    doubt         what to warn of: classes that data and file call by other names
    other_checkpoint  whether the file's record says that it was made from another checkpoint
    """

    artifact: str
    takes: input_spec.Expected
    told: str
    images: int
    steps: tuple[Step, ...]
    lost: tuple[Difference | None, ...]
    total: Difference
    injections: Injections
    finding: Finding | None
    inside: Inside | None
    off: bool
    guessing: str
    call: str
    sees: Range
    wants: Range
    verified: str
    other_checkpoint: bool
    doubt: str

    @property
    def better(self) -> bool:
        """Whether the file is better than the float baseline, beyond noise."""
        return better(self.total)

    def to_json(self) -> dict[str, Any]:
        """All figures; predictions and outputs left out."""
        kept = ("name", "measures", "top1", "lost", "agreement_float", "agreement", "snr_db", "note")
        steps = []
        for step, lost in zip(self.steps, self.lost, strict=True):
            steps.append({key: getattr(step, key) for key in kept} | {"interval": _interval(lost)})
        found = self.finding
        return {
            "artifact": self.artifact,
            "images": self.images,
            "verified": self.verified,
            "input": self.takes.preprocessing.to_json(),
            "input_by": self.takes.source,
            "normalises_inside": None
            if self.inside is None
            else {
                "takes": self.inside.option,
                "snr_db": _finite(self.inside.snr_db),
                "top1_normalised_twice": self.inside.top1,
            },
            "other_checkpoint": self.other_checkpoint,
            "warnings": [text for text in (self.guessing, self.doubt) if text],
            "steps": steps,
            "total": {"lost": self.total.points, "interval": _interval(self.total)},
            "layers": [asdict(each) for each in self.injections.layers],
            "between_layers": [asdict(each) for each in self.injections.between],
            "layer_images": self.injections.images,
            "not_compared": list(self.injections.skipped),
            "sees": [_finite(value) for value in self.sees],
            "wants": [_finite(value) for value in self.wants],
            "probe": None
            if found is None
            else {
                "named": found.named.mistake.name if found.named else None,
                "tried": found.tried,
                "images": found.images,
                "top1": found.top1,
                "reference_top1": found.reference_top1,
                "restored_top1": found.named.restored if found.named else None,
                "clean_db": _finite(found.clean_db),
                "trials": [{"name": t.mistake.name, "snr_db": _finite(t.forwards_db)} for t in found.trials],
                "corrected_call": self.call or None,
            },
        }


def compare(
    checkpoint: Checkpoint,
    path: Path,
    load: Callable[[Preprocessing], Images],
    told: Preprocessing | None = None,
    say: Callable[[str], None] = lambda text: None,
    options: Sequence[str] = (),
) -> Comparison:
    """Compare a file with its checkpoint on the images that `load` gives for the network's preprocessing.

    told: what the file's caller does (--takes), where the file does not say; options: of the command line, that say how
    the checkpoint is loaded, for a command to paste. Raises UsageError for a checkpoint without
    preprocessing, and what input_spec.expected and compare.waterfall raise.
    """
    network = checkpoint.preprocessing
    if network is None:
        raise UsageError(f"{checkpoint.path} does not say how images are preprocessed; say --preprocessing")
    backend = backends.for_path(path)
    missing = backend.missing()
    if missing:
        raise BackendError(missing)
    runner = backend.open(path)
    try:
        takes = input_spec.expected(runner, path, told, network, "--takes")
        spec, verified, labels = runner.inputs[0], runner.verified, runner.labels
        record = record_of(runner.record, path)
        named = labels or tuple(record.get("labels", ()))
        say("data")
        images = load(network)
        input_spec.check_shape(images.pixels, images.source, takes.preprocessing, spec, str(path))
        doubt = classification.check_names(images, named or checkpoint.labels, str(path))
        fall = waterfall(checkpoint, path, images, input_spec.feed(takes.preprocessing, spec), say=say)
        try:
            say("layers")
            injections = layers(fall.subject, network(images.pixels[:LAYER_IMAGES]))
            found = diagnose(fall, takes, File(inference.of_runner(runner), spec, network, images), say)
        finally:
            fall.subject.close()
    finally:
        runner.close()
    fall, takes, finding = found.fall, found.takes, found.finding
    guessing = classification.guessing(fall.steps[0].top1, fall.steps[0].outputs.shape[1])
    call = ""
    if finding and finding.named:
        if takes.preprocessing.untouched:
            call = corrected_call.exported_again(record, spec, checkpoint.path, network, options)
        call = call or corrected_call.corrected(backend.name, spec, network, takes.preprocessing)
    return Comparison(
        str(path),
        takes,
        input_spec.told(takes.preprocessing, spec),
        len(images),
        fall.steps,
        _differences(fall.steps, images),
        difference(fall.steps[0], fall.steps[-1], images),
        injections,
        finding,
        found.inside,
        found.off,
        guessing,
        call,
        _range(fall.at_cut),
        _range(fall.reference),
        verified,
        record.get("checkpoint", checkpoint.sha256) != checkpoint.sha256,
        doubt,
    )


def _differences(steps: tuple[Step, ...], images: Images) -> tuple[Difference | None, ...]:
    return (None, *(difference(before, after, images) for before, after in pairwise(steps)))


def _interval(found: Difference | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found) | {"within_noise": found.within_noise}


def _range(values: Floats) -> Range:
    return float(values.min()), float(values.mean()), float(values.max())


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
