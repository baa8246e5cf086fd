"""Overhead and memory of a whole `mobconv sweep`.

The command runs in a process of its own. Overhead is its wall time minus the stages that results.json accounts for:
conversion (once a template), quantizing and the reference's inference (once a scheme), encoding, opening, running and
timing each file. So it consists of starting Python, imports, loading checkpoint and data, tracing, the float baseline,
hashing and reports. Opening is the runtime's work (it unpacks the weights then); a second figure counts it as overhead
too. Memory is the largest resident set of the process or of a process that it started.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common

from mobconv import backends, recipe

OVERHEAD_LIMIT = 0.10
MEMORY_LIMIT = 3.0  # GB
RECIPES = [common.ROOT / "recipes" / name for name in ("thesis.yaml", "demo.yaml")]
QUICK = ["*/fp32", "*/w4-kmeans", "*/w8-symmetric"]
STAGES = ("convert", "quantize", "reference", "encode", "load", "run", "latency")
_MAIN = "from mobconv.cli.app import main; main()"


@dataclass
class Run:
    """A finished sweep: seconds of wall time, peak memory, seconds of CPU time, and its results.json."""

    wall: float
    gigabytes: float
    cpu: float
    results: dict[str, Any]


def run(path: Path, out: Path, only: list[str]) -> Run:
    """Run `mobconv sweep`, measured from outside. Raises RuntimeError with its output where it fails."""
    command = [sys.executable, "-c", _MAIN, "sweep", str(path), "-o", str(out)]
    for pattern in only:
        command += ["--only", pattern]
    log = out.with_suffix(".log")
    with log.open("wb") as stream:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        # wait4 gives the figures of this child, including those of the processes that it started
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"mobconv sweep ended with {child.returncode}:\n{log.read_text()[-2000:]}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    results = json.loads((out / "results.json").read_text())
    return Run(wall, kilobytes * 1024 / 1e9, usage.ru_utime + usage.ru_stime, results)


def stages(cells: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds by stage, over all cells; a conversion or quantization that cells share is counted once."""
    total = dict.fromkeys(STAGES, 0.0)
    shared: set[tuple[str, ...]] = set()
    for cell in cells:
        for stage, seconds in cell["seconds"].items():
            once = {
                "convert": (cell["backend"], cell["compute"]),
                "quantize": (cell["scheme"],),
                "reference": (cell["scheme"],),
            }
            if stage in once:
                if (stage, *once[stage]) in shared:
                    continue
                shared.add((stage, *once[stage]))
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def build(options: common.Options) -> common.Section:
    """Run one sweep and split its wall time into stages and overhead."""
    path = options.recipe or next(candidate for candidate in RECIPES if candidate.exists())
    plan = recipe.load(path, backends.formats())
    common.progress(f"mobconv sweep {path.name}")
    finished = run(path, options.keep or options.scratch / "sweep", QUICK if options.quick else [])
    cells, wall = finished.results["cells"], finished.wall
    spent = stages(cells)
    rest = wall - sum(spent.values())
    table = common.Table(["stage", "seconds", "% of wall time"])
    for stage, seconds in [*spent.items(), ("overhead", rest), ("wall time", wall)]:
        table.rows.append([stage, f"{seconds:.1f}", f"{100 * seconds / wall:.1f}"])
    done = sum(cell["status"] == "ok" for cell in cells)
    return common.Section(
        "A sweep's overhead and memory",
        [
            common.Verdict("overhead / wall time", rest / wall, OVERHEAD_LIMIT, detail=f"{done} cells"),
            common.Verdict("the same, opening files counted as overhead", (rest + spent["load"]) / wall),
            common.Verdict("largest resident set, GB", finished.gigabytes, MEMORY_LIMIT),
        ],
        [table],
        [
            f"`mobconv sweep {path.name}`: {done} cells done of {len(cells)}, "
            f"{finished.results['data']['samples']:,} images, "
            f"{finished.cpu:.0f} s of CPU time in {wall:.0f} s.",
            "The float baseline, one pass over all images in PyTorch, is counted as overhead.",
        ],
        subject=f"`{Path(plan.checkpoint).name}`, {finished.results['model']['parameters']:,} parameters",
    )


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", type=Path, help="recipes/thesis.yaml, or recipes/demo.yaml where there is none")
    parser.add_argument("--keep", type=Path, help="an empty folder, to keep the sweep's files and results")


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build, _arguments))
