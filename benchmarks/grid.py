"""The whole grid of cells: mobconv, which converts once to each format, against one conversion for each cell.

mobconv: trace, convert once to each format, quantize each scheme once, encode each cell. One by one, as the vendors'
documentation shows it: for each cell convert the PyTorch module again, then compress and save. Neither side evaluates.

The vendors' tools can make some of the grid's cells. One by one makes all of those, each from the module on. Where a
vendor has no tool for a cell (no k-means in TFLite, no 5 bits anywhere), one by one counts that format's conversion
only: every way to that cell begins with it, so this is an underestimate. The table has both totals.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import with_ai_edge
import with_coremltools
import with_onnxruntime

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.model.checkpoint import Checkpoint
from mobconv.pipeline import templates
from mobconv.pipeline.measure import Seconds
from mobconv.pipeline.quantized import quantize_model
from mobconv.schemes import Cell, Compute, Mode, Scheme

LIMIT = 8.0
ROUNDS = 1  # some four minutes each
BACKENDS = ("onnx", "tflite", "coreml")
NO_TOOL = "the vendor has no tool: conversion alone"


def grid(quick: bool) -> list[Cell]:
    """Cells of fp32, fp16 and every width in every mode; Core ML only in fp16, coremltools' default precision."""
    schemes = [Scheme(32), Scheme(16)]
    schemes += [Scheme.parse(f"w{bits}-{mode}") for bits in ((8, 4) if quick else range(8, 0, -1)) for mode in Mode]
    compute = {"coreml": Compute.FP16}
    return [
        Cell(name, scheme, compute=compute.get(name, Compute.FP32))
        for scheme in schemes
        for name in BACKENDS
        if (name, scheme.bits) != ("coreml", 32)
    ]


def ours(network: Checkpoint, cells: list[Cell], scratch: Path) -> dict[str, float]:
    """Make all cells from the loaded module. Seconds by stage: quantizing by scheme, encoding by cell."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    seconds = Seconds()
    with seconds.of("trace"):
        program = network.trace()
    for scheme in dict.fromkeys(cell.scheme for cell in cells):
        with seconds.of(f"quantize {scheme}"):
            model = quantize_model(program, scheme)
        for cell in (each for each in cells if each.scheme == scheme):
            backend = backends.get(cell.backend)
            with seconds.of("convert"):  # only the first time; later cells reuse the template
                template = templates.template(backend, Entry(program), cell.compute, scratch)
            with seconds.of(f"encode {cell}"):
                backend.encode(template, model, cell, scratch / cell.path(backend.suffix))
    return seconds.spent


def only(spent: dict[str, float], cells: list[Cell]) -> dict[str, float]:
    """Seconds of these cells' stages: tracing and conversion in full, and quantizing and encoding of these cells."""
    stages = {f"quantize {cell.scheme}" for cell in cells} | {f"encode {cell}" for cell in cells}
    return {stage: seconds for stage, seconds in spent.items() if stage in stages | {"trace", "convert"}}


class OneByOne:
    """Each vendor's documented way to one cell, from the module to a file."""

    def __init__(self, network: Checkpoint, scratch: Path) -> None:
        import torch

        scratch.mkdir(exist_ok=True)
        self.module, self.scratch = network.module.eval(), scratch
        self.example = tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in network.example.values())

    def ways(self, cell: Cell) -> Callable[[], None] | None:
        """A function that converts and compresses to a cell; None where the vendor has no tool for it."""
        scheme, kmeans = cell.scheme, cell.scheme.mode is Mode.KMEANS
        if cell.backend == "onnx":
            known = scheme.bits == 32 or (scheme.bits == 8 and not kmeans)
            return (lambda: self.onnx(scheme)) if known else None
        if cell.backend == "tflite":
            known = scheme.bits == 32 or (scheme.mode is Mode.SYMMETRIC and scheme.bits in with_ai_edge.BITS)
            return (lambda: self.tflite(scheme)) if known else None
        target = (with_coremltools.KMEANS if kmeans else {16: "iOS16", **with_coremltools.LINEAR}).get(scheme.bits)
        return (lambda: self.coreml(scheme, target)) if target else None

    def onnx(self, scheme: Scheme) -> None:
        """Run torch.onnx.export, then quantize_dynamic."""
        import torch

        path = self.scratch / "float.onnx"
        exported = torch.onnx.export(self.module, self.example, dynamo=True, verbose=False)
        assert exported is not None
        if scheme.mode is None:
            exported.save(str(path))
        else:
            kind = "QInt8" if scheme.mode is Mode.SYMMETRIC else "QUInt8"
            model = exported.model_proto
            # quantize_dynamic transposes a Gemm's weight, and then refuses the exporter's shape of it
            del model.graph.value_info[:]
            with_onnxruntime.compress(model, kind, path)

    def tflite(self, scheme: Scheme) -> None:
        """Run litert_torch.convert, then ai-edge-quantizer's weight-only recipe."""
        import litert_torch

        path = self.scratch / "float.tflite"
        litert_torch.convert(self.module, self.example).export(str(path))
        if scheme.mode is not None:
            with_ai_edge.compress(path, scheme.bits, with_ai_edge.ALGORITHMS[0], self.scratch / "quantized.tflite")

    def coreml(self, scheme: Scheme, target: str) -> None:
        """Run coremltools.convert on an exported program, then coremltools.optimize with one configuration for all."""
        import coremltools as ct
        import coremltools.optimize.coreml as cto
        import torch

        exported = torch.export.export(self.module, self.example).run_decompositions({})
        model = ct.convert(exported, minimum_deployment_target=getattr(ct.target, target), skip_model_load=True)
        if scheme.mode is Mode.KMEANS:
            config = cto.OptimizationConfig(cto.OpPalettizerConfig(mode="kmeans", nbits=scheme.bits))
            model = cto.palettize_weights(model, config)
        elif scheme.mode is not None:
            mode = "linear" if scheme.mode is Mode.LINEAR else "linear_symmetric"
            config = cto.OptimizationConfig(cto.OpLinearQuantizerConfig(mode=mode, dtype=f"int{scheme.bits}"))
            model = cto.linear_quantize_weights(model, config)
        path = self.scratch / "model.mlpackage"
        shutil.rmtree(path, ignore_errors=True)
        model.save(str(path))


def build(options: common.Options) -> common.Section:
    """Time both sides, in turn."""
    cells = grid(options.quick)
    common.progress("imports, and one conversion to each format, not counted")
    with common.hushed():
        network = options.load()
        one_by_one = OneByOne(network, options.scratch / "theirs")
        ways = {cell: way for cell in cells if (way := one_by_one.ways(cell)) is not None}
        plain = {name: next(c for c in ways if c.backend == name and c.scheme.mode is None) for name in BACKENDS}
        for cell in plain.values():
            ways[cell]()
        ours(
            network,
            [cell for cell in cells if cell.scheme.bits == 1 or cell in plain.values()],
            options.scratch / "warm",
        )
    whole, same, stages, theirs = [], [], [], []
    for number in range(1 if options.quick else ROUNDS):
        common.progress(f"round {number + 1}: mobconv, {len(cells)} cells")
        with common.hushed():
            stages.append(ours(network, cells, options.scratch / "ours"))
        common.progress(f"round {number + 1}: one by one, {len(ways)} cells")
        with common.hushed():
            theirs.append({cell: common.timed(way) for cell, way in ways.items()})
        made = sum(theirs[-1].values())
        others = sum(theirs[-1][plain[cell.backend]] for cell in cells if cell not in ways)
        whole.append((made + others) / sum(stages[-1].values()))
        same.append(made / sum(only(stages[-1], list(ways)).values()))
    return section(cells, plain, stages, theirs, whole, same)


def section(
    cells: list[Cell],
    plain: dict[str, Cell],
    stages: list[dict[str, float]],
    theirs: list[dict[Cell, float]],
    whole: list[float],
    same: list[float],
) -> common.Section:
    """The section: totals, and seconds by format and stage."""
    made = theirs[0]
    table = common.Table(["one by one", "cells", "seconds a cell", "seconds"])
    for name in BACKENDS:
        whole_ways = [float(np.median([spent[cell] for spent in theirs])) for cell in made if cell.backend == name]
        without = sum(cell.backend == name and cell not in made for cell in cells)
        alone = float(np.median([spent[plain[name]] for spent in theirs]))
        extent = f"{min(whole_ways):.1f} to {max(whole_ways):.1f}"
        table.rows += [
            [f"{name}, converted and compressed", str(len(whole_ways)), extent, f"{sum(whole_ways):.1f}"],
            [f"{name}, {NO_TOOL}", str(without), f"{alone:.1f}", f"{without * alone:.1f}"],
        ]
    stage_table = common.Table(["mobconv, the whole grid", "seconds"])
    for stage in ("trace", "convert", "quantize", "encode"):
        totals = [sum(seconds for name, seconds in spent.items() if name.split()[0] == stage) for spent in stages]
        stage_table.rows.append([stage, f"{np.median(totals):.1f}"])

    def verdict(what: str, ratios: list[float], limit: float | None, detail: str) -> common.Verdict:
        low, high = np.percentile(ratios, (25, 75))
        return common.Verdict(what, float(np.median(ratios)), limit, True, (float(low), float(high)), detail)

    return common.Section(
        "The whole grid against one conversion a cell",
        [
            verdict(
                "seconds one by one / mobconv, whole grid", whole, LIMIT, f"{len(cells)} cells, {len(whole)} rounds"
            ),
            verdict("the same, only cells that the vendors make", same, None, f"{len(made)} cells"),
        ],
        [table, stage_table],
        [
            "Where a vendor has no tool for a cell, its conversion alone is counted for one by one.",
            "Both sides run in a process that has imported everything and converted once; one by one from a shell "
            "would also pay for imports in each cell.",
            "coremltools runs with one configuration for all weights, as documented, which leaves out tensors of "
            "2,048 weights and fewer.",
        ],
    )


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build))
