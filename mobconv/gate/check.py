"""Check the results of a sweep against a budget."""

from __future__ import annotations

from pathlib import Path

from mobconv import results as rows
from mobconv.gate import baseline as baselines
from mobconv.gate import budget as budgets
from mobconv.gate.judge import GateReport, judge
from mobconv.gate.rules import Evidence


def check(
    results: Path | str, budget: Path | str, *, baseline: Path | str | None = None, artifacts: bool = True
) -> GateReport:
    """Check the results of a sweep against a budget; whether it is met is `met` of what is returned.

    results: results.json or its folder; budget: a YAML file; baseline: a lock file of `mobconv baseline`, None for the
    budget's own; artifacts: also hash each file that the results name. Raises InputError for files that are missing,
    broken or do not belong together, UsageError for a budget that is wrong.
    """
    path = rows.file_of(Path(results))
    limits = budgets.load(Path(budget))
    measured = rows.read(path)
    lock = Path(baseline) if baseline is not None else limits.baseline
    locked = None if lock is None else baselines.read(lock)
    return judge(limits, Evidence(path, measured, rows.read_scores(path, measured), locked), artifacts)
