"""mobconv's executor of Core ML packages against PyTorch eager: the same network, batch and threads.

Eager is the network as loaded, in eval mode and under inference_mode. It is timed in both memory layouts, and the
faster one counts. The executor runs the fp32 package in fp32. It emulates the fp16 package: each operation in fp32, its
result rounded to fp16. All run in turn, from numpy arrays to numpy arrays. A package has its batch norms folded, which
is one reason why it is faster: the folded network in eager mode is timed too, without a limit.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import common
import numpy as np

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.pipeline import templates
from mobconv.schemes import Compute

if TYPE_CHECKING:
    from torch import nn

# (side of the image, batch)
SIZES = [(32, 32), (224, 1), (224, 8)]
QUICK = [(32, 32), (224, 1)]
FP32_LIMIT, FP16_LIMIT = 1.0, 2.0
ROUNDS, SECONDS = 100, 20.0


FOLDED = "folded in eager, channels last"


def eager(network: nn.Module, images: np.ndarray, channels_last: bool) -> Callable[[], np.ndarray]:
    """A function that runs a network on images (N, 3, H, W), in one of torch's memory layouts."""
    import torch

    layout = torch.channels_last if channels_last else torch.contiguous_format
    module = copy.deepcopy(network).to(memory_format=layout)

    def run() -> np.ndarray:
        with torch.inference_mode():
            outputs: torch.Tensor = module(torch.from_numpy(images).contiguous(memory_format=layout))
            return outputs.numpy()

    return run


def contenders(options: common.Options, side: int, batch: int) -> dict[str, Callable[[], Any]]:
    """The functions to time, by name. Raises ValueError where one does not compute what eager computes."""
    network = options.load((1, 3, side, side))
    program = network.trace()
    images = np.random.default_rng(0).normal(size=(batch, 3, side, side)).astype(np.float32)
    runs: dict[str, Callable[[], Any]] = {
        "eager": eager(network.module.eval(), images, channels_last=False),
        "eager, channels last": eager(network.module.eval(), images, channels_last=True),
        FOLDED: eager(program.module, images, channels_last=True),
    }
    expected = runs["eager"]()
    backend = backends.get("coreml")
    for compute, name, tolerance in ((Compute.FP32, "executor, fp32", 1e-3), (Compute.FP16, "executor, fp16", 5e-2)):
        folder = templates.template(backend, Entry(program), compute, options.scratch / f"{side}")
        # threads are torch's, one pool for the process: set once, for both sides
        runner = backend.open(templates.float_artifact(backend, folder, program, compute))
        feeds = {runner.inputs[0].name: images}
        runs[name] = lambda runner=runner, feeds=feeds: runner.run(feeds)[runner.outputs[0].name]  # type: ignore[misc]
        error = np.abs(runs[name]() - expected).max() / np.abs(expected).max()
        if not error <= tolerance:
            raise ValueError(f"{name} at {side}x{side} does not compute what eager does: relative error {error:.2g}")
    return runs


def build(options: common.Options) -> common.Section:
    """Time all contenders at every size."""
    import torch

    torch.set_num_threads(options.threads)
    verdicts, table = [], common.Table(["input", "", "ms", "to eager", "spread", "rounds"])
    for side, batch in QUICK if options.quick else SIZES:
        where = f"{batch} x 3 x {side} x {side}"
        common.progress(where)
        with common.hushed():
            runs = contenders(options, side, batch)
            times = common.in_turn(runs, 8 if options.quick else ROUNDS, SECONDS, warm=3)
        best = min((name for name in runs if name.startswith("eager")), key=times.median)
        for name in runs:
            low, high = times.spread(name, best)
            spread = f"{common.figure(low)} to {common.figure(high)}"
            milliseconds = common.figure(times.median(name) * 1e3)
            table.rows.append(
                [where, name, milliseconds, common.figure(times.ratio(name, best)), spread, str(times.rounds)]
            )
        for name, limit in (("executor, fp32", FP32_LIMIT), ("executor, fp16", FP16_LIMIT)):
            verdicts.append(
                common.Verdict(
                    f"{name}, over eager fp32, {where}",
                    times.ratio(name, best),
                    limit,
                    spread=times.spread(name, best),
                    detail=best,
                )
            )
    return common.Section(
        "Core ML executor against PyTorch eager",
        verdicts,
        [table],
        [f"{options.threads} threads on both sides; eager is the network as loaded, the faster layout of the two."],
    )


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build))
