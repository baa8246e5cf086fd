"""Write the page of one sweep's results, or compare two sweeps."""

from __future__ import annotations

from pathlib import Path

from mobconv import results as rows
from mobconv.common import files
from mobconv.errors import OutputError, UsageError, setting
from mobconv.report import changed, digest, drawing, gallery, overview
from mobconv.results import diff
from mobconv.results.diff import Changes


def report(
    results: Path | str,
    after: Path | str | None = None,
    *,
    out: Path | str | None = None,
    plots: Path | str | None = None,
) -> Path | Changes:
    """Write the results of a sweep as one HTML page and return its path; or compare two results, cell by cell.

    results, after: results.json or its folder; out: the page to write, None for report.html beside the results (of two
    results, for no page); plots: a folder that the plots are also written to, as SVG and PNG. Raises InputError for
    results that cannot be read or compared, OutputError where a page cannot be written, BackendError where the packages
    that draw are missing.
    """
    path = rows.file_of(Path(results))
    if after is None:
        return _page(path, Path(out) if out else path.with_name("report.html"), Path(plots) if plots else None)
    if plots is not None:
        raise UsageError(f"{setting('plots')} draws one sweep's results: leave out the second")
    return _compare(path, rows.file_of(Path(after)), Path(out) if out else None)


def _page(path: Path, target: Path, plots: Path | None) -> Path:
    drawing.require()
    measured = rows.read(path)
    numbers = digest.digest(measured, rows.read_scores(path, measured), path)
    _check_writable(target)
    if plots is not None:
        files.ensure_folder(plots, f"choose another folder ({setting('plots')})")
    files.write_whole(target, overview.html(numbers))
    if plots is not None:
        gallery.write(numbers, plots)
    return target


def _compare(before: Path, after: Path, target: Path | None) -> Changes:
    if target is not None:
        drawing.require("jinja2")
    sides = []
    for path in (before, after):
        measured = rows.read(path)
        sides.append(diff.Side(path, measured, rows.read_scores(path, measured)))
    changes = diff.compare(*sides)
    if target is not None:
        _check_writable(target)
        files.write_whole(target, changed.html(changes))
    return changes


def _check_writable(target: Path) -> None:
    """Raise OutputError where the page cannot be written, before the work."""
    if target.parent.exists() and not target.parent.is_dir():
        raise OutputError(f"{target}: cannot be written, {target.parent} is not a folder")
    files.ensure_folder(target.parent)
    if target.is_dir():
        raise OutputError(
            f"{target} is a folder; name the page in it, such as {setting('out', str(target / 'report.html'))}"
        )
