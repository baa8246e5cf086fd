"""From the float baseline to the file as it is, in five steps; each is run, none inferred.

| step          | computes                                                       | what it can lose                  |
|---------------|----------------------------------------------------------------|-----------------------------------|
| float         | the checkpoint's module, in PyTorch                             |                                   |
| weights       | its program with the weights decoded from the file, in PyTorch  | by quantization of weights        |
| graph         | the file behind its own preprocessing, in fp32                  | by conversion: ops, biases, axes  |
| precision     | the same, as the file computes                                  | by fp16                           |
| preprocessing | the whole file, fed as it is in use                             | by what it makes of its input     |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.graph_view import Anatomy
from mobconv.compare.subject import Floats, Subject, prepare
from mobconv.compare.traced import Reference
from mobconv.data.labelled import Images
from mobconv.errors import InputError, UsageError
from mobconv.evaluate import inference, input_spec, output_error
from mobconv.evaluate.tasks import classification
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.trace import Program

_TRIED = 4  # images on which corresponding tensors are told apart
_AT_CUT = 8  # images whose tensor at the cut is returned
Feed = Callable[[NDArray[np.uint8]], NDArray[Any]]


@dataclass(frozen=True)
class Step:
    """One run.

    outputs          (N, classes); predictions: their top-1, (N,) int64
    lost             points of top-1 lost against the step before; negative: won
    agreement_float  fraction of images with the float baseline's top-1; agreement: with the step before's
    snr_db           against the outputs of the step before; None: equal, or undefined
    note             what to know of this step in this file, empty for nothing
    """

    name: str
    measures: str
    outputs: Floats
    predictions: NDArray[np.int64]
    top1: float
    lost: float
    agreement_float: float
    agreement: float
    snr_db: float | None
    note: str


@dataclass(frozen=True)
class Waterfall:
    """All steps, and what a look at the file's preprocessing needs.

    at_cut     (n, C, H, W) what the file itself makes of the first images at the cut, in the reference's layout
    reference  the same of the checkpoint: its own preprocessing
    """

    steps: tuple[Step, ...]
    subject: Subject
    at_cut: Floats
    reference: Floats

    @property
    def lost(self) -> float:
        """Points of top-1 from the first step to the last: the sum of all `lost`."""
        return 100 * (self.steps[0].top1 - self.steps[-1].top1)


def waterfall(
    checkpoint: Checkpoint,
    path: Path,
    images: Images,
    feed: Feed,
    threads: int = 0,
    say: Callable[[str], None] = lambda text: None,
    program: Program | None = None,
) -> Waterfall:
    """Run all steps on all images.

    feed: pixels (n, H, W, 3) uint8 -> what goes into the file's input for them; say: told of each step; program: the
    checkpoint's, where it is traced already. Raises InputError for a damaged file,
    one of another network or with other outputs, and for data that does not fit; BackendError where a file cannot be
    cut; UsageError for a checkpoint without preprocessing.
    """
    preprocessing = checkpoint.preprocessing
    if preprocessing is None:
        raise UsageError(f"{checkpoint.path} does not say how images are preprocessed: give its mean and std")
    input_spec.check_network_shape(images, next(iter(checkpoint.example.values())).shape, "the checkpoint")
    pixels = images.pixels
    say("read the file")
    subject = prepare(checkpoint, path, preprocessing(pixels[:_TRIED]), feed(pixels[:1]), threads, program)
    try:
        return _run(subject, images, feed, say)
    except BaseException:
        subject.close()
        raise


def _run(subject: Subject, images: Images, feed: Feed, say: Callable[[str], None]) -> Waterfall:
    anatomy, pixels = subject.anatomy, images.pixels
    preprocessing = subject.checkpoint.preprocessing
    assert preprocessing is not None
    inputs = preprocessing(pixels)

    def program(part: Floats) -> Floats:
        return np.asarray(decoded.run(part, {decoded.output})[decoded.output], np.float32)

    decoded = Reference(subject.weights)
    precise = anatomy.precise()
    say("float")
    runs = [inference.predict(subject.checkpoint.run, _channels_last(subject.checkpoint, inputs))]
    classification.check_labels(images, runs[0].shape[1])
    say("weights")
    runs.append(inference.predict(program, inputs))
    say("graph")
    own = from_cut(subject, anatomy, inputs) if precise is None else None
    runs.append(from_cut(subject, precise, inputs) if precise is not None else own)  # type: ignore[arg-type]
    if precise is not None:
        say("precision")
        precise.close()
        own = from_cut(subject, anatomy, inputs)
    runs.append(own)  # type: ignore[arg-type]
    say("preprocessing")
    runs.append(_whole(subject, pixels, feed))
    steps = _steps(runs, images, _notes(subject, precise))
    node = subject.frontier[0].node
    wanted = subject.reference.run(inputs[:_AT_CUT], {node})[node]
    return Waterfall(steps, subject, _at_cut(subject, feed(pixels[:_AT_CUT])), wanted)


def refed(found: Waterfall, images: Images, feed: Feed) -> Waterfall:
    """The same with the last step, which alone depends on it, run with another feed; images: all of them again."""
    kept = found.steps[:-1]
    runs = [*(step.outputs for step in kept), _whole(found.subject, images.pixels, feed)]
    steps = _steps(runs, images, {step.name: step.note for step in found.steps})
    at_cut = _at_cut(found.subject, feed(images.pixels[:_AT_CUT]))
    return replace(found, steps=steps, at_cut=at_cut)


def _at_cut(subject: Subject, fed: NDArray[Any]) -> Floats:
    anatomy, cut = subject.anatomy, subject.frontier[0]
    made = fed if cut.tensor in anatomy.inputs else anatomy.run({anatomy.inputs[0]: fed}, [cut.tensor])[cut.tensor]
    return cut.to_reference(np.asarray(made))


def _channels_last(checkpoint: Checkpoint, inputs: Floats) -> Floats:
    """The same values with channels next to each other in memory, half the time for convolutions on CPUs.

    Not for networks that take their tensors apart by `view`, which then fails.
    """
    moved = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    try:
        checkpoint.run(moved[:2])
    except InputError:
        return inputs
    return moved


def from_cut(subject: Subject, anatomy: Anatomy, inputs: Floats) -> Floats:
    """Outputs (N, classes) of the file fed the reference's tensors in front of its first layers."""
    nodes = {cut.node for cut in subject.frontier}

    def run(part: Floats) -> Floats:
        values = subject.reference.run(part, nodes)
        feeds = {cut.tensor: cut.to_file(values[cut.node]) for cut in subject.frontier}
        found = anatomy.run(feeds, [subject.output])[subject.output]
        return np.asarray(found, np.float32).reshape(len(part), -1)

    return inference.predict(run, inputs)


def _whole(subject: Subject, pixels: NDArray[np.uint8], feed: Feed) -> Floats:
    anatomy = subject.anatomy

    def run(part: Any) -> Floats:
        fed = feed(part)
        if len(fed) != len(part):
            raise InputError(f"{subject.path}: {len(fed)} inputs were made of {len(part)} images")
        found = anatomy.run({anatomy.inputs[0]: fed}, [subject.output])[subject.output]
        return np.asarray(found, np.float32).reshape(len(part), -1)

    return inference.predict(run, pixels)


_MEASURES = {
    "float": "the checkpoint in PyTorch",
    "weights": "the weights decoded from the file, in PyTorch",
    "graph": "the file's graph, computed in fp32",
    "precision": "at the file's own compute precision",
    "preprocessing": "the whole file behind its own preprocessing",
}


def _steps(runs: list[Floats], images: Images, notes: dict[str, str]) -> tuple[Step, ...]:
    steps: list[Step] = []
    for (name, measures), outputs in zip(_MEASURES.items(), runs, strict=True):
        top1 = classification.accuracy(outputs, images.labels).top1
        before = steps[-1] if steps else None
        near = output_error.closeness(outputs, before.outputs if before else outputs)
        predictions = np.where(np.isnan(outputs), -np.inf, outputs).argmax(axis=1).astype(np.int64)
        steps.append(
            Step(
                name,
                measures,
                outputs,
                predictions,
                top1,
                100 * (before.top1 - top1) if before else 0.0,
                float((predictions == (steps[0].predictions if steps else predictions)).mean()),
                float((predictions == (before.predictions if before else predictions)).mean()),
                near.snr_db,
                notes.get(name, ""),
            )
        )
    return tuple(steps)


def _notes(subject: Subject, precise: Anatomy | None) -> dict[str, str]:
    matches, said = subject.matches, []
    if matches.uses:
        said.append(f"not found in the file, and left as in the checkpoint: {', '.join(u.name for u in matches.uses)}")
    if matches.ops:
        extra = ", ".join(f"{op.kind} {op.name or op.outputs[0]}" for op in matches.ops)
        said.append(f"in the file, with weights of no layer of the checkpoint: {extra}")
    placed = [pair.use.name for pair in matches.pairs if pair.by == "place"]
    if placed:
        said.append(f"told by their place, with weights unlike the checkpoint's: {', '.join(placed)}")
    own = subject.anatomy.note
    notes = {"weights": "; ".join(said), "precision": own if precise else f"{own}: the same run"}
    if precise is None and "integer" in own:
        notes["graph"] = own
    return notes
