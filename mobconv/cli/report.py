"""`mobconv report`: a page for people of one sweep's results, or what changed between two."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobconv.cli.common import AsJson, results_file, say

if TYPE_CHECKING:
    from mobconv.results.diff import Changes


def command(
    results: Annotated[Path, typer.Argument(help="results.json of a sweep, or its folder")],
    after: Annotated[
        Path | None,
        typer.Argument(help="results to compare them with: what is better, worse, within noise or the same there"),
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
    from mobconv.errors import UsageError

    if after is not None:
        if plots is not None:
            raise UsageError("--plots draws one sweep's results: leave out the second")
        return _compare(results_file(results), results_file(after), output, as_json)
    if as_json:
        raise UsageError("--json is for two results; those of one sweep are JSON as they are")
    _page(results_file(results), output, plots)
    return 0


def _page(path: Path, output: Path | None, plots: Path | None) -> None:
    from mobconv import results as rows
    from mobconv.common import files
    from mobconv.report import digest, drawing, gallery, overview
    from mobconv.results import tables

    drawing.require()
    found = rows.read(path)
    target = output or path.with_name("report.html")
    told = digest.digest(found, rows.read_predictions(path, found), path)
    _writable(target)
    if plots is not None:
        files.ensure_folder(plots, "choose another folder with --plots")
    text = overview.html(told)
    files.write_whole(target, text)
    for note in found.notes:
        say(f"{found.model.get('path', path)}: {note}")
    say(f"{target}: {tables.plural(len(found.cells), 'cell')}, {len(text.encode()) / 1e3:,.0f} kB")
    if plots is not None:
        say(f"{plots}: {gallery.write(told, plots)} plots")


def _writable(target: Path) -> None:
    """What is in the way of a page is told before the work. Raises OutputError."""
    from mobconv.common import files
    from mobconv.errors import OutputError

    if target.parent.exists() and not target.parent.is_dir():
        raise OutputError(f"{target}: cannot be written, {target.parent} is no folder")
    files.ensure_folder(target.parent)
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name the page in it, such as -o {target / 'report.html'}")


def _compare(before: Path, after: Path, output: Path | None, as_json: bool) -> int:
    import json

    from mobconv import results as rows
    from mobconv.common import files
    from mobconv.report import changed, drawing
    from mobconv.results import diff, tables

    if output is not None:
        drawing.require("jinja2")
    sides = []
    for path in (before, after):
        found = rows.read(path)
        sides.append(diff.Side(path, found, rows.read_predictions(path, found)))
    told = diff.compare(*sides)
    if output is not None:
        _writable(output)
    if output is not None:
        files.write_whole(output, changed.html(told))
    if as_json:
        print(json.dumps(changed.as_json(told), indent=1))
    else:
        _print(told)
    if output is not None:
        say(f"{output}: {tables.plural(len(told.cells), 'cell')}")
    return 0


def _print(told: Changes) -> None:
    from rich.markup import escape

    from mobconv.cli import render
    from mobconv.report import changed

    out = render.console()
    out.print(changed.table(told, narrow=out.width < render.WIDE))
    for line in changed.legend(told):
        out.print(escape(line), style="bold yellow" if line.startswith("OTHER IMAGES") else "dim")
    render.remarks(out, list(changed.remarks(told)))
    out.print(f"\n{changed.sentence(told)}")
