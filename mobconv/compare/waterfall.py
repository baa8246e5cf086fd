"""From the float baseline to the file as it is, in five steps; each is run, none inferred.

| step          | computes                                                       | what it can lose                  |
|---------------|----------------------------------------------------------------|-----------------------------------|
| float         | the checkpoint's module, in PyTorch                             |                                   |
| weights       | its program with the weights decoded from the file, in PyTorch  | by quantization of weights        |
|               | (and with its biases, where calibration corrected them)         |                                   |
| graph         | the file behind its own preprocessing, in fp32                  | by conversion: ops, biases, axes  |
| precision     | the same, at the file's own compute precision                   | by fp16                           |
| preprocessing | the whole file, fed as its caller feeds it                      | by what it does to its input      |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import TensorSpec
from mobconv.backends.graph_view import GraphView
from mobconv.compare.alignment import Alignment, Floats, align
from mobconv.compare.program_view import ProgramView
from mobconv.data.arrays import Arrays, Samples
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError, UsageError, setting
from mobconv.evaluate.inference import Fed, Feed, count, predict, rows
from mobconv.evaluate.input_spec import array_feed, check_arrays, check_network_input
from mobconv.evaluate.output_error import output_error
from mobconv.evaluate.tasks import Scores, Task, compares_with_float
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.program import Program
from mobconv.pipeline.measure import score
from mobconv.stats import paired

_TRIED = 4  # images on which tensors are checked to correspond
_AT_CUT = 8  # images whose values at the cut are kept


@dataclass(frozen=True)
class LossStep:
    """One run on all samples.

    outputs          (N, ...), the network's first output
    scores           of each sample, (N,), in the metric's unit; score: the metric of all
    loss             against the step before, in the metric's unit; negative for a gain
    agreement_float  fraction of samples that mean the same as in the float baseline; agreement: as in the step before
    snr_db           of the outputs against those of the step before; None where they are equal, or it is undefined
    note             how this step was run for this file, empty for nothing to say
    """

    name: str
    measures: str
    outputs: Floats
    scores: Scores
    score: float
    loss: float
    agreement_float: float
    agreement: float
    snr_db: float | None
    note: str


@dataclass(frozen=True)
class Waterfall:
    """All steps, and what the diagnosis of the file's preprocessing needs.

    images  images, or arrays of the network's only input
    seen    values of the first images at the cut, (n, C, H, W) in the program's layout, as the file computes them
    wanted  the same behind the checkpoint's own preprocessing
    """

    steps: tuple[LossStep, ...]
    alignment: Alignment
    task: Task
    images: Samples
    seen: Floats
    wanted: Floats

    @property
    def loss(self) -> float:
        """From the first step to the last: the sum of all losses."""
        return self.task.metric.loss(self.steps[0].score, self.steps[-1].score)

    def difference(self, before: int, after: int) -> paired.Difference:
        """How much worse one step is than another, by their positions, with its interval."""
        scores = self.steps[before].scores, self.steps[after].scores
        return self.task.metric.difference(*scores, self.images.groups)

    def total(self) -> paired.Difference:
        """From the float baseline to the whole file."""
        return self.difference(0, -1)


def run_waterfall(
    checkpoint: Checkpoint,
    path: Path,
    images: Samples,
    feed: Feed,
    task: Task,
    threads: int = 0,
    say: Callable[[str], None] = lambda text: None,
    program: Program | None = None,
    other_biases: bool = False,
) -> Waterfall:
    """Run all steps on all images.

    feed: samples, as `images.fed` has them -> the file's input; say: called with the name of each step when it begins;
    program: the checkpoint's, where it is traced already; other_biases: see `align`. The alignment of the result is
    open: the caller closes it. Raises InputError for a damaged file, one of another network or with other outputs, and
    for data that does not fit; BackendError for a format whose files cannot be cut; UsageError for a checkpoint without
    preprocessing.
    """
    inputs = network_inputs(checkpoint, images)
    tried, first = (rows(images.fed, slice(0, number)) for number in (_TRIED, 1))
    say("read the file")
    alignment = align(checkpoint, path, inputs(tried), feed(first), threads, program, other_biases)
    try:
        return _run(alignment, inputs, images, feed, task, say)
    except BaseException:
        alignment.close()
        raise


def network_inputs(checkpoint: Checkpoint, data: Samples) -> Callable[[Any], NDArray[Any]]:
    """Samples, as `data.fed` has them -> the network's only input (n, ...).

    Raises InputError where they do not fit the network; UsageError for images, and a checkpoint without preprocessing.
    """
    (name, example), *others = checkpoint.example.items()
    if others:
        raise InputError(
            f"{checkpoint.reference} has {1 + len(others)} inputs, and `mobconv compare` compares networks with one. "
            "`mobconv evaluate` with the checkpoint says how far a file's outputs are from the float network's"
        )
    if not isinstance(data, Arrays):
        check_network_input(data, example.shape, checkpoint.reference)
        return preprocessing_of(checkpoint)
    check_arrays(data, dict.fromkeys(data.inputs, example.shape), checkpoint.reference)
    feed = array_feed([TensorSpec(name, example.shape, str(example.dtype))], list(data.inputs), checkpoint.reference)
    return lambda part: feed(part)[name]


def preprocessing_of(checkpoint: Checkpoint) -> Preprocessing:
    """The network's preprocessing. Raises UsageError where it is not known."""
    if checkpoint.preprocessing is None:
        raise UsageError(
            f"{checkpoint.reference} does not say how pixels are normalised; give {setting('preprocessing')} with "
            "mean and std"
        )
    return checkpoint.preprocessing


def _run(
    alignment: Alignment,
    network: Callable[[Any], NDArray[Any]],
    images: Samples,
    feed: Feed,
    task: Task,
    say: Callable[[str], None],
) -> Waterfall:
    graph_view = alignment.graph_view
    inputs = network(images.fed)
    decoded = ProgramView(alignment.decoded)
    precise = graph_view.precise()
    steps = _Steps(task, images, _notes(alignment, precise is not None))
    say("float")
    outputs = predict(lambda part: _baseline(alignment.checkpoint, part), _channels_last(alignment.checkpoint, inputs))
    if compares_with_float(task):
        images = replace(images, float_outputs={"output": outputs})
        steps = _Steps(task, images, steps.notes)
    steps.add(outputs)
    say("weights")
    steps.add(predict(lambda part: np.asarray(decoded.run(part, {decoded.output})[decoded.output], np.float32), inputs))
    say("graph")
    outputs = outputs_from_cut(alignment, precise or graph_view, inputs)
    steps.add(outputs)
    if precise is not None:
        say("precision")
        precise.close()
        outputs = outputs_from_cut(alignment, graph_view, inputs)
    steps.add(outputs)
    say("preprocessing")
    steps.add(_whole(alignment, images.fed, feed))
    node = alignment.cut[0].node
    wanted = alignment.program_view.run(inputs[:_AT_CUT], {node})[node]
    seen = _at_cut(alignment, feed(rows(images.fed, slice(0, _AT_CUT))))
    return Waterfall(steps.steps, alignment, task, images, seen, wanted)


def refeed(waterfall: Waterfall, feed: Feed) -> Waterfall:
    """The waterfall with another feed: the last step, which alone depends on it, is run again."""
    alignment, images = waterfall.alignment, waterfall.images
    notes = {step.name: step.note for step in waterfall.steps}
    steps = _Steps(waterfall.task, images, notes, waterfall.steps[:-1])
    steps.add(_whole(alignment, images.fed, feed))
    seen = _at_cut(alignment, feed(rows(images.fed, slice(0, _AT_CUT))))
    return replace(waterfall, steps=steps.steps, seen=seen)


def _at_cut(alignment: Alignment, feeds: Mapping[str, NDArray[Any]]) -> Floats:
    """What the file makes of its input at the first tensor of the cut, in the program's layout."""
    match, fed = alignment.cut[0], _at_input(alignment, feeds)
    values = fed if match.tensor in fed else alignment.graph_view.run(fed, [match.tensor])
    return match.to_program(np.asarray(values[match.tensor]))


def _at_input(alignment: Alignment, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The file's only input under its name in the graph, which may differ from that of the runtime's signature."""
    return {alignment.graph_view.inputs[0]: next(iter(feeds.values()))}


def _baseline(checkpoint: Checkpoint, inputs: Floats) -> Floats:
    """First output of the untouched module."""
    outputs = checkpoint.run({next(iter(checkpoint.example)): inputs})
    return np.asarray(next(iter(outputs.values())), np.float32)


def _channels_last(checkpoint: Checkpoint, inputs: Floats) -> Floats:
    """The same values with channels next to each other in memory, which takes convolutions on CPUs half the time.

    Unchanged for inputs that are not images, and for networks that reshape their tensors by `view`, which then fails.
    """
    if inputs.ndim != 4:
        return inputs
    moved = np.ascontiguousarray(inputs.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    try:
        _baseline(checkpoint, moved[:2])
    except InputError:
        return inputs
    return moved


def outputs_from_cut(alignment: Alignment, view: GraphView, inputs: Floats) -> Floats:
    """Outputs (N, ...) of the file fed the program's tensors in front of its first layers."""
    nodes = {match.node for match in alignment.cut}

    def run(part: Floats) -> Floats:
        values = alignment.program_view.run(part, nodes)
        feeds = {match.tensor: match.to_file(values[match.node]) for match in alignment.cut}
        return alignment.run(view, feeds, len(part))

    return predict(run, inputs)


def _whole(alignment: Alignment, fed: Fed, feed: Feed) -> Floats:
    """Outputs (N, ...) of the whole file."""
    return predict(lambda part: alignment.run(alignment.graph_view, _at_input(alignment, feed(part)), count(part)), fed)


_MEASURES = {
    "float": "the checkpoint in PyTorch",
    "weights": "the weights decoded from the file, in PyTorch",
    "graph": "the file's graph, computed in fp32",
    "precision": "at the file's own compute precision",
    "preprocessing": "the whole file behind its own preprocessing",
}


class _Steps:
    """Steps in the order of `_MEASURES`, scored as they are added. notes: by step."""

    def __init__(self, task: Task, images: Samples, notes: Mapping[str, str], steps: Sequence[LossStep] = ()) -> None:
        self._task, self._images, self.notes = task, images, notes
        self.steps = tuple(steps)

    def add(self, outputs: Floats) -> None:
        """Score the outputs (N, ...) of the next step. Raises InputError where they do not fit the data."""
        name, measures = list(_MEASURES.items())[len(self.steps)]
        scored = score(self._task, {"output": outputs}, self._images)
        before = self.steps[-1] if self.steps else None
        first = {"output": self.steps[0].outputs if self.steps else outputs}
        previous = {"output": before.outputs if before else outputs}
        step = LossStep(
            name,
            measures,
            outputs,
            scored.scores,
            scored.score,
            self._task.metric.loss(before.score, scored.score) if before else 0.0,
            self._task.agreement(scored.outputs, first),
            self._task.agreement(scored.outputs, previous),
            output_error(scored.outputs, previous).snr_db,
            self.notes.get(name, ""),
        )
        self.steps = (*self.steps, step)


def _notes(alignment: Alignment, precise: bool) -> dict[str, str]:
    """Notes by step. precise: whether the file was run in fp32 although it declares fp16."""
    matches, remarks = alignment.matches, []
    if matches.uses:
        missing = ", ".join(use.name for use in matches.uses)
        remarks.append(f"not found in the file, and left as in the checkpoint: {missing}")
    if matches.ops:
        extra = ", ".join(f"{op.kind} {op.name or op.outputs[0]}" for op in matches.ops)
        remarks.append(f"in the file, with weights of no layer of the checkpoint: {extra}")
    by_place = [pair.use.name for pair in matches.pairs if pair.by == "place"]
    if by_place:
        remarks.append(f"matched by their place, with weights unlike the checkpoint's: {', '.join(by_place)}")
    if alignment.biases:
        remarks.append(f"{alignment.biases} biases are the file's too, as calibration corrected them")
    if alignment.unread:
        remarks.append(
            f"biases that cannot be read from the file, and are the checkpoint's: {', '.join(alignment.unread)}"
        )
    note = alignment.graph_view.note
    notes = {"weights": "; ".join(remarks), "precision": note if precise else f"{note}: the same run"}
    if not precise and "integer" in note:
        notes["graph"] = note
    return notes
