"""The demo sweep by one process, by two, and by two workers of a Dask cluster, one runtime thread each.

Each sweep is a process of its own with an empty folder, started in turn with the others: wall time includes its own
workers' start and imports. The cluster's scheduler and workers run before, as a cluster's do; a first sweep that is not
counted lets them import what they need. Latency is taken alone on both sides, which no worker shortens.
Rows and artifacts of all three must be equal, timings aside; a difference ends the benchmark.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common
import yaml

RECIPE = common.ROOT / "recipes" / "demo.yaml"
ROUNDS = 1  # a quarter of an hour each
JOBS_LIMIT, CLUSTER_LIMIT = 1.5, 1.4
TIMINGS = ("seconds", "latency_ms", "latency_ratio", "load_ms")
QUICK = {"images": 200, "schemes": ["fp32", "w8-symmetric", "w4-kmeans"]}
_MAIN = "from mobconv.cli.app import main; main()"


def sweep(recipe: Path, out: Path, *more: str) -> None:
    """`mobconv sweep` into an empty folder. Raises RuntimeError with its output where it fails."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", _MAIN, "sweep", str(recipe), "-o", str(out), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mobconv sweep {' '.join(more)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


@contextmanager
def cluster(scratch: Path) -> Iterator[str]:
    """A scheduler and two workers of one thread each, as processes of their own -> the address."""
    held = scratch / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [
        subprocess.Popen(
            [*dask, "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(held)], **quiet
        )
    ]
    try:
        for number in range(2):
            folder = str(scratch / f"worker{number}")
            more = ["--nthreads", "1", "--no-dashboard", "--local-directory", folder]
            started.append(subprocess.Popen([*worker, "--scheduler-file", str(held), *more], **quiet))
        stop = time.monotonic() + 60
        while not held.exists():
            if time.monotonic() > stop:
                raise RuntimeError("no Dask scheduler within a minute")
            time.sleep(0.1)
        address = str(json.loads(held.read_text())["address"])
        from distributed import Client

        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait()


def content(out: Path) -> dict[str, Any]:
    """What must not depend on who did the work: rows without timings, and the bytes of every file."""
    found = json.loads((out / "results.json").read_text())
    rows = [{name: value for name, value in row.items() if name not in TIMINGS} for row in found["cells"]]
    held = [path for row in rows if row["path"] for path in _files(out / row["path"])]
    digests = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in held}
    return {"rows": rows, "float": found["float_top1"], "files": digests}


def _files(path: Path) -> list[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def build(options: common.Options) -> common.Section:
    """Rounds of all three, in turn."""
    plan = yaml.safe_load(RECIPE.read_text())
    plan |= {"checkpoint": str(RECIPE.parent / plan["checkpoint"]), "data": str(RECIPE.parent / plan["data"])}
    plan |= {"threads": 1} | (QUICK if options.quick else {})
    recipe, warm = options.scratch / "demo.yaml", options.scratch / "warm.yaml"
    recipe.write_text(yaml.safe_dump(plan))
    warm.write_text(yaml.safe_dump(plan | QUICK | {"schemes": ["fp32"]}))
    with cluster(options.scratch) as address:
        common.progress("a small sweep on the cluster that does not count")
        sweep(warm, options.scratch / "warm", "--cluster", address)
        ways = {"one": ("--jobs", "1"), "two": ("--jobs", "2"), "cluster": ("--cluster", address)}

        def run(name: str) -> None:
            common.progress(f"mobconv sweep {' '.join(ways[name])}")
            sweep(recipe, options.scratch / name, *ways[name])

        times = common.in_turn({name: (lambda name=name: run(name)) for name in ways}, ROUNDS, warm=0)
    contents = {name: content(options.scratch / name) for name in ways}
    for name in ("two", "cluster"):
        if contents[name] != contents["one"]:
            raise RuntimeError(f"results of {name} differ from those of one process")
    rows = contents["one"]["rows"]
    cells = sum(row["status"] == "ok" for row in rows)
    told = json.loads((options.scratch / "one" / "results.json").read_text())
    table = common.Table(["who", "seconds"])
    words = {"one": "--jobs 1", "two": "--jobs 2", "cluster": "--cluster, two workers"}
    table.rows += [[words[name], f"{times.median(name):.1f}"] for name in ways]

    def verdict(what: str, name: str, limit: float) -> common.Verdict:
        spread = times.spread("one", name) if times.rounds > 1 else None
        return common.Verdict(what, times.ratio("one", name), limit, True, spread, f"{times.rounds} rounds")

    return common.Section(
        "A sweep by workers",
        [
            verdict("seconds with --jobs 1 / --jobs 2", "two", JOBS_LIMIT),
            verdict("seconds with --jobs 1 / two Dask workers", "cluster", CLUSTER_LIMIT),
        ],
        [table],
        [
            f"`recipes/demo.yaml` with `threads: 1`: {cells} cells done of {len(rows)}, "
            f"{told['data']['images']:,} images, empty folders.",
            f"joblib {version('joblib')}, distributed {version('distributed')}.",
            f"All three wrote the same {len(contents['one']['files']):,} files, byte for byte, and the same rows, "
            "timings aside.",
        ],
        subject=f"`{Path(plan['checkpoint']).name}`, {told['model']['parameters']:,} parameters",
    )


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build))
