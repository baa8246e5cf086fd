"""What is wrong with what a file makes of its input, if anything: what it takes, where it does not say so, and the
mistake that is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import TensorSpec
from mobconv.compare import Step, Waterfall, probe, refed
from mobconv.compare.probe import Finding
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing
from mobconv.evaluate import inference, input_spec
from mobconv.stats import paired
from mobconv.stats.paired import Difference

Floats = NDArray[np.float32]

_TRIED = 32  # images that tell whether a file normalises inside
# Behind its own preprocessing a file computes what it computed when it was cut there and fed the reference's tensor;
# where it is off by more than a hundredth (40 dB), its input is not what the network wants. Bytes at a quantized input
# are off by 1/255 of the range and leave some 45 dB.
_OFF_DB = 40.0


@dataclass(frozen=True)
class File:
    """A file, on which images, and what it should see.

    run  its input -> outputs (N, classes)
    """

    run: Callable[[NDArray[Any]], Floats]
    spec: TensorSpec
    network: Preprocessing
    images: Images


@dataclass(frozen=True)
class Inside:
    """How a file that does not say what it takes was found to normalise inside.

    takes   what it was found to take, in words; option: as --takes has it
    snr_db  of its outputs, fed so, against those behind its preprocessing; low where a mistake is left
    top1    a fraction: of the file fed what the network wants, which it normalises a second time
    """

    takes: str
    option: str
    snr_db: float
    top1: float


@dataclass(frozen=True)
class Diagnosis:
    """What a file takes after all, and what is wrong with it.

    fall     the steps, the last one fed as `takes` says
    finding  of the probe; None: there was nothing to explain, or a file that is better than the float baseline
    inside   where `takes` was found by trial
    off      whether the file's input is not what the network wants
    """

    fall: Waterfall
    takes: input_spec.Expected
    finding: Finding | None = None
    inside: Inside | None = None
    off: bool = False


def diagnose(fall: Waterfall, takes: input_spec.Expected, file: File, say: Callable[[str], None]) -> Diagnosis:
    """Explain the last step of a waterfall.

    A file that says nothing is taken to want what the network wants. Where that does not fit, it may normalise inside:
    fed pixels as they are it gives what the network gives, or would but for one mistake. No mistake is looked for in a
    file that is better than the float baseline: the baseline is then what is wrong.
    """
    if not _off(fall, file.images):
        return Diagnosis(fall, takes)
    others = input_spec.inside(takes.preprocessing) if takes.assumed else []
    for other in others:
        snr = _snr_fed(other, fall, file)
        if snr >= _OFF_DB:
            found = _inside(fall, other, file, snr, "it gives what the network gives when it is fed so")
            if not _off(found.fall, file.images):
                return found
    if better(difference(fall.steps[0], fall.steps[-1], file.images)):
        return Diagnosis(fall, takes, off=True)
    say("probe of the preprocessing")
    finding = _probe(fall, takes.preprocessing, file)
    if finding.named is None:
        for other in others:
            if other.untouched and (deeper := _probe(fall, other, file)).named:
                how = "a mistake explains what it gives when it is fed so"
                found = _inside(fall, other, file, deeper.clean_db, how)
                worse = not better(difference(found.fall.steps[0], found.fall.steps[-1], file.images))
                return Diagnosis(found.fall, found.takes, deeper if worse else None, found.inside, off=True)
    return Diagnosis(fall, takes, finding, off=True)


def difference(before: Step, after: Step, images: Images) -> Difference:
    """Points of top-1 lost from one step to another."""
    return paired.difference(before.predictions, after.predictions, images.labels, images.groups)


def better(total: Difference) -> bool:
    """Whether a difference is a gain, beyond noise."""
    return total.points < 0 and not total.within_noise


def _off(fall: Waterfall, images: Images) -> bool:
    """Whether the last step needs explaining."""
    before, last = fall.steps[-2:]
    different = last.snr_db is not None and last.snr_db < _OFF_DB
    undefined = last.snr_db is None and not np.array_equal(last.outputs, before.outputs)
    return different or undefined or not difference(before, last, images).within_noise


def _snr_fed(takes: Preprocessing, fall: Waterfall, file: File) -> float:
    """Of the file, fed so, against its outputs behind its preprocessing."""
    feed = input_spec.feed(takes, file.spec)
    outputs = inference.predict(lambda part: file.run(feed(part)), file.images.pixels[:_TRIED])
    return probe.snr_db(outputs, fall.steps[-2].outputs[:_TRIED])


def _inside(fall: Waterfall, takes: Preprocessing, file: File, snr: float, how: str) -> Diagnosis:
    again = refed(fall, file.images, input_spec.feed(takes, file.spec))
    found = Inside(input_spec.in_words(takes), input_spec.option(takes), snr, fall.steps[-1].top1)
    return Diagnosis(again, input_spec.Expected(takes, f"trial: the file does not say, and {how}"), None, found)


def _probe(fall: Waterfall, takes: Preprocessing, file: File) -> Finding:
    program = fall.subject.weights
    name, output = next(iter(program.example)), program.outputs[0]
    spec = file.spec
    whole = np.dtype(spec.dtype).kind != "f" and spec.quantization is None
    return probe.probe(
        lambda pixels: file.run(input_spec.typed(takes(pixels), spec)),
        lambda part: np.asarray(program.run({name: part})[output], np.float32),
        file.network,
        file.images.pixels,
        file.images.labels,
        bytes_only=whole,
        own_db=min((math.inf if step.snr_db is None else step.snr_db for step in fall.steps[2:-1]), default=0.0),
    )
