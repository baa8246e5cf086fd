"""Calibration: quantize a network layer by layer, on inputs that run through it and through the float network.

Each layer is fitted to the inputs that the layers before it give once they are quantized (`lockstep`, `layer_fit`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mobconv.model.program import Program
from mobconv.pipeline.lockstep import Feed, Lockstep
from mobconv.pipeline.quantized import SchemeFor, quantize_model
from mobconv.pipeline.reference import reference
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import DEFAULT_ALGORITHM, Scheme

_WITHHELD, _MOST_WITHHELD = 8, 128  # one in so many samples, and at most so many, judge the result


@dataclass(frozen=True)
class Calibrated:
    """A network under a calibrated scheme. note: what a row should say of it, or ''."""

    model: QuantizedModel
    note: str = ""


def fit_network(
    program: Program,
    scheme: Scheme,
    scheme_for: SchemeFor,
    feed: Feed,
    count: int,
    stage: Callable[[str], None] = lambda text: None,
) -> Calibrated:
    """Quantize every weight of a program by its scheme's algorithm, on `count` samples, and correct the biases.

    Weights that stay float are as they were. Embeddings, whose rows are looked up, and layers of too many inputs are
    quantized without data, and the note says so. One sample in eight, at most 128, is withheld and judges the result:
    where it has a larger squared error of the outputs than the default algorithm without data, that is returned, and
    the note says so. Raises CellError for a network that cannot be computed operation by operation.
    """
    import torch

    withheld = min(count // _WITHHELD, _MOST_WITHHELD)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order
    try:
        with tempfile.TemporaryDirectory(prefix="mobconv-") as folder, torch.inference_mode():
            lockstep = Lockstep(program, scheme, scheme_for, feed, count, count - withheld, Path(folder), stage)
            model = lockstep.run()
            lockstep.check()
            if not withheld:
                return Calibrated(model, _unfitted(lockstep))
            return _judged(program, scheme, scheme_for, lockstep, model)
    finally:
        torch.set_num_threads(threads)


def _judged(
    program: Program, scheme: Scheme, scheme_for: SchemeFor, lockstep: Lockstep, model: QuantizedModel
) -> Calibrated:
    """The calibrated model, or that of the default algorithm where the withheld samples are nearer to float with it."""

    def plain(name: str, cell_scheme: Scheme) -> Scheme:
        layer_scheme = scheme_for(name, cell_scheme)
        return replace(layer_scheme, algorithm=DEFAULT_ALGORITHM) if layer_scheme.mode is not None else layer_scheme

    default = quantize_model(program, replace(scheme, algorithm=DEFAULT_ALGORITHM), plain, threads=1)
    errors = []
    for candidate in (model, default):
        network = reference(program, candidate, scheme)
        error = total = 0.0
        for feeds, wanted in lockstep.withheld():
            outputs = network.run(feeds)
            for name, value in wanted.items():
                error += float(((outputs[name].astype(np.float64) - value) ** 2).sum())
                total += float(((value - value.mean(axis=0)) ** 2).sum())
        errors.append(error / total if total else error)
    if errors[0] <= errors[1] or not np.isfinite(errors).all():
        return Calibrated(model, _unfitted(lockstep))
    return Calibrated(
        default,
        f"{scheme.algorithm} was further from the float network than {DEFAULT_ALGORITHM} on withheld calibration "
        f"samples (squared error {errors[0]:.2g} and {errors[1]:.2g} of the outputs' variance), so the weights are "
        f"those of {DEFAULT_ALGORITHM}",
    )


def _unfitted(lockstep: Lockstep) -> str:
    """Name the weights that have codes of the default algorithm; '' for none."""
    names = lockstep.unfitted
    return f"without calibration data ({DEFAULT_ALGORITHM}): {', '.join(names)}" if names else ""
