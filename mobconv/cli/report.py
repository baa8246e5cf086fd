"""`mobconv report`: a page of one sweep's results, or the changes between two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobconv.cli.common import AsJson, say

if TYPE_CHECKING:
    from mobconv.results.diff import Changes


def command(
    results: Annotated[Path, typer.Argument(help="results.json of a sweep, or its folder")],
    after: Annotated[
        Path | None,
        typer.Argument(help="results to compare them with: which cells are better, worse, within noise or the same"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="the page to write (default: report.html beside RESULTS; of two results, none)"
        ),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="DIR", help="also write the plots as SVG and PNG, light and dark")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Write results as one HTML page that needs no network; or compare two results, cell by cell."""
    import json

    from mobconv.common.text import plural
    from mobconv.errors import UsageError
    from mobconv.report import changed
    from mobconv.report.write import report

    if as_json and after is None:
        raise UsageError("--json is for two results; those of one sweep are JSON as they are")
    outcome = report(results, after, out=output, plots=plots)
    if isinstance(outcome, Path):
        _describe(results, outcome, plots)
        return 0
    if as_json:
        print(json.dumps(changed.as_json(outcome), indent=1))
    else:
        _print(outcome)
    if output is not None:
        say(f"{output}: {plural(len(outcome.cells), 'cell')}")
    return 0


def _describe(results: Path, page: Path, plots: Path | None) -> None:
    """Say on stderr what was written."""
    from mobconv import results as rows
    from mobconv.common.text import plural

    path = rows.file_of(results)
    measured = rows.read(path)
    for note in measured.notes:
        say(f"{measured.model.get('path', path)}: {note}")
    say(f"{page}: {plural(len(measured.cells), 'cell')}, {page.stat().st_size / 1e3:,.0f} kB")
    if plots is not None:
        say(f"{plots}: {len(list(plots.iterdir()))} plots")


def _print(changes: Changes) -> None:
    from rich.markup import escape

    from mobconv.cli import render
    from mobconv.report import changed
    from mobconv.results.diff import OTHER_DATA

    out = render.console()
    out.print(changed.table(changes, narrow=out.width < render.WIDE))
    for line in changed.legend(changes):
        out.print(escape(line), style="bold yellow" if line.startswith(OTHER_DATA) else "dim")
    render.remarks(out, list(changed.remarks(changes)))
    out.print(f"\n{changed.sentence(changes)}")
