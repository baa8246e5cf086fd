"""What is wrong with the input of a file: it normalises inside without saying so, or there is a mistake in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.compare.probe import ProbeResult, probe, snr_db
from mobconv.compare.waterfall import Waterfall, preprocessing_of, refeed
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing
from mobconv.evaluate import input_spec
from mobconv.evaluate.inference import dequantized, predict
from mobconv.pipeline.artifact import Artifact
from mobconv.pipeline.measure import feed_of
from mobconv.stats.paired import Difference

Floats = NDArray[np.float32]

_TRIED = 32  # images on which a file is tried for normalising inside
# Behind its own preprocessing a file computes what it computes when it is cut there and fed the program's tensor; where
# it is off by more than a hundredth (40 dB), its input is not what the network wants. Bytes at a quantized input are
# off by 1/255 of the range and leave some 45 dB.
_OFF_DB = 40.0


@dataclass(frozen=True)
class NormalisesInside:
    """Normalisation inside a file that does not say what it takes, found by trial.

    pixels  that the file takes, in words; option: the same as --takes has it
    snr_db  of its outputs, fed these pixels, against those behind its preprocessing; low where a mistake remains
    score   of the file fed what the network wants, which it normalises a second time
    """

    pixels: str
    option: str
    snr_db: float
    score: float


@dataclass(frozen=True)
class Diagnosis:
    """The preprocessing of a file's caller, and what is wrong with it.

    waterfall     its last step is fed as `expected` says
    expected      None for arrays, which go in as they are
    probe_result  None where nothing is to be explained, or the file is better than the float baseline
    inside        None unless `expected` was found by trial
    wrong_input   whether the file's input is not what the network wants
    """

    waterfall: Waterfall
    expected: input_spec.Expected | None
    probe_result: ProbeResult | None = None
    inside: NormalisesInside | None = None
    wrong_input: bool = False


def diagnose(
    waterfall: Waterfall, artifact: Artifact, expected: input_spec.Expected | None, say: Callable[[str], None]
) -> Diagnosis:
    """Explain the last step of a waterfall.

    A file that says nothing about its input is assumed to want what the network wants. Where that does not fit, it may
    normalise inside: fed raw pixels, it gives what the network gives, or would except for one mistake. No mistake is
    looked for in a file that is better than the float baseline: the baseline is then what is wrong. Arrays (`expected`
    is None) have no preprocessing to look into.
    """
    if expected is None or not _needs_explaining(waterfall):
        return Diagnosis(waterfall, expected, wrong_input=expected is None and _needs_explaining(waterfall))
    others = input_spec.normalising_inside(expected.preprocessing) if expected.assumed else []
    for other in others:
        snr = _snr_fed(other, waterfall, artifact)
        if snr >= _OFF_DB:
            diagnosis = _inside(waterfall, artifact, other, snr, "it gives what the network gives when it is fed so")
            if not _needs_explaining(diagnosis.waterfall):
                return diagnosis
    if is_gain(waterfall.total()):
        return Diagnosis(waterfall, expected, wrong_input=True)
    say("probe of the preprocessing")
    result = _probe(waterfall, artifact, expected.preprocessing)
    if result.named is None:
        for other in others:
            if other.untouched and (explained := _probe(waterfall, artifact, other)).named:
                reason = "a mistake explains what it gives when it is fed so"
                inside = _inside(waterfall, artifact, other, explained.clean_db, reason)
                shown = None if is_gain(inside.waterfall.total()) else explained
                return Diagnosis(inside.waterfall, inside.expected, shown, inside.inside, wrong_input=True)
    return Diagnosis(waterfall, expected, result, wrong_input=True)


def is_gain(difference: Difference) -> bool:
    """Whether a difference is a gain, beyond noise."""
    return difference.loss < 0 and not difference.within_noise


def _needs_explaining(waterfall: Waterfall) -> bool:
    """Whether the file gives something else than behind its preprocessing."""
    before, last = waterfall.steps[-2:]
    different = last.snr_db is not None and last.snr_db < _OFF_DB
    undefined = last.snr_db is None and not np.array_equal(last.outputs, before.outputs)
    return different or undefined or not waterfall.difference(-2, -1).within_noise


def _outputs(artifact: Artifact, preprocessing: Preprocessing, like: Floats) -> Callable[[NDArray[Any]], Floats]:
    """The file and its caller as a function: pixels (N, H, W, C) -> outputs in the shape of `like`."""
    feed, spec = feed_of(artifact, preprocessing), artifact.outputs[0]

    def run(pixels: NDArray[Any]) -> Floats:
        output = dequantized(artifact.run(feed(pixels))[spec.name], spec)
        return np.asarray(output.reshape(len(pixels), *like.shape[1:]), np.float32)

    return run


def _snr_fed(preprocessing: Preprocessing, waterfall: Waterfall, artifact: Artifact) -> float:
    """SNR of the file, its input preprocessed so, against its outputs behind its own preprocessing."""
    wanted = waterfall.steps[-2].outputs
    outputs = predict(_outputs(artifact, preprocessing, wanted), _images(waterfall).pixels[:_TRIED])
    return snr_db(outputs, wanted[:_TRIED])


def _images(waterfall: Waterfall) -> Images:
    """The images of a waterfall that has some."""
    assert isinstance(waterfall.images, Images)
    return waterfall.images


def _inside(
    waterfall: Waterfall, artifact: Artifact, preprocessing: Preprocessing, snr: float, reason: str
) -> Diagnosis:
    """The diagnosis that a file normalises inside and takes pixels preprocessed so."""
    again = refeed(waterfall, feed_of(artifact, preprocessing))
    pixels, option = input_spec.in_words(preprocessing), input_spec.option(preprocessing)
    inside = NormalisesInside(pixels, option, snr, waterfall.steps[-1].score)
    expected = input_spec.Expected(preprocessing, f"trial: the file does not say, and {reason}")
    return Diagnosis(again, expected, None, inside)


def _probe(waterfall: Waterfall, artifact: Artifact, preprocessing: Preprocessing) -> ProbeResult:
    """Probe a file whose caller preprocesses pixels so."""
    program = waterfall.alignment.decoded
    name, output = next(iter(program.example)), program.outputs[0]
    spec = artifact.inputs[0]
    arithmetic = [math.inf if step.snr_db is None else step.snr_db for step in waterfall.steps[2:-1]]
    return probe(
        _outputs(artifact, preprocessing, waterfall.steps[0].outputs),
        lambda part: np.asarray(program.run({name: part})[output], np.float32),
        preprocessing_of(waterfall.alignment.checkpoint),
        _images(waterfall),
        waterfall.task,
        bytes_only=np.dtype(spec.dtype).kind != "f" and spec.quantization is None,
        arithmetic_db=min(arithmetic, default=0.0),
    )
