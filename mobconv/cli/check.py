"""`mobconv check`: check results against a budget, for people and for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobconv.cli.common import AsJson, say

if TYPE_CHECKING:
    from mobconv.gate.judge import GateReport


def command(
    results: Annotated[Path, typer.Argument(help="results.json of a sweep, or its folder")],
    budget: Annotated[Path, typer.Option("--budget", help="YAML file: cells and their limits")],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="lock file of `mobconv baseline` (default: that of the budget)")
    ] = None,
    artifacts: Annotated[
        bool, typer.Option("--artifacts/--no-artifacts", help="hash each file that the results name")
    ] = True,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="FILE", help="also write JUnit XML")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="also write Markdown, as for a job summary")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Check the results of a sweep against a budget; exit code 1 where it is not met.

    Each cell and rule gets a verdict, failures first. Drops are judged by their paired 95 % interval.
    """
    import json
    import os

    from mobconv.errors import GateError
    from mobconv.gate.check import check
    from mobconv.report import verdicts

    report = check(results, budget, baseline=baseline, artifacts=artifacts)
    if junit is not None:
        _write(junit, verdicts.junit(report), "--junit")
    if markdown is not None:
        _write(markdown, verdicts.markdown(report), "--markdown")
    notes = list(verdicts.workflow_commands(report)) if os.environ.get("GITHUB_ACTIONS") else []
    if as_json:
        print(json.dumps(verdicts.as_json(report), indent=1))
        for line in notes:  # the runner reads both streams, and stdout is JSON alone
            say(line)
    else:
        _print(report)
        for line in notes:
            print(line)
    if not report.met:
        raise GateError(verdicts.failures(report))
    return 0


def _print(report: GateReport) -> None:
    from rich.markup import escape

    from mobconv.cli import render
    from mobconv.report import verdicts

    out = render.console()
    out.print(verdicts.table(report, out.width))
    for line in verdicts.legend(report):
        out.print(escape(line), style="dim")
    out.print(f"\n{verdicts.sentence(report)}")


def _write(path: Path, text: str, option: str) -> None:
    """Write a file whole or not at all; a job's summary is appended to, as other commands of the step write there."""
    import os

    from mobconv.common import files

    instead = f"name another file with {option}"
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and path == Path(summary):
        with files.output_errors(path, instead), path.open("a", encoding="utf-8") as stream:
            stream.write(text)
    else:
        files.write_whole(path, text, instead)
