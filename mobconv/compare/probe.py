"""Which mistake in preprocessing explains what a file does, if any.

Each plausible mistake is tried twice over. Forwards: the reference, fed as the mistake would feed it, must give what
the file gives; this tells mistakes apart that cost the same accuracy, and needs nothing of the file but its outputs.
Backwards: the file, fed such that the mistake is undone, must give what the reference gives, and its accuracy again.
Only what passes both is named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobconv.compare.mistakes import Mistake, plausible, right
from mobconv.data.preprocessing import Preprocessing
from mobconv.evaluate.inference import predict
from mobconv.evaluate.output_error import closeness
from mobconv.evaluate.tasks.classification import accuracy

Floats = NDArray[np.float32]

_SCREEN = 32  # images that every mistake is tried on
_IMAGES = 256  # that the best few are tried on
_BEST = 4
# A file whose weights the reference shares differs from it by its arithmetic alone, 40 dB and more in fp16; activations
# in 8 bits leave about 20. What explains it must leave at most half the error (6 dB) that no mistake at all leaves.
_EXPLAINED_DB, _GAIN_DB = 15.0, 6.0
# Of a file whose arithmetic leaves more (128 dB in fp32, 60 in fp16), half of that in dB; at bytes in its input, 45 dB.
_EXACT_DB = 35.0
_CERTAIN_DB = 30.0  # one mistake that leaves less than this unexplained is not looked for in pairs


@dataclass(frozen=True)
class Trial:
    """One mistake tried on a file.

    forwards_db   SNR of the file's outputs against those of the reference under the mistake
    backwards_db  SNR of the file's outputs, the mistake undone, against the reference's; None: it cannot be undone
                  through this file's input (bytes hold no such pixels)
    restored      the file's top-1 then, a fraction of all images
    """

    mistake: Mistake
    forwards_db: float
    backwards_db: float | None = None
    restored: float | None = None


@dataclass(frozen=True)
class Finding:
    """What the probe found.

    named      the one that explains the file; None for none
    clean_db   SNR of the file's outputs against the reference's as they are: no mistake
    trials     the best few, best first
    tried      how many there were
    images     that the best few were tried on
    top1       of the file as it is; reference_top1: of the reference. On all images where one is named, else on these
    """

    named: Trial | None
    clean_db: float
    trials: tuple[Trial, ...]
    tried: int
    images: int
    top1: float
    reference_top1: float


def probe(
    run: Callable[[Floats], Floats],
    reference: Callable[[Floats], Floats],
    preprocessing: Preprocessing,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    bytes_only: bool = False,
    own_db: float = 0.0,
) -> Finding:
    """Try every plausible mistake.

    run            the file: pixels (N, H, W, C), as floats and perhaps beyond 0 to 255 -> outputs (N, classes)
    reference      what it should compute: normalised inputs (N, C, H, W) -> outputs; best with the file's own weights
    preprocessing  the network's own
    bytes_only     the file's input holds whole numbers of 0 to 255 and nothing else
    own_db         SNR that the file has against the reference behind its preprocessing, where nothing is wrong
    """
    every, labels_of_every = pixels, labels
    pixels, labels = pixels[:_IMAGES], labels[:_IMAGES]
    none, candidates = right(preprocessing), plausible(preprocessing)
    got = predict(run, pixels.astype(np.float32))
    wanted = predict(lambda part: reference(none.seen(part)), pixels)
    clean = snr_db(got, wanted)
    trials: list[Trial] = []
    for pairs in (False, True):
        if not trials or trials[0].forwards_db < _CERTAIN_DB:
            some = [each for each in candidates if each.pair == pairs]
            trials = sorted([*trials, *_forwards(some, got, reference, pixels)], key=lambda trial: -trial.forwards_db)
    best = trials[0] if trials else None
    named = None
    least = max(_EXPLAINED_DB, min(own_db / 2, _EXACT_DB))
    if best is not None and best.forwards_db >= max(least, clean + _GAIN_DB):
        pixels, labels = every, labels_of_every
        got = predict(run, pixels.astype(np.float32))
        wanted = predict(lambda part: reference(none.seen(part)), pixels)
        best = trials[0] = _backwards(best, run, none, wanted, pixels, labels, bytes_only)
        if best.backwards_db is None or best.backwards_db >= clean + _GAIN_DB:
            named = best
    top1, should = (accuracy(outputs, labels).top1 for outputs in (got, wanted))
    return Finding(named, clean, tuple(trials), len(candidates), min(len(every), _IMAGES), top1, should)


def _forwards(
    candidates: list[Mistake], got: Floats, reference: Callable[[Floats], Floats], pixels: NDArray[np.uint8]
) -> list[Trial]:
    """The best few on all images, of those that are best on some."""
    few = pixels[:_SCREEN]
    ranked = sorted(candidates, key=lambda each: -snr_db(got[: len(few)], reference(each.seen(few))))
    found = []
    for each in ranked[:_BEST]:
        outputs = predict(lambda part, mistake=each: reference(mistake.seen(part)), pixels)  # type: ignore[misc]
        found.append(Trial(each, snr_db(got, outputs)))
    return found


def _backwards(
    trial: Trial,
    run: Callable[[Floats], Floats],
    none: Mistake,
    wanted: Floats,
    pixels: NDArray[np.uint8],
    labels: NDArray[np.int64],
    bytes_only: bool,
) -> Trial:
    """The file run with the mistake undone, where its input can hold that."""
    undone = trial.mistake.undone(none.seen(pixels))
    if bytes_only and float(np.abs(undone - np.clip(np.rint(undone), 0, 255)).max()) > 1e-2:
        return trial
    outputs = predict(run, undone)
    return Trial(trial.mistake, trial.forwards_db, snr_db(outputs, wanted), accuracy(outputs, labels).top1)


def snr_db(outputs: Floats, reference: Floats) -> float:
    """SNR in dB; infinite where both are the same, minus infinite where either is no number."""
    if not (np.all(np.isfinite(outputs)) and np.all(np.isfinite(reference))):
        return -np.inf
    found = closeness(outputs, reference).snr_db
    return found if found is not None else np.inf if np.array_equal(outputs, reference) else -np.inf
