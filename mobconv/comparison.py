"""Where a file's loss comes from, all of it: the steps with their intervals, the layers, and the mistake in
preprocessing where there is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv import advice, backends, evaluate, feeding, paired, probe
from mobconv.audit import record_of
from mobconv.checkpoint import Checkpoint
from mobconv.compare import Injections, Step, Waterfall, layers, waterfall
from mobconv.data import Images
from mobconv.errors import BackendError, UsageError
from mobconv.paired import Difference
from mobconv.preprocessing import Preprocessing
from mobconv.probe import Finding

Floats = NDArray[np.float32]
Range = tuple[float, float, float]

LAYER_IMAGES = 32
# Behind its own preprocessing a file computes what it computed when it was cut there and fed the reference's tensor;
# where it is off by more than a hundredth (40 dB), its input is not what the network wants. Bytes at a quantized input
# are off by 1/255 of the range and leave some 45 dB.
_OFF_DB = 40.0


@dataclass(frozen=True)
class Comparison:
    """What `mobconv compare` tells.

    steps, lost   of the waterfall, and per step the points lost against the step before (None for the first)
    total         from the float baseline to the whole file
    injections    layers, worst first; None where they cannot be told apart
    finding       of the probe; None: there was nothing to explain
    call          the corrected call, where a mistake is named
    sees, wants   least, mean and greatest value in front of the first layer, on the first images: in the file, and in
                  the checkpoint
    doubt         what to warn of: classes that data and file call by other names
    other_checkpoint  whether the file's record says that it was made from another checkpoint
    """

    artifact: str
    takes: feeding.Expected
    told: str
    images: int
    steps: tuple[Step, ...]
    lost: tuple[Difference | None, ...]
    total: Difference
    injections: Injections
    finding: Finding | None
    call: str
    sees: Range
    wants: Range
    verified: str
    other_checkpoint: bool
    doubt: str

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
    preprocessing, and what feeding.expected and compare.waterfall raise.
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
        takes = feeding.expected(runner, path, told, network, "--takes")
        spec, verified, labels = runner.inputs[0], runner.verified, runner.labels
        record = record_of(runner.record, path)
        named = labels or tuple(record.get("labels", ()))
        say("data")
        images = load(network)
        feeding.check_shape(images.pixels, images.source, takes.preprocessing, spec, str(path))
        doubt = evaluate.check_names(images, named or checkpoint.labels, str(path))
        fall = waterfall(checkpoint, path, images, feeding.feed(takes.preprocessing, spec), say=say)
        try:
            lost = _differences(fall.steps, images)
            total = paired.difference(
                fall.steps[0].predictions, fall.steps[-1].predictions, images.labels, images.groups
            )
            say("layers")
            injections = layers(fall.subject, network(images.pixels[:LAYER_IMAGES]))
            finding = None
            if _off(fall, lost[-1]):
                say("probe of the preprocessing")
                finding = _probe(fall, evaluate.of_runner(runner), takes, spec, network, images)
        finally:
            fall.subject.close()
    finally:
        runner.close()
    call = ""
    if finding and finding.named:
        if takes.preprocessing.untouched:
            call = advice.exported_again(record, spec, checkpoint.path, network, options)
        call = call or advice.corrected(backend.name, spec, network, takes.preprocessing)
    return Comparison(
        str(path),
        takes,
        feeding.told(takes.preprocessing, spec),
        len(images),
        fall.steps,
        lost,
        total,
        injections,
        finding,
        call,
        _range(fall.at_cut),
        _range(fall.reference),
        verified,
        record.get("checkpoint", checkpoint.sha256) != checkpoint.sha256,
        doubt,
    )


def _differences(steps: tuple[Step, ...], images: Images) -> tuple[Difference | None, ...]:
    pairs = pairwise(steps)
    found = [paired.difference(a.predictions, b.predictions, images.labels, images.groups) for a, b in pairs]
    return (None, *found)


def _off(fall: Waterfall, lost: Difference | None) -> bool:
    """Whether the last step needs explaining."""
    snr = fall.steps[-1].snr_db
    different = snr is not None and snr < _OFF_DB
    undefined = snr is None and not np.array_equal(fall.steps[-1].outputs, fall.steps[-2].outputs)
    return different or undefined or (lost is not None and not lost.within_noise)


def _probe(
    fall: Waterfall,
    run: Callable[[NDArray[Any]], Floats],
    takes: feeding.Expected,
    spec: Any,
    network: Preprocessing,
    images: Images,
) -> Finding:
    program = fall.subject.weights
    name, output = next(iter(program.example)), program.outputs[0]
    whole = np.dtype(spec.dtype).kind != "f" and spec.quantization is None
    return probe.probe(
        lambda pixels: run(feeding.typed(takes.preprocessing(pixels), spec)),
        lambda part: np.asarray(program.run({name: part})[output], np.float32),
        network,
        images.pixels,
        images.labels,
        bytes_only=whole,
        own_db=min((math.inf if step.snr_db is None else step.snr_db for step in fall.steps[2:-1]), default=0.0),
    )


def _interval(found: Difference | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found) | {"within_noise": found.within_noise}


def _range(values: Floats) -> Range:
    return float(values.min()), float(values.mean()), float(values.max())


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
