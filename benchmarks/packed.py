"""Shared by onnx_packed.py and tflite_packed.py: every packed cell of a backend, timed in turn with its float file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np

from mobconv import backends
from mobconv.backends.base import Entry, Runner
from mobconv.pipeline import templates
from mobconv.pipeline.quantized import quantize_model
from mobconv.schemes import Cell, Compute, Mode, Scheme

BITS = range(8, 0, -1)
WARM, LEAST = 3, 7  # rounds


@dataclass
class Pair:
    """A packed file and the float file of the same network."""

    cell: Cell
    packed: Path
    plain: Path

    def open(self, path: Path, threads: int) -> Runner:
        """Open one of the two files."""
        return backends.get(self.cell.backend).open(path, threads)

    def latency(self, threads: int, rounds: int, seconds: float) -> common.Times:
        """Time one image in both files, in turn."""
        packed, plain = self.open(self.packed, threads), self.open(self.plain, threads)
        try:
            spec = plain.inputs[0]
            sample = np.random.default_rng(0).normal(size=spec.shape).astype(np.float32)
            runs = {
                "float": lambda: plain.run({plain.inputs[0].name: sample}),
                "packed": lambda: packed.run({packed.inputs[0].name: sample}),
            }
            return common.in_turn(runs, rounds, seconds, WARM, LEAST)
        finally:
            packed.close()
            plain.close()

    def load(self, threads: int, rounds: int) -> common.Times:
        """Time opening both files, in turn: reading, and the runtime's work before the first image."""

        def opening(path: Path) -> Callable[[], None]:
            return lambda: self.open(path, threads).close()

        return common.in_turn({"float": opening(self.plain), "packed": opening(self.packed)}, rounds)


def pairs(options: common.Options, name: str, input_shape: tuple[int, ...] | None = None) -> Iterator[Pair]:
    """Every width in every mode, with --quick two widths; all from one conversion."""
    program = options.load(input_shape).trace()
    backend = backends.get(name)
    with common.hushed():
        folder = templates.template(backend, Entry(program), Compute.FP32, options.scratch)
        plain = templates.float_artifact(backend, folder, program, Compute.FP32)
    for bits in (4, 3) if options.quick else BITS:
        for mode in Mode:
            cell = backends.cell(f"{name}/w{bits}-{mode}")
            common.progress(str(cell))
            path = options.scratch / cell.path(backend.suffix)
            with common.hushed():
                backend.encode(folder, quantize_model(program, cell.scheme), cell, path)
            yield Pair(cell, path, plain)


def label(scheme: Scheme) -> list[str]:
    """Width and mode, as the first columns of a table."""
    return [str(scheme.bits), str(scheme.mode)]


def spread(times: common.Times) -> str:
    """Quartiles of the rounds' ratios, packed over float."""
    low, high = times.spread("packed", "float")
    return f"{common.figure(low)} to {common.figure(high)}"


def largest(what: str, measured: list[tuple[Cell, common.Times]], limit: float | None) -> common.Verdict:
    """Verdict on the cell with the largest ratio to float."""
    cell, times = max(measured, key=lambda pair: pair[1].ratio("packed", "float"))
    ratio = times.ratio("packed", "float")
    return common.Verdict(
        what, ratio, limit, spread=times.spread("packed", "float"), detail=f"`{cell}`, of {len(measured)}"
    )
