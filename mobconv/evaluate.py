"""Accuracy, agreement, error and speed of an opened artifact, measured from its outputs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Runner
from mobconv.data import Images
from mobconv.errors import InputError

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Feed = Callable[[Pixels], NDArray[Any]]
BATCH = 32  # larger ones spend more time on fresh memory than they save
_PIXELS = 64 * 64  # of an image of which as many are a batch in PyTorch
_CHANCE = 1.5  # times one over the number of classes


@dataclass(frozen=True)
class Accuracy:
    """Fractions of images; top5 counts a label among the five largest outputs (all, of fewer classes)."""

    top1: float
    top5: float


@dataclass(frozen=True)
class Closeness:
    """How near outputs are to the reference's.

    agreement  fraction of images with the same top-1
    snr_db     10 log10(sum reference^2 / sum difference^2); None when exact or undefined
    max_error  the largest |difference| of an image over that image's largest |reference|, worst image
    """

    agreement: float
    snr_db: float | None
    max_error: float


def batches(count: int, size: int = BATCH) -> Iterator[slice]:
    """Slices that cover `count` samples."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def predict(run: Callable[[Any], Floats], inputs: NDArray[Any]) -> Floats:
    """Outputs (N, classes) of a function of batches, of pixels or of what it takes, batch by batch."""
    return np.concatenate([run(inputs[part]) for part in batches(len(inputs))])


def predict_in_torch(run: Callable[[Any], Floats], inputs: NDArray[Any], threads: int = 0) -> Floats:
    """As `predict`, for what PyTorch computes from images: batches side by side, each on one thread; 0 for all cores.

    The outputs are the same to the last bit however many threads there are. And threads that share a batch wait for
    one another dozens of times in it, spinning: with somebody else's work on one of two cores that took 4 to 6 times
    as long as one thread alone.
    """
    import torch

    pixels = int(np.prod(sorted(inputs.shape[1:])[-2:])) if inputs.ndim == 4 else 0
    # what a batch keeps in memory is of 32 images of 64x64
    size = max(1, min(BATCH, BATCH * _PIXELS // max(pixels, 1)))
    parts = list(batches(len(inputs), size))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        # alone: our executor of Core ML files tries on its first rows how it may run the others
        done = [run(inputs[parts[0]])]
        with ThreadPoolExecutor(threads or os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            done += pool.map(lambda part: run(inputs[part]), parts[1:])
    finally:
        torch.set_num_threads(before)
    return np.concatenate(done)


def predict_side_by_side(
    open_one: Callable[[], Runner], inputs: NDArray[Any], workers: int, feed: Feed | None = None
) -> Floats:
    """Outputs of a file, on its inputs or on pixels that `feed` turns into them, by several runners of a thread each.

    Runtimes release the GIL, and small networks leave the second thread of one runner mostly idle.
    """
    # whole batches, so that a batch is the same however many workers there are
    parts = list(batches(len(inputs)))
    shares = [[parts[i] for i in share] for share in np.array_split(np.arange(len(parts)), workers) if len(share)]

    def one(share: list[slice]) -> Floats:
        runner = open_one()
        try:
            return predict(of_runner(runner, feed), inputs[share[0].start : share[-1].stop])
        finally:
            runner.close()

    with ThreadPoolExecutor(len(shares)) as pool:
        return np.concatenate(list(pool.map(one, shares)))


def of_runner(runner: Runner, feed: Feed | None = None) -> Callable[[Any], Floats]:
    """A runner with one input and one output as a function of its input, or of pixels that `feed` turns into it.

    Integer outputs with a scale are told as the numbers that they stand for. Raises InputError for other files.
    """
    if len(runner.inputs) != 1 or len(runner.outputs) != 1:
        counts = f"{len(runner.inputs)} inputs and {len(runner.outputs)} outputs"
        raise InputError(f"this file has {counts}; evaluation needs a classifier with one of each")
    name, output = runner.inputs[0].name, runner.outputs[0]

    def run(batch: NDArray[Any]) -> Floats:
        found = np.asarray(runner.run({name: batch if feed is None else feed(batch)})[output.name], np.float32)
        if output.quantization is None:
            return found
        scale, zero = output.quantization
        return np.asarray((found - np.float32(zero)) * np.float32(scale))

    return run


def check_labels(images: Images, classes: int) -> None:
    """Raise InputError when the data has labels that the network has no output for."""
    if images.labels.max() >= classes:
        row = int(images.labels.argmax())
        raise InputError(
            f"{images.source}: row {row} has label {images.labels[row]}, but the network has {classes} outputs "
            f"(0 to {classes - 1}); this data is not the network's"
        )


def check_names(images: Images, labels: Sequence[str], what: str) -> str:
    """Hold the data's names of its classes against a network's -> a warning where they may be others, or ''.

    Names are compared without case, blanks and the like. Raises InputError where they are certainly others: the same
    names in another order, some the same and some not, or none the same and not as many. (Folders may be called by
    numbers, or by WordNet's.)
    """
    if not labels or not images.names:
        return ""
    ours, theirs = ([re.sub(r"[\W_]+", "", str(name)).casefold() for name in names] for names in (labels, images.names))
    if theirs == ours[: len(theirs)]:
        return ""
    number = next(i for i, name in enumerate(theirs) if i >= len(ours) or ours[i] != name)
    own = repr(labels[number]) if number < len(labels) else "not there"
    told = f"{images.source}: class {number} is {images.names[number]!r}, and output {number} of {what} is {own}"
    if {*ours} & {*theirs} or len(ours) != len(theirs):
        order = "in another order" if {*ours} >= {*theirs} else "of other classes"
        raise InputError(f"{told}: the labels are {order}; accuracy on this data would mean nothing")
    return f"{told}: if these are not names of the same classes, accuracy on this data means nothing"


def check_shape(images: Images, shape: tuple[int, ...], what: str) -> None:
    """Raise InputError when images are not of the size that a network of input (N, 3, H, W) takes.

    A length below 1 stands for any.
    """
    if len(shape) != 4 or (shape[1] > 0 and shape[1] != images.pixels.shape[3]):
        raise InputError(f"{what} takes inputs of shape {tuple(shape)}; images go in as RGB, (N, 3, height, width)")
    if any(0 < wanted != got for wanted, got in zip(shape[2:], images.pixels.shape[1:3], strict=True)):
        height, width = images.pixels.shape[1:3]
        raise InputError(
            f"{images.source}: images are {width}x{height} but {what} takes {shape[3]}x{shape[2]}. "
            f"Resize them first, or say how: `size: [{shape[2]}, {shape[3]}]` in its preprocessing"
        )


def accuracy(outputs: Floats, labels: NDArray[np.int64]) -> Accuracy:
    """Top-1 and top-5 of outputs (N, classes).

    Of equal ones the first ranks first, as argmax has it; not-a-number ranks last, so it never counts as right.
    """
    clean = np.where(np.isnan(outputs), -np.inf, outputs)
    own = np.take_along_axis(clean, labels[:, None], axis=1)
    earlier = np.arange(outputs.shape[1]) < labels[:, None]
    rank = ((clean > own) | ((clean == own) & earlier)).sum(axis=1)
    rank[np.isnan(np.take_along_axis(outputs, labels[:, None], axis=1))[:, 0]] = max(outputs.shape[1], 5)
    return Accuracy(float((rank < 1).mean()), float((rank < 5).mean()))


def guessing(top1: float, classes: int) -> str:
    """A warning where a float baseline's top-1, a fraction, is at most 1.5 times that of guessing; or ''."""
    if top1 > _CHANCE / classes:
        return ""
    return (
        f"the float baseline has a top-1 of {top1 * 100:.2f} %, no more than guessing among {classes} classes: mean "
        "and std, or the order of classes, are not those of its training. No figure here tells what conversion or "
        "quantization costs"
    )


def closeness(outputs: Floats, reference: Floats) -> Closeness:
    """Outputs against the reference's, both (N, classes)."""
    wide, against = outputs.astype(np.float64), reference.astype(np.float64)
    difference = wide - against
    noise, signal = float((difference**2).sum()), float((against**2).sum())
    defined = np.isfinite(noise) and noise > 0 and signal > 0
    largest = np.maximum(np.abs(against).max(axis=1), np.finfo(np.float32).tiny)
    return Closeness(
        float((outputs.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        float(10 * np.log10(signal / noise)) if defined else None,
        float((np.abs(difference).max(axis=1) / largest).max()),
    )


@dataclass(frozen=True)
class Latency:
    """Medians over single-sample runs: milliseconds, and the ratio to the float file run in turn with it."""

    ms: float
    ratio: float


def latency(runner: Runner, baseline: Runner, sample: NDArray[Any], seconds: float = 0.3) -> Latency:
    """Time one sample (1, C, H, W) on both runners in turn, so that a noisy machine hits both alike.

    Runs for about `seconds`, at least five rounds, after two that are not counted.
    """
    feeds: list[dict[str, NDArray[Any]]] = [{each.inputs[0].name: sample} for each in (runner, baseline)]
    for _ in range(2):
        runner.run(feeds[0])
        baseline.run(feeds[1])
    ours: list[float] = []
    theirs: list[float] = []
    stop = time.perf_counter() + seconds
    while len(ours) < 5 or time.perf_counter() < stop:
        start = time.perf_counter()
        runner.run(feeds[0])
        between = time.perf_counter()
        baseline.run(feeds[1])
        ours.append(between - start)
        theirs.append(time.perf_counter() - between)
    ratios = np.asarray(ours) / np.asarray(theirs)
    return Latency(float(np.median(ours) * 1e3), float(np.median(ratios)))
