"""`mobconv baseline`: write the lock file with which later results are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobconv.cli.common import results_file, say
from mobconv.common.text import plural


def command(
    results: Annotated[Path, typer.Argument(help="results.json of a sweep, or its folder")],
    out: Annotated[Path, typer.Option("-o", "--out", help="lock file to write, and to commit")] = Path("baseline.json"),
) -> int:
    """Write the lock file with which `mobconv check` compares later results: scores, sizes and hashes."""
    from mobconv import results as rows
    from mobconv.common import files
    from mobconv.gate import baseline

    path = results_file(results)
    measured = rows.read(path)
    scores = rows.read_scores(path, measured)
    if scores is None:
        say(f"{path.parent}: no scores.npz; without it regressions are judged by their figures, noise or not")
    count = baseline.write(out, measured, scores)
    say(f"{out}: {count} of {plural(len(measured.cells), 'cell')}, {files.size(out) / 1000:.1f} kB")
    return 0
