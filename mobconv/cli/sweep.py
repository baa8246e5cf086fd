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
    fresh: Annotated[bool, typer.Option("--fresh", help="build every cell again, and reuse nothing")] = False,
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
) -> int:
    """Export, read back and measure every cell of a recipe; one table, and the cliffs.

    Writes artifacts, results.json, results.csv, results.md and scores.npz below the output folder
    (default: out/ and the recipe's name). A second run builds only what is missing or changed; after a stop or a kill
    it goes on from there. Rows that say `unsupported` are fine; a cell that failed is exit code 5.
    """
    from mobconv.cli import render, stopping
    from mobconv.errors import CellError
    from mobconv.results import FAILED
    from mobconv.sweep.run import default_folder, sweep

    started = time.perf_counter()
    folder = out or default_folder(recipe)
    with render.watching() as watcher:
        try:
            results = sweep(
                recipe,
                folder,
                only=only or (),
                jobs=jobs,
                cluster=cluster,
                fresh=fresh,
                trust_pickle=trust_pickle,
                watcher=watcher,
            )
        except (KeyboardInterrupt, stopping.Terminated):
            if watcher.names:  # else the recipe was not read yet
                say(watcher.stopped())
            raise
    if as_json:
        print((folder / "results.json").read_text(), end="")
    else:
        render.results(results)
        say(f"{folder}/: artifacts, results.json, .csv, .md and scores.npz; {_minutes(started)}")
    failed = [row.cell for row in results.cells if row.status == FAILED and row.cell in watcher.names]
    if failed:
        raise CellError(f"{len(failed)} of {watcher.total} cells failed: {', '.join(failed[:8])}")
    return 0


def _minutes(started: float) -> str:
    spent = round(time.perf_counter() - started)
    return f"{spent // 60} min {spent % 60} s" if spent >= 60 else f"{spent} s"
