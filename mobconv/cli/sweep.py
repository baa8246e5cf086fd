"""`mobconv sweep`: every cell of a recipe."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from mobconv.cli.common import AsJson, TrustPickle, say


def command(
    recipe: Annotated[Path, typer.Argument(help="YAML file: checkpoint, data, backends, schemes")],
    out: Annotated[Path | None, typer.Option("-o", "--out", help="folder for artifacts and results")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="GLOB", help="cells to run, as 'coreml/*'; others keep rows that still hold"),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option("--jobs", "-j", min=1, metavar="N", help="processes side by side, which share the cores"),
    ] = 1,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="ADDRESS", help="work on a running Dask cluster, as tcp://host:8786"),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="make everything anew, whatever is there")] = False,
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
) -> int:
    """Export, read back and measure every cell of a recipe; one table, and the cliffs.

    Writes artifacts, results.json, results.csv, results.md and predictions.npz below the output folder
    (default: out/ and the recipe's name). A second run makes only what is missing or changed; one that was stopped or
    killed goes on from there. Rows that say `unsupported` are fine; a cell that failed is exit code 5.
    """
    from mobconv import backends
    from mobconv import recipe as recipes
    from mobconv.cli import render, stopping
    from mobconv.errors import CellError, UsageError
    from mobconv.results import FAILED
    from mobconv.sweep import Job, Sweep

    started = time.perf_counter()
    if cluster is not None and jobs > 1:
        raise UsageError("--jobs and --cluster do not go together: a cluster has the workers that it has")
    plan = recipes.load(recipe, backends.names())
    cells = plan.cells(only or ())
    folder = out or Path("out") / recipe.stem
    job = Job.of(plan, trust_pickle, recipe.parent)
    with render.watching(len(cells), plan.checkpoint.name) as watcher:
        try:
            found = Sweep(job, folder, watcher, jobs, cluster, fresh).run(cells)
        except (KeyboardInterrupt, stopping.Terminated):
            say(watcher.stopped())
            raise
    if as_json:
        print((folder / "results.json").read_text(), end="")
    else:
        render.results(found)
        say(f"{folder}/: artifacts, results.json, .csv, .md and predictions.npz; {_minutes(started)}")
    names = {cell.name for cell in cells}
    failed = [row.cell for row in found.cells if row.status == FAILED and row.cell in names]
    if failed:
        raise CellError(f"{len(failed)} of {len(cells)} cells failed: {', '.join(failed[:8])}")
    return 0


def _minutes(started: float) -> str:
    spent = round(time.perf_counter() - started)
    return f"{spent // 60} min {spent % 60} s" if spent >= 60 else f"{spent} s"
