"""`mobconv check`: results against a budget, for people and for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobconv.cli.common import AsJson, results_file, say

if TYPE_CHECKING:
    from mobconv.gate.judge import Report


def command(
    results: Annotated[Path, typer.Argument(help="results.json of a sweep, or its folder")],
    budget: Annotated[Path, typer.Option("--budget", help="YAML file: cells, and what they have to keep to")],
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="what `mobconv baseline` wrote (default: as the budget says)")
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
    """Hold the results of a sweep against a budget; exit code 1 where it is not met.

    Each cell and rule gets a verdict, failures first. Drops are judged by their paired 95 % interval.
    """
    import json
    import os

    from mobconv import results as rows
    from mobconv.errors import GateError
    from mobconv.gate import baseline as baselines
    from mobconv.gate import budget as budgets
    from mobconv.gate import judge, rules
    from mobconv.report import verdicts

    limits = budgets.load(budget)
    path = results_file(results)
    found = rows.read(path)
    lock = baseline or limits.baseline
    held = rules.Evidence(
        path, found, rows.read_predictions(path, found), None if lock is None else baselines.read(lock)
    )
    report = judge.judge(limits, held, artifacts)
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


def _print(report: Report) -> None:
    from rich.markup import escape

    from mobconv.cli import render
    from mobconv.report import verdicts

    out = render.console()
    out.print(verdicts.table(report, out.width))
    for line in verdicts.legend(report):
        out.print(escape(line), style="dim")
    out.print(f"\n{verdicts.sentence(report)}")


def _write(path: Path, text: str, option: str) -> None:
    """Whole or not at all; after what other commands of the step wrote, where it is a job's summary."""
    import os

    from mobconv.common import files

    instead = f"name another file with {option}"
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and path == Path(summary):
        with files.output_errors(path, instead), path.open("a", encoding="utf-8") as stream:
            stream.write(text)
    else:
        files.write_whole(path, text, instead)
