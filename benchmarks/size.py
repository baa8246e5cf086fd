"""Whole files over the ideal: bytes on disk / (n / 8 bytes for each quantized weight), for every packed cell.

Every byte of a file counts: graph, names, biases, scales, tables, the ops that decode. No time is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import common

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.common import files
from mobconv.pipeline import templates
from mobconv.pipeline.quantized import counts, quantize_model
from mobconv.schemes import Cell, Compute, Mode, Scheme

BITS = range(8, 0, -1)
QUICK = (8, 4, 1)
WIDTHS = (8, 6, 4, 3, 2, 1)  # those with a limit
TABLES = dict(zip(WIDTHS, (1.12, 1.16, 1.20, 1.26, 1.35, 1.8), strict=True))
TFLITE_TABLES = dict(zip(WIDTHS, (1.20, 1.25, 1.30, 1.38, 1.50, 2.1), strict=True))
SCALES = dict(zip(WIDTHS, (1.12, 1.18, 1.25, 1.32, 1.45, 1.85), strict=True))
LIMITS: Mapping[tuple[str, Mode], Mapping[int, float]] = {
    ("onnx", Mode.KMEANS): TABLES,
    ("coreml", Mode.KMEANS): TABLES,
    ("tflite", Mode.KMEANS): TFLITE_TABLES,
    **{(name, mode): SCALES for name in ("onnx", "coreml") for mode in (Mode.LINEAR, Mode.SYMMETRIC)},
}
BACKENDS = [("onnx", Compute.FP32), ("tflite", Compute.FP32), ("coreml", Compute.FP32), ("coreml", Compute.FP16)]


def ratios(options: common.Options, bits: tuple[int, ...]) -> dict[Cell, tuple[float, float | None]]:
    """Cell -> whole file over ideal, and its limit or None."""
    program = options.load().trace()
    measured = {}
    for mode in Mode:
        for width in bits:
            scheme = Scheme.parse(f"w{width}-{mode}")
            common.progress(str(scheme))
            with common.hushed():
                model = quantize_model(program, scheme)
                ideal = counts(model, scheme)["parameters"] * width / 8
                for name, compute in BACKENDS:
                    cell, backend = Cell(name, scheme, compute=compute), backends.get(name)
                    path = options.scratch / cell.path(backend.suffix)
                    folder = templates.template(backend, Entry(program), compute, options.scratch)
                    backend.encode(folder, model, cell, path)
                    measured[cell] = (files.size(path) / ideal, LIMITS.get((name, mode), {}).get(width))
    return measured


def build(options: common.Options) -> common.Section:
    """Measure all cells: a row for each format, precision of compute and mode."""
    bits = QUICK if options.quick else tuple(BITS)
    measured = ratios(options, bits)
    table = common.Table(["format", "mode", *(f"{width} bit{'s' * (width > 1)}" for width in bits)])
    table.caption = "Whole file / ideal, and its limit where it has one:"
    missed = []
    for name, compute in BACKENDS:
        for mode in Mode:
            row = []
            for width in bits:
                cell = Cell(name, Scheme.parse(f"w{width}-{mode}"), compute=compute)
                ratio, limit = measured[cell]
                over = limit is not None and ratio > limit
                missed += [f"`{cell}` {ratio:.3f} of {limit}"] * over
                row.append(f"{'**' * over}{ratio:.3f}{'**' * over}" + (f" ({limit:.2f})" if limit else ""))
            label = f"{name}, computing in {compute}" if name == "coreml" else name
            table.rows.append([label, mode.value, *row])
    limited = {cell: ratio / limit for cell, (ratio, limit) in measured.items() if limit}
    nearest = max(limited, key=lambda cell: limited[cell])
    verdicts = [
        common.Verdict(
            "cells above their limit", len(missed), 0, detail=", ".join(missed) or f"of {len(limited)} with one"
        ),
        common.Verdict(
            "largest share of a limit", limited[nearest], 1.0, detail=f"`{nearest}`, {measured[nearest][0]:.3f}"
        ),
    ]
    return common.Section(
        "Size over the ideal",
        verdicts,
        [table],
        ["Ideal: n / 8 bytes for each weight that is quantized, and nothing else in the file."],
    )


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build))
