"""The demo sweep in one process, in two, and on two workers of a Dask cluster, one runtime thread each.

Each sweep is a process of its own with an empty folder, started in turn with the others. Wall time includes the start
and the imports of its workers. The cluster's scheduler and workers run before, as those of a cluster do; a first sweep,
which does not count, lets them import their packages. Every sweep measures latency one cell at a time, which workers
cannot speed up. Rows and artifacts of all three must be equal, timings aside; a difference ends the benchmark.
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
    """Run `mobconv sweep` into an empty folder. Raises RuntimeError with its output where it fails."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-c", _MAIN, "sweep", str(recipe), "-o", str(out), *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"mobconv sweep {' '.join(more)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


@contextmanager
def cluster(scratch: Path) -> Iterator[str]:
    """Start a scheduler and two workers of one thread each, as processes of their own; yields the address."""
    address_file = scratch / "scheduler.json"
    from_file = ["--scheduler-file", str(address_file)]
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    started = [subprocess.Popen([*dask, "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *from_file], **quiet)]
    try:
        for number in range(2):
            folder = str(scratch / f"worker{number}")
            more = ["--nthreads", "1", "--no-dashboard", "--local-directory", folder]
            started.append(subprocess.Popen([*worker, *from_file, *more], **quiet))
        stop = time.monotonic() + 60
        while not address_file.exists():
            if time.monotonic() > stop:
                raise RuntimeError("no Dask scheduler within a minute")
            time.sleep(0.1)
        address = str(json.loads(address_file.read_text())["address"])
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
    """The content that must not depend on the workers: rows without timings, and the sha256 of every file."""
    results = json.loads((out / "results.json").read_text())
    rows = [{name: value for name, value in row.items() if name not in TIMINGS} for row in results["cells"]]
    paths = [path for row in rows if row["path"] for path in _files(out / row["path"])]
    digests = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return {"rows": rows, "float": results["float_score"], "files": digests}


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def build(options: common.Options) -> common.Section:
    """Run all three, in turn."""
    plan = yaml.safe_load(RECIPE.read_text())
    plan |= {"checkpoint": str(RECIPE.parent / plan["checkpoint"]), "data": str(RECIPE.parent / plan["data"])}
    plan |= {"threads": 1} | (QUICK if options.quick else {})
    recipe, warm = options.scratch / "demo.yaml", options.scratch / "warm.yaml"
    recipe.write_text(yaml.safe_dump(plan))
    warm.write_text(yaml.safe_dump(plan | QUICK | {"schemes": ["fp32"]}))
    with cluster(options.scratch) as address:
        common.progress("a small sweep on the cluster, not counted")
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
    results = json.loads((options.scratch / "one" / "results.json").read_text())
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
            f"{results['data']['samples']:,} images, empty folders.",
            f"joblib {version('joblib')}, distributed {version('distributed')}.",
            f"All three wrote the same {len(contents['one']['files']):,} files, byte for byte, and the same rows, "
            "timings aside.",
        ],
        subject=f"`{Path(plan['checkpoint']).name}`, {results['model']['parameters']:,} parameters",
    )


if __name__ == "__main__":
    sys.exit(common.main(__doc__, build))
