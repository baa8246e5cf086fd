"""Packed ONNX files against the float file: latency at every width in every mode, and the time to open a session.

ONNX Runtime decodes packed weights once, when a session is opened; afterwards the graph should be the float one.
"""

from __future__ import annotations

import sys

import common
import packed

LIMIT = 1.05
THREADS = 1  # with more, the threads of a network this small wait for each other, and noise decides
ROUNDS, SECONDS, LOADS = 2000, 2.5, 7


def build(options: common.Options) -> common.Section:
    """Time all widths and modes."""
    measured = []
    table = common.Table(
        [
            "bits",
            "mode",
            "float ms",
            "packed ms",
            "ratio",
            "spread",
            "rounds",
            "float opens in ms",
            "packed opens in ms",
        ]
    )
    for pair in packed.pairs(options, "onnx"):
        with common.hushed():
            times = pair.latency(THREADS, ROUNDS, 0.5 if options.quick else SECONDS)
            load = pair.load(THREADS, 3 if options.quick else LOADS)
        measured.append((pair.cell, times))
        milliseconds = [
            common.figure(what.median(name) * 1e3) for what in (times, load) for name in ("float", "packed")
        ]
        ratio = common.figure(times.ratio("packed", "float"))
        table.rows.append(
            [
                *packed.label(pair.cell.scheme),
                *milliseconds[:2],
                ratio,
                packed.spread(times),
                str(times.rounds),
                *milliseconds[2:],
            ]
        )
    return common.Section(
        "Packed ONNX against float ONNX",
        [packed.largest("largest latency, packed / float", measured, LIMIT)],
        [table],
        [f"One image, {THREADS} thread, both files in turn in ONNX Runtime. A session opens from a file on disk."],
    )


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build))
