"""Find the mistake in preprocessing that explains the outputs of a file, if there is one.

Each plausible mistake is tried in two ways. Forwards: the reference, fed as the mistake would feed it, must give the
file's outputs; this tells apart mistakes that cost the same accuracy, and needs nothing of the file but its outputs.
Backwards: the file, fed pixels in which the mistake is undone, must give the reference's outputs. A mistake that passes
both is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobconv.compare.mistakes import Mistake, no_mistake, plausible_mistakes
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing
from mobconv.evaluate.inference import predict
from mobconv.evaluate.output_error import output_error
from mobconv.evaluate.tasks import Task
from mobconv.pipeline.measure import score

Floats = NDArray[np.float32]
Run = Callable[[Floats], Floats]

_SCREEN = 32  # images that every mistake is tried on
_IMAGES = 256  # images that the best few are tried on
_BEST = 4
# A file whose weights the reference shares differs from it by its arithmetic alone, 40 dB and more in fp16; activations
# in 8 bits leave about 20. A mistake that explains it leaves at most half the error (6 dB) that there is without one.
_EXPLAINED_DB, _GAIN_DB = 15.0, 6.0
# Of a file whose arithmetic leaves more (128 dB in fp32, 60 in fp16), half of that in dB; at bytes in its input, 45 dB.
_EXACT_DB = 35.0
_CERTAIN_DB = 30.0  # pairs of mistakes are tried where no single one leaves this much


@dataclass(frozen=True)
class MistakeTrial:
    """One mistake tried on a file.

    forwards_db   SNR of the file's outputs against those of the reference with the mistake
    backwards_db  SNR of the file's outputs, the mistake undone, against the reference's; None where it cannot be undone
                  through this file's input (bytes cannot have such pixels)
    restored      the file's score then, on all images
    """

    mistake: Mistake
    forwards_db: float
    backwards_db: float | None = None
    restored: float | None = None


@dataclass(frozen=True)
class ProbeResult:
    """The mistake that explains a file, and how sure that is.

    named      the trial of that mistake; None where none explains the file
    clean_db   SNR of the file's outputs against the reference's without a mistake
    trials     the best few, best first
    tried      number of mistakes that were tried
    images     number that the best few were tried on
    score      of the file as it is, and reference_score, of the reference: on all images where a mistake is named, else
               on those that were tried
    """

    named: MistakeTrial | None
    clean_db: float
    trials: tuple[MistakeTrial, ...]
    tried: int
    images: int
    score: float
    reference_score: float


def probe(
    run: Run,
    reference: Run,
    preprocessing: Preprocessing,
    images: Images,
    task: Task,
    bytes_only: bool = False,
    arithmetic_db: float = 0.0,
) -> ProbeResult:
    """Try every plausible mistake.

    run            the file: pixels (N, H, W, C) as floats, perhaps beyond 0 to 255 -> outputs (N, ...)
    reference      normalised inputs (N, C, H, W) -> the outputs that the file should give; best with its own weights
    preprocessing  the network's own
    bytes_only     whether the file's input takes whole numbers of 0 to 255 only
    arithmetic_db  SNR of the file against the reference behind its preprocessing
    """
    none, candidates = no_mistake(preprocessing), plausible_mistakes(preprocessing)
    some = _first(images, _IMAGES)

    def both(data: Images) -> tuple[Floats, Floats]:
        """Outputs of the file, and of the reference without a mistake."""
        outputs = predict(run, data.pixels.astype(np.float32))
        return outputs, predict(lambda part: reference(none.seen(part)), data.pixels)

    data = some
    outputs, wanted = both(data)
    clean = snr_db(outputs, wanted)
    trials: list[MistakeTrial] = []
    for pairs in (False, True):
        if not trials or trials[0].forwards_db < _CERTAIN_DB:
            mistakes = [mistake for mistake in candidates if mistake.pair == pairs]
            trials += _forwards(mistakes, outputs, reference, some.pixels)
            trials.sort(key=lambda trial: -trial.forwards_db)
    named = None
    least = max(_EXPLAINED_DB, min(arithmetic_db / 2, _EXACT_DB))
    if trials and trials[0].forwards_db >= max(least, clean + _GAIN_DB):
        data = images
        outputs, wanted = both(data)
        best = trials[0] = _backwards(trials[0], run, none, wanted, data, task, bytes_only)
        if best.backwards_db is None or best.backwards_db >= clean + _GAIN_DB:
            named = best
    score_of_file, reference_score = _score(task, outputs, data), _score(task, wanted, data)
    return ProbeResult(named, clean, tuple(trials), len(candidates), len(some), score_of_file, reference_score)


def _forwards(
    mistakes: list[Mistake], outputs: Floats, reference: Run, pixels: NDArray[np.uint8]
) -> list[MistakeTrial]:
    """The reference run with the mistakes that explain the first images best, on all pixels (N, H, W, C)."""
    few = pixels[:_SCREEN]
    ranked = sorted(mistakes, key=lambda mistake: -snr_db(outputs[: len(few)], reference(mistake.seen(few))))
    trials = []
    for mistake in ranked[:_BEST]:
        explained = predict(lambda part, mistake=mistake: reference(mistake.seen(part)), pixels)  # type: ignore[misc]
        trials.append(MistakeTrial(mistake, snr_db(outputs, explained)))
    return trials


def _backwards(
    trial: MistakeTrial, run: Run, none: Mistake, wanted: Floats, data: Images, task: Task, bytes_only: bool
) -> MistakeTrial:
    """The file run with the mistake undone, where its input can take such pixels; wanted: the reference's outputs."""
    undone = trial.mistake.undone(none.seen(data.pixels))
    if bytes_only and float(np.abs(undone - np.clip(np.rint(undone), 0, 255)).max()) > 1e-2:
        return trial
    outputs = predict(run, undone)
    return replace(trial, backwards_db=snr_db(outputs, wanted), restored=_score(task, outputs, data))


def _score(task: Task, outputs: Floats, data: Images) -> float:
    return score(task, {"output": outputs}, data).score


def _first(images: Images, count: int) -> Images:
    """The first images of a data set."""
    groups = None if images.groups is None else images.groups[:count]
    outputs = images.float_outputs and {name: value[:count] for name, value in images.float_outputs.items()}
    return replace(
        images,
        pixels=images.pixels[:count],
        labels=images.labels[:count],
        groups=groups,
        targets={name: value[:count] for name, value in images.targets.items()},
        float_outputs=outputs,
    )


def snr_db(outputs: Floats, reference: Floats) -> float:
    """SNR in dB; infinite where both are equal, minus infinite where either contains NaN or infinity."""
    if not (np.all(np.isfinite(outputs)) and np.all(np.isfinite(reference))):
        return -np.inf
    snr = output_error({"output": outputs}, {"output": reference}).snr_db
    return snr if snr is not None else np.inf if np.array_equal(outputs, reference) else -np.inf
