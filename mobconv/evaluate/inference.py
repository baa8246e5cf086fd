"""Inference in batches: outputs of a file in its runtime, or of a network in PyTorch, for any number of samples."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Runner, TensorSpec
from mobconv.errors import InputError

Pixels = NDArray[np.uint8]
Outputs = dict[str, NDArray[Any]]
Fed = NDArray[Any] | Mapping[str, NDArray[Any]]
"""Samples as a data set has them: pixels (n, H, W, C), or arrays (n, ...) by name."""
Feed = Callable[[Any], dict[str, NDArray[Any]]]
"""Samples as a data set has them -> the inputs of a file, by name."""
Result = TypeVar("Result", NDArray[Any], dict[str, NDArray[Any]])

BATCH = 32  # larger batches spend more time on fresh memory than they save
_PIXELS = 64 * 64  # images of this size fill a batch in PyTorch; of larger ones a batch has fewer


def batches(count: int, size: int = BATCH) -> Iterator[slice]:
    """Slices that cover `count` samples."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def count(inputs: Fed) -> int:
    """Number of samples."""
    return len(next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs)


def rows(inputs: Fed, part: slice) -> Fed:
    """Some of the samples."""
    return {name: value[part] for name, value in inputs.items()} if isinstance(inputs, Mapping) else inputs[part]


def predict(run: Callable[[Any], Result], inputs: Fed) -> Result:
    """Run a function on batches of inputs (N, ...) and join its arrays, or its arrays by name, along the first axis."""
    return joined([run(rows(inputs, part)) for part in batches(count(inputs))])


def predict_in_torch(run: Callable[[Any], Result], inputs: Fed, threads: int = 0) -> Result:
    """`predict` for functions that PyTorch computes: batches side by side, each on one thread; 0 for all cores.

    The outputs are the same to the last bit for any number of threads. Threads that share a batch would wait for one
    another dozens of times in it, spinning: with another process on one of two cores that took 4 to 6 times as long as
    one thread alone.
    """
    import torch

    arrays = inputs.values() if isinstance(inputs, Mapping) else [inputs]
    pixels = max(int(np.prod(sorted(each.shape[1:])[-2:])) if each.ndim == 4 else 0 for each in arrays)
    size = max(1, min(BATCH, BATCH * _PIXELS // max(pixels, 1)))
    parts = list(batches(count(inputs), size))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        # alone: the executor of Core ML files tries on its first samples how it may run the others
        results = [run(rows(inputs, parts[0]))]
        with ThreadPoolExecutor(threads or os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            results += pool.map(lambda part: run(rows(inputs, part)), parts[1:])
    finally:
        torch.set_num_threads(before)
    return joined(results)


def predict_side_by_side(open_one: Callable[[], Runner], inputs: Fed, workers: int, feed: Feed) -> Outputs:
    """Outputs of a file by several runners of one thread each, on samples that `feed` turns into the file's inputs.

    Runtimes release the GIL, and small networks leave the second thread of one runner mostly idle.
    """
    # whole batches, so that a batch is the same for any number of workers
    parts = list(batches(count(inputs)))
    shares = [[parts[i] for i in share] for share in np.array_split(np.arange(len(parts)), workers) if len(share)]

    def one(share: list[slice]) -> Outputs:
        runner = open_one()
        try:
            return predict(of_runner(runner, feed), rows(inputs, slice(share[0].start, share[-1].stop)))
        finally:
            runner.close()

    with ThreadPoolExecutor(len(shares)) as pool:
        return joined(list(pool.map(one, shares)))


def of_runner(runner: Runner, feed: Feed) -> Callable[[Any], Outputs]:
    """A runner as a function of samples, which `feed` turns into its inputs -> named outputs as real numbers."""

    def run(samples: Fed) -> Outputs:
        outputs = runner.run(feed(samples))
        return {spec.name: dequantized(outputs[spec.name], spec) for spec in runner.outputs}

    return run


def dequantized(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """The real numbers, float32, of an output: scale (q - zero point) where it is quantized."""
    numbers = np.asarray(values, np.float32)
    if spec.quantization is None:
        return numbers
    scale, zero_point = spec.quantization
    return np.asarray((numbers - np.float32(zero_point)) * np.float32(scale))


def single(specs: Sequence[TensorSpec], where: str, what: str) -> TensorSpec:
    """The only input or output of a file. Raises InputError where it has another number of them."""
    if len(specs) != 1:
        raise InputError(f"{where} has {len(specs)} {what}s; images go into networks with one")
    return specs[0]


def joined(parts: Sequence[Result]) -> Result:
    """Arrays (n, ...), or arrays by name, joined along their first axis."""
    values: Any = parts
    if isinstance(values[0], dict):
        whole: Any = {name: np.concatenate([part[name] for part in values]) for name in values[0]}
    else:
        whole = np.concatenate(values)
    return cast(Result, whole)
