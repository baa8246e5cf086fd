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
        list[str] | None, typer.Option("--only", metavar="GLOB", help="cells to run, as 'coreml/*'")
    ] = None,
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
) -> int:
    """Export, read back and measure every cell of a recipe; one table, and the cliffs.

    Writes artifacts, results.json, results.csv, results.md and predictions.npz below the output folder
    (default: out/ and the recipe's name). Rows that say `unsupported` are fine; a cell that failed is exit code 5.
    """
    from mobconv import backends, checkpoint, data
    from mobconv import recipe as recipes
    from mobconv.cli import render
    from mobconv.errors import CellError
    from mobconv.results import FAILED
    from mobconv.sweep import Sweep

    started = time.perf_counter()
    plan = recipes.load(recipe, backends.names())
    cells = plan.cells(only or ())
    folder = out or Path("out") / recipe.stem
    options = checkpoint.Options(
        factory=plan.model,
        arguments=plan.arguments,
        input_shape=tuple(plan.input_shape) if plan.input_shape else None,
        preprocessing=recipes.preprocessing_of(plan),
        trust_pickle=trust_pickle,
    )
    loaded = checkpoint.load(plan.checkpoint, options)
    for note in loaded.notes:
        say(f"{plan.checkpoint.name}: {note}")
    images = data.load(plan.data, plan.images, loaded.preprocessing.fit if loaded.preprocessing else None)
    with render.watching(len(cells)) as watcher:
        found = Sweep(plan, loaded, images, folder, watcher).run(cells)
    if as_json:
        print((folder / "results.json").read_text(), end="")
    else:
        render.results(found)
        say(f"{folder}/: artifacts, results.json, .csv, .md and predictions.npz; {_minutes(started)}")
    failed = [row.cell for row in found.cells if row.status == FAILED]
    if failed:
        raise CellError(f"{len(failed)} of {len(found.cells)} cells failed: {', '.join(failed[:8])}")
    return 0


def _minutes(started: float) -> str:
    spent = round(time.perf_counter() - started)
    return f"{spent // 60} min {spent % 60} s" if spent >= 60 else f"{spent} s"
