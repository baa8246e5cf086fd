"""Packed TFLite files against the float file at 224x224, on one thread and on two: latency at every width and mode.

Both come from the same checkpoint, for inputs of 1 x 3 x 224 x 224, and run in LiteRT's interpreter with XNNPACK's
default settings.
"""

from __future__ import annotations

import sys

import common
import packed

from mobconv.schemes import Mode

LIMITED, LIMIT = (Mode.KMEANS, Mode.SYMMETRIC), 1.5
SHAPE = (1, 3, 224, 224)
THREADS = (1, 2)
ROUNDS, SECONDS, LOADS = 500, 2.0, 3


def build(options: common.Options) -> common.Section:
    """Time all widths and modes, on each number of threads."""
    measured: dict[int, list] = {threads: [] for threads in THREADS}
    columns = [
        f"{what}, {threads} thread{'s' * (threads > 1)}" for threads in THREADS for what in ("ms", "to float", "spread")
    ]
    table = common.Table(["bits", "mode", *columns, "opens in ms", "float opens in ms"])
    plain = {}
    for pair in packed.pairs(options, "tflite", SHAPE):
        row = packed.label(pair.cell.scheme)
        with common.hushed():
            for threads in THREADS:
                times = pair.latency(threads, ROUNDS, 0.5 if options.quick else SECONDS)
                measured[threads].append((pair.cell, times))
                plain.setdefault(threads, []).append(times.median("float") * 1e3)
                row += [common.figure(times.median("packed") * 1e3), common.figure(times.ratio("packed", "float"))]
                row.append(packed.spread(times))
            load = pair.load(1, LOADS)
        table.rows.append([*row, *(common.figure(load.median(name) * 1e3) for name in ("packed", "float"))])
    verdicts = []
    for threads in THREADS:
        limited = [pair for pair in measured[threads] if pair[0].scheme.mode in LIMITED]
        others = [pair for pair in measured[threads] if pair[0].scheme.mode not in LIMITED]
        words = f"largest latency, packed / float, {threads} thread{'s' * (threads > 1)}"
        verdicts.append(packed.largest(f"{words}, k-means and symmetric", limited, LIMIT))
        verdicts.append(packed.largest(f"{words}, linear", others, None))
    floats = "; ".join(f"{min(values):.1f} to {max(values):.1f} ms on {threads}" for threads, values in plain.items())
    return common.Section(
        "Packed TFLite against float TFLite at 224x224",
        verdicts,
        [table],
        [f"One image, both files in turn. Threads: the float file takes {floats} (medians of the cells' runs)."],
    )


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build))
