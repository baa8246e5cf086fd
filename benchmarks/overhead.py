"""What a whole `mobconv sweep` spends on nothing that anyone asked for, and how much memory it takes.

The command runs as a process of its own. Of its wall time, the stages that results.json accounts for are taken away:
conversion (once a template), quantizing and the reference's inference (once a scheme), encoding, opening, running and
timing each file. What is left is overhead: starting Python, imports, loading checkpoint and data, tracing, the float
baseline, hashing, reports. Opening is the runtime's own work (it unpacks the weights then); a second figure counts it
as overhead too.
Memory is the largest resident set that the process, or a process that it started, ever had.
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
    """A finished sweep."""

    wall: float
    gigabytes: float
    cpu: float
    results: dict[str, Any]


def run(path: Path, out: Path, only: list[str]) -> Run:
    """`mobconv sweep`, measured from outside. Raises RuntimeError with its output where it fails."""
    command = [sys.executable, "-c", _MAIN, "sweep", str(path), "-o", str(out)]
    for pattern in only:
        command += ["--only", pattern]
    log = out.with_suffix(".log")
    with log.open("wb") as stream:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        # wait4 gives this child's own figures, those of what it started included
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"mobconv sweep ended with {child.returncode}:\n{log.read_text()[-2000:]}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    found = json.loads((out / "results.json").read_text())
    return Run(wall, kilobytes * 1024 / 1e9, usage.ru_utime + usage.ru_stime, found)


def stages(cells: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds by stage, over all cells: a conversion and a quantization that cells share are counted once."""
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
    """One sweep, taken apart."""
    path = options.recipe or next(held for held in RECIPES if held.exists())
    plan = recipe.load(path, backends.names())
    common.progress(f"mobconv sweep {path.name}")
    found = run(path, options.keep or options.scratch / "sweep", QUICK if options.quick else [])
    cells = found.results["cells"]
    spent = stages(cells)
    rest = found.wall - sum(spent.values())
    table = common.Table(["stage", "seconds", "% of wall time"])
    for stage, seconds in [*spent.items(), ("overhead", rest), ("wall time", found.wall)]:
        table.rows.append([stage, f"{seconds:.1f}", f"{100 * seconds / found.wall:.1f}"])
    done = sum(cell["status"] == "ok" for cell in cells)
    return common.Section(
        "A sweep's overhead and memory",
        [
            common.Verdict("overhead / wall time", rest / found.wall, OVERHEAD_LIMIT, detail=f"{done} cells"),
            common.Verdict("the same, opening files counted as overhead", (rest + spent["load"]) / found.wall),
            common.Verdict("largest resident set, GB", found.gigabytes, MEMORY_LIMIT),
        ],
        [table],
        [
            f"`mobconv sweep {path.name}`: {done} cells done of {len(cells)}, "
            f"{found.results['data']['images']:,} images, "
            f"{found.cpu:.0f} s of CPU time in {found.wall:.0f} s.",
            "The float baseline, one pass over all images in PyTorch, is counted as overhead.",
        ],
        subject=f"`{plan.checkpoint.name}`, {found.results['model']['parameters']:,} parameters",
    )


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", type=Path, help="recipes/thesis.yaml, or recipes/demo.yaml where there is none")
    parser.add_argument("--keep", type=Path, help="where the sweep's files and results stay; an empty folder")


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build, _arguments))
