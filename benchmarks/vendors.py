"""Cell by cell against the vendors' tools, side by side in one run.

The network is converted to each format once, untimed, for both sides. The timed part is quantizing and encoding: from a
tool's float model to a file on disk. Both files are then read from disk, and compared by

- their bytes;
- top-1 of the test images, both in the same runtime: ONNX Runtime, LiteRT's interpreter, for Core ML mobconv's executor
  in the package's precision;
- the squared error of the weights, sum (file - float)^2 over all quantized weights, decoded from the files.

Whether one file is less accurate is decided by the images that only one of the two gets right: McNemar's exact test,
with Holm's correction for the number of cells.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import common
import numpy as np
import with_ai_edge
import with_coremltools
import with_onnxruntime
from numpy.typing import NDArray
from rival import Rival, Weights

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.common import files
from mobconv.data.labelled import Images
from mobconv.evaluate import tasks
from mobconv.model.checkpoint import Checkpoint
from mobconv.pipeline import templates
from mobconv.pipeline.artifact import open_artifact
from mobconv.pipeline.measure import measure
from mobconv.pipeline.quantized import quantize_model
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute, Scheme
from mobconv.stats.paired import holm

SIZE_LIMIT = 1.02
SPEED_LIMIT = 3.0
NOISE = 0.05  # at most the chance that any cell is called less accurate though none is
ROUNDS, SECONDS = 5, 8.0  # after these seconds no round of a cell begins
SLOW = 4.0  # a first round of more seconds counts; a quicker one warms up
TASK = tasks.get("classification")  # the score of a sample is 0 or 100 %

CELLS = [
    *(f"coreml/w{bits}-kmeans@fp16" for bits in (8, 6, 4, 3, 2, 1)),
    *(f"coreml/w{bits}-{mode}@fp16" for bits in (8, 4) for mode in ("linear", "symmetric")),
    *(f"coreml/w{bits}-kmeans" for bits in (8, 6, 4, 3, 2, 1)),
    *(f"coreml/w{bits}-{mode}" for bits in (8, 4) for mode in ("linear", "symmetric")),
    "tflite/w8-symmetric",
    "tflite/w4-symmetric",
    "onnx/w8-symmetric-tensor",
    "onnx/w8-linear-tensor",
]
QUICK = ["coreml/w2-kmeans@fp16", "coreml/w4-linear@fp16", "tflite/w4-symmetric", "onnx/w8-symmetric-tensor"]


@dataclass
class Measured:
    """A file's figures. hits: (N,), whether the top-1 of each image is right."""

    bytes: int
    hits: NDArray[np.bool_]
    squared_error: float

    @property
    def top1(self) -> float:
        """Fraction of images whose top-1 is right."""
        return float(self.hits.mean())


@dataclass
class Row:
    """A cell of mobconv beside a vendor's file. tensors: number of weights that both quantize, and of all weights."""

    rival: Rival
    ours: Measured
    theirs: Measured
    times: common.Times
    tensors: tuple[int, int]

    @property
    def size_ratio(self) -> float:
        """Our bytes over theirs."""
        return self.ours.bytes / self.theirs.bytes

    @property
    def error_ratio(self) -> float:
        """Our squared error over theirs; infinity where theirs is 0."""
        return self.ours.squared_error / self.theirs.squared_error if self.theirs.squared_error else math.inf

    @property
    def speed(self) -> float:
        """Their seconds over ours."""
        return self.times.ratio("theirs", "ours")

    @property
    def p(self) -> float:
        """Two-sided p of McNemar's exact test."""
        from scipy.stats import binomtest

        won, lost = (
            int((a & ~b).sum()) for a, b in ((self.ours.hits, self.theirs.hits), (self.theirs.hits, self.ours.hits))
        )
        return float(binomtest(lost, won + lost).pvalue) if won + lost else 1.0

    @property
    def label(self) -> str:
        """Cell, tool and call, as the tables name them."""
        return f"`{self.rival.ours}` against {self.rival.tool} ({self.rival.how})"


class Bench:
    """mobconv's templates and the vendors' float models, each converted once."""

    def __init__(self, network: Checkpoint, images: Images, scratch: Path, threads: int) -> None:
        assert network.preprocessing is not None
        self.program = network.trace()
        self.floats = self.program.floats()
        self.images, self.preprocessing = images, network.preprocessing
        self.scratch, self.threads = scratch, threads

    def template(self, cell: Cell) -> Path:
        """The folder of mobconv's template for a cell."""
        return templates.template(backends.get(cell.backend), Entry(self.program), cell.compute, self.scratch)

    def rivals(self, cells: list[Cell]) -> list[Rival]:
        """The vendors' ways to these cells."""
        names = ("onnx", "tflite", "coreml")
        onnx, tflite, coreml = ([cell for cell in cells if cell.backend == name] for name in names)
        rivals = []
        if coreml:
            rivals += with_coremltools.rivals(self.program, coreml)
        if tflite:
            rivals += with_ai_edge.rivals(self.program, tflite, self.scratch)
        if onnx:
            backend, folder = backends.get("onnx"), self.template(onnx[0])
            plain = templates.float_artifact(backend, folder, self.program, Compute.FP32)
            rivals += with_onnxruntime.rivals(self.program, onnx, plain)
        return rivals

    def left_float(self, weights: Weights) -> list[str]:
        """Names of the weights that a tool did not quantize: those equal to the float weights, in fp32 or in fp16."""
        rounded = {name: self.floats[name].astype(np.float16).astype(np.float32) for name in weights}
        return [
            name
            for name, values in weights.items()
            if np.array_equal(values, self.floats[name]) or np.array_equal(values, rounded[name])
        ]

    def row(self, rival: Rival, rounds: int) -> Row:
        """Time both in turn, then measure the files that they write."""
        cell, backend = rival.ours, backends.get(rival.ours.backend)
        ours = self.scratch / "ours" / cell.path(backend.suffix)
        theirs = self.scratch / rival.name
        ours.parent.mkdir(parents=True, exist_ok=True)
        template = self.template(cell)
        kept: list[str] = []
        if rival.may_skip:
            with common.hushed():
                rival.compress(theirs)
                kept = self.left_float(rival.decode(theirs))
        models: list[QuantizedModel] = []

        def scheme_for(name: str, scheme: Scheme) -> Scheme:
            return Scheme(32) if name in kept else scheme

        def make() -> None:
            model = quantize_model(self.program, cell.scheme, scheme_for)
            backend.encode(template, model, cell, ours)
            models[:] = [model]

        with common.hushed():
            times = slow_in_turn({"ours": make, "theirs": lambda: rival.compress(theirs)}, rounds)
        # A package's weights are read from the file, in its precision; for the other formats tests check that the
        # file has the model's weights.
        if cell.backend == "coreml":
            weights = with_coremltools.decode(ours, self.program)
        else:
            weights = {name: weight.dequantize() for name, weight in models[0].weights.items()}
        total = len(self.program.sites)
        return Row(
            rival,
            self.measure(cell, ours, weights),
            self.measure(cell, theirs, rival.decode(theirs)),
            times,
            (total - len(kept), total),
        )

    def measure(self, cell: Cell, path: Path, weights: Weights) -> Measured:
        """Bytes, accuracy and squared error of a file, mobconv's or a vendor's. weights: decoded from it."""
        with common.hushed(), open_artifact(path, self.threads, backends.get(cell.backend)) as artifact:
            scored = measure(artifact, TASK, self.images, self.preprocessing, timing=False).scored
        assert scored is not None
        error = sum(
            float(((weights[name].astype(np.float64) - self.floats[name]) ** 2).sum()) for name in self.program.sites
        )
        return Measured(files.size(path), scored.scores > 0, error)


def slow_in_turn(contenders: dict[str, Callable[[], object]], rounds: int) -> common.Times:
    """Time contenders in turn. A slow first round counts, since few follow; a quick one only warms up."""
    first = common.in_turn(contenders, 1, warm=0)
    spent = sum(first.median(name) for name in contenders)
    if spent < SLOW:
        return common.in_turn(contenders, rounds, SECONDS, warm=0)
    if rounds == 1 or spent > SECONDS:
        return first
    more = common.in_turn(contenders, rounds - 1, SECONDS - spent, warm=0)
    return common.Times({name: first.seconds[name] + more.seconds[name] for name in contenders})


def table(rows: list[Row]) -> common.Table:
    """A row for each cell and tool: our figures, theirs, and their ratios."""
    headers = ["cell", "tool", "bytes", "theirs", "ratio", "top-1 %", "theirs", "p", "squared error", "theirs", "ratio"]
    comparison = common.Table([*headers, "s", "theirs", "times faster", "spread", "rounds"])
    for row in rows:
        low, high = row.times.spread("theirs", "ours")
        ours, theirs = row.ours, row.theirs
        notes = [row.rival.note] if row.rival.note else []
        notes += [
            f"it leaves all but {row.tensors[0]} of {row.tensors[1]} weights float, and so do both files here"
        ] * (row.tensors[0] < row.tensors[1])
        comparison.rows.append(
            [
                f"`{row.rival.ours}`",
                f"{row.rival.tool}, {row.rival.how}" + (f" ({'; '.join(notes)})" if notes else ""),
                f"{ours.bytes:,}",
                f"{theirs.bytes:,}",
                f"{row.size_ratio:.3f}",
                f"{ours.top1 * 100:.2f}",
                f"{theirs.top1 * 100:.2f}",
                common.figure(row.p),
                f"{ours.squared_error:.4g}",
                f"{theirs.squared_error:.4g}",
                f"{row.error_ratio:.3f}",
                common.figure(row.times.median("ours")),
                common.figure(row.times.median("theirs")),
                common.figure(row.speed),
                f"{common.figure(low)} to {common.figure(high)}",
                str(row.times.rounds),
            ]
        )
    return comparison


def verdicts(rows: list[Row]) -> list[common.Verdict]:
    """Verdicts on bytes, accuracy, error and speed, each with its worst cell; then speed by tool."""
    largest, furthest = max(rows, key=lambda row: row.size_ratio), max(rows, key=lambda row: row.error_ratio)
    adjusted = holm([row.p for row in rows])
    worse = [row for row, p in zip(rows, adjusted, strict=True) if row.ours.top1 < row.theirs.top1 and p < NOISE]
    least = min(rows, key=lambda row: row.ours.top1 - row.theirs.top1)
    points = (least.ours.top1 - least.theirs.top1) * 100
    judged = [
        common.Verdict("largest bytes, ours / theirs", largest.size_ratio, SIZE_LIMIT, detail=largest.label),
        common.Verdict(
            f"cells less accurate than theirs (p < {NOISE}, corrected)",
            len(worse),
            0,
            detail=", ".join(row.label for row in worse) or f"the lowest: {points:+.2f} points, {least.label}",
        ),
        common.Verdict("largest squared error, ours / theirs", furthest.error_ratio, 1.0, detail=furthest.label),
        speed("seconds, theirs / ours, geometric mean of all", rows, SPEED_LIMIT),
    ]
    for tool in dict.fromkeys(row.rival.tool for row in rows):
        judged.append(speed(f"the same, {tool}", [row for row in rows if row.rival.tool == tool]))
    return judged


def speed(what: str, rows: list[Row], limit: float | None = None) -> common.Verdict:
    """Verdict on the geometric mean of the cells' ratios; as spread, their quartiles."""
    ratios = np.asarray([row.speed for row in rows])
    low, high = np.percentile(ratios, (25, 75))
    least = min(rows, key=lambda row: row.speed)
    detail = f"{len(rows)} cells; the least {common.figure(least.speed)}, {least.label}"
    return common.Verdict(what, float(np.exp(np.log(ratios).mean())), limit, True, (float(low), float(high)), detail)


def build(options: common.Options) -> common.Section:
    """Measure all cells against all tools."""
    with common.hushed():
        bench = Bench(options.load(), options.images(), options.scratch, options.threads)
        cells = [backends.cell(name) for name in (QUICK if options.quick else CELLS)]
        rivals = bench.rivals(cells)
    rows = []
    for rival in rivals:
        common.progress(f"{rival.ours} against {rival.tool}, {rival.how}")
        rows.append(bench.row(rival, 1 if options.quick else ROUNDS))
    return common.Section(
        "Against the vendors' tools",
        verdicts(rows),
        [table(rows)],
        [
            f"Top-1 is of {len(bench.images):,} images. Seconds are from a float model, converted once and not timed, "
            "to a file on disk. mobconv quantizes tensors on all cores; the vendors' tools run as they come, on one.",
            "Both sides compress the same weights, per tensor for k-means and per channel for linear and symmetric, "
            "unless the cell's name says `-tensor`. coremltools is given each weight by name, since its defaults leave "
            "out tensors of 2,048 weights and fewer. Where a tool leaves weights float, so does our file in that row.",
            "coremltools clusters exactly where a tensor is fp16, has 10,000 weights and more, and kmeans1d is "
            f"installed ({'as here' if find_spec('kmeans1d') else 'which it is not here'}), else from one start of "
            "scikit-learn's: hence both precisions. A cell that takes a tool longer than the time for all rounds has "
            "one round.",
            "onnxruntime: quantize_dynamic is its only way to 8-bit Conv weights without calibration data; it "
            "quantizes activations as the network runs, so that its top-1 is not of the weights alone.",
            "p is two-sided, McNemar's exact test, of one cell by itself. A cell counts as less accurate only after "
            f"correction for {len(rows)} tests, by Holm's step-down procedure (Holm 1979): the chance that any cell "
            f"counts though none is worse is at most {NOISE:.0%}.",
            f"A spread is of the rounds. Cores: {os.cpu_count()}.",
        ],
    )


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build))
