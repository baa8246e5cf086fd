"""Accuracy, agreement, error and speed of an opened artifact, measured from its outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Runner
from mobconv.errors import InputError

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
Feed = Callable[[Pixels], NDArray[Any]]
BATCH = 32  # larger ones spend more time on fresh memory than they save
_PIXELS = 64 * 64  # of an image of which as many are a batch in PyTorch


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
