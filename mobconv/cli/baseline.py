"""`mobconv baseline`: the lock file that later results are held against."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobconv.cli.common import results_file, say


def command(
    results: Annotated[Path, typer.Argument(help="results.json of a sweep, or its folder")],
    out: Annotated[Path, typer.Option("-o", "--out", help="the file to write, and to commit")] = Path("baseline.json"),
) -> int:
    """Write what `mobconv check` holds later results against: top-1, bytes, hashes, and which images were right."""
    from mobconv import results as rows
    from mobconv.common import files
    from mobconv.gate import baseline
    from mobconv.results.tables import plural

    path = results_file(results)
    found = rows.read(path)
    predictions = rows.read_predictions(path, found)
    if predictions is None:
        say(f"{path.parent}: no predictions.npz; without it regressions are judged by their figures, noise or not")
    count = baseline.write(out, found, predictions)
    say(f"{out}: {count} of {plural(len(found.cells), 'cell')}, {files.size(out) / 1000:.1f} kB")
    return 0
