"""Check results against a budget: one verdict for each cell and rule (mobconv.gate.rules says how each is judged)."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobconv.common.files import sha256, size
from mobconv.errors import InputError, UsageError, did_you_mean, setting
from mobconv.evaluate.tasks import Metric
from mobconv.gate.budget import AGAINST_BASELINE, Budget
from mobconv.gate.limits import Growth, score_limit
from mobconv.gate.rules import (
    JUDGES,
    LOSSES,
    MET,
    NOT_JUDGED,
    NOT_MET,
    SCORES,
    WITHIN_NOISE,
    Evidence,
    same_samples,
    unit,
)
from mobconv.results import FAILED, OK, UNSUPPORTED, Row
from mobconv.results.tables import some
from mobconv.stats.paired import Difference

_ORDER = (NOT_MET, WITHIN_NOISE, NOT_JUDGED, MET)  # as they are shown


@dataclass(frozen=True)
class Verdict:
    """One rule on one cell.

    cell      its name; "" where the results as a whole are judged
    outcome   `not met`, `within noise` (above the limit, but the interval reaches it: no failure), `not judged`, `met`
    value     the cell's figure; limit: what it is compared with; both in `unit`: bytes, x, %, a unit of the metric, or
              "" for text and bare numbers
    interval  of value, where it is paired
    entry     of the budget, from 1; None where the rule is not of an entry
    decimals  digits after the point that people are shown
    """

    cell: str
    rule: str
    outcome: str
    value: float | str | None = None
    limit: float | str | None = None
    unit: str = ""
    interval: Difference | None = None
    note: str = ""
    entry: int | None = None
    decimals: int = 2


@dataclass(frozen=True)
class GateReport:
    """Verdicts, failures first; notes on the results; the number of samples that were measured, and their name."""

    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    samples: int
    sample: str = "image"

    @property
    def met(self) -> bool:
        """Whether nothing failed."""
        return not self.of(NOT_MET)

    def of(self, outcome: str) -> list[Verdict]:
        """The verdicts with an outcome."""
        return [verdict for verdict in self.verdicts if verdict.outcome == outcome]


def judge(budget: Budget, evidence: Evidence, artifacts: bool = True) -> GateReport:
    """Check results against a budget; artifacts: also hash each file that the results name.

    Raises UsageError for a glob that matches no cell, a score limit that the metric does not have, and a rule that
    needs a baseline where there is none; InputError when the checkpoint cannot be read, scores are of other results,
    or the baseline is of another metric.
    """
    _check_baseline(budget, evidence)
    limits = [_limits(budget, position, evidence.results.metric) for position in range(len(budget.entries))]
    verdicts: list[Verdict] = []
    judged: set[str] = set()
    for position, rules in enumerate(limits):
        cells, absent = _matching(budget, position, evidence)
        judged |= {row.cell for row in cells}
        verdicts += [
            Verdict(name, "must_exist", NOT_MET, "not in the results", OK, note=note, entry=position + 1)
            for name, note in absent.items()
        ]
        verdicts += [
            replace(_verdict(row, rule, limit, evidence), entry=position + 1)
            for row in cells
            for rule, limit in rules.items()
        ]
    verdicts += _identity(budget, evidence)
    if artifacts:
        verdicts += _artifacts(evidence)
    # sorted() keeps the budget's order among equals
    ordered = sorted(verdicts, key=lambda verdict: _ORDER.index(verdict.outcome))
    notes = tuple(_notes(evidence, judged, artifacts, ordered))
    return GateReport(tuple(ordered), notes, int(evidence.results.data.get("samples", 0)), evidence.results.sample)


def _check_baseline(budget: Budget, evidence: Evidence) -> None:
    """Raise UsageError where a baseline is missing, InputError where it is of another metric than the results."""
    needs = [(i, rule) for i, entry in enumerate(budget.entries) for rule in entry.rules if rule in AGAINST_BASELINE]
    if evidence.baseline is None:
        if needs:
            raise UsageError(
                f"{budget.where(*needs[0])}: no baseline to compare with. Say `baseline: FILE` in the budget or "
                f"{setting('baseline', 'FILE')}; `mobconv baseline RESULTS` writes one"
            )
        return
    theirs, ours = evidence.baseline.metric, evidence.results.metric
    if replace(theirs, decimals=ours.decimals) != ours:
        raise InputError(
            f"{evidence.baseline.path} has scores in {theirs.heading}, and {evidence.path} in {ours.heading}: write "
            "the baseline again"
        )


def _limits(budget: Budget, position: int, metric: Metric) -> Mapping[str, Any]:
    """An entry's rules with their limits, those of scores in the metric's unit. Raises UsageError."""
    limits = budget.entries[position].rules
    wrong, right = SCORES[::-1] if metric.higher_is_better else SCORES
    if wrong in limits:
        direction = "higher" if metric.higher_is_better else "lower"
        raise UsageError(f"{budget.where(position, wrong)}: of {metric.name}, {direction} is better: use {right}")
    if right not in limits:
        return limits
    try:
        return {**limits, right: score_limit(limits[right], metric)}
    except ValueError as error:
        raise UsageError(f"{budget.where(position, right)}: {error}") from error


def _matching(budget: Budget, position: int, evidence: Evidence) -> tuple[list[Row], dict[str, str]]:
    """The rows of an entry, in the results' order; and cells that it says must exist and do not, each with a note."""
    entry, rows = budget.entries[position], evidence.results.cells
    names = [row.cell for row in rows]
    absent: dict[str, str] = {}
    for glob in entry.globs:
        gone = [name for name in evidence.baseline.cells if name not in names] if evidence.baseline else []
        gone = [name for name in gone if fnmatch.fnmatchcase(name, glob)]
        if entry.must_exist:
            absent |= dict.fromkeys(gone, "the baseline has it")
        if any(fnmatch.fnmatchcase(name, glob) for name in names) or (entry.must_exist and gone):
            continue
        if entry.must_exist and not any(sign in glob for sign in "*?["):
            absent[glob] = did_you_mean(glob, names).strip(" ()")
            continue
        raise UsageError(
            f"{budget.where(position, 'cells')}: {glob!r} matches none of the {len(names)} cells of {evidence.path}"
            + _nearest(glob, names)
        )
    return [row for row in rows if any(fnmatch.fnmatchcase(row.cell, glob) for glob in entry.globs)], absent


def _nearest(glob: str, names: Sequence[str]) -> str:
    """The names most like a glob, wildcards taken as letters; else the first ones."""
    near = difflib.get_close_matches(glob, names, n=3, cutoff=0.5)
    if near:
        return f" (did you mean {' or '.join(repr(str(name)) for name in near)}?)"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" (there are {', '.join(names[:3])}{more})" if names else ""


def _verdict(row: Row, rule: str, limit: Any, evidence: Evidence) -> Verdict:
    metric = evidence.results.metric
    reason = row.reason or "no reason given"
    if rule == "must_exist":
        outcome, note = (MET, "") if row.status == OK else (NOT_MET, reason)
        return Verdict(row.cell, rule, outcome, row.status, OK, note=note)
    shown, of = (limit.value, limit.unit) if isinstance(limit, Growth) else (limit, unit(rule, metric))
    decimals = metric.decimals if rule in (*SCORES, *LOSSES) else 2
    verdict = Verdict(row.cell, rule, NOT_MET, None, shown, of, note=f"failed: {reason}", decimals=decimals)
    if row.status == FAILED:
        return verdict
    if row.status != OK:
        return replace(verdict, outcome=NOT_JUDGED, note=f"{UNSUPPORTED}: {reason}")
    judgement = JUDGES[rule](row, limit, evidence)
    return replace(
        verdict,
        outcome=judgement.outcome,
        value=judgement.value,
        interval=judgement.interval,
        note=judgement.note,
    )


def _identity(budget: Budget, evidence: Evidence) -> Iterator[Verdict]:
    """Whether results, budget and baseline are of the same checkpoint and samples."""
    model = str(evidence.results.model.get("sha256"))
    if budget.checkpoint is not None:
        wanted = _hash(budget.checkpoint)
        outcome = MET if model == wanted else NOT_MET
        note = "" if model == wanted else f"the results are not of {budget.checkpoint}; run the sweep again"
        yield Verdict("", "checkpoint", outcome, _short(model), _short(wanted), note=note)
    if evidence.baseline is not None:
        wanted = str(evidence.baseline.model.get("sha256"))
        if model != wanted:
            note = (
                f"{evidence.baseline.path} is of another checkpoint; if the new one is meant, write the baseline again"
            )
            yield Verdict("", "checkpoint", NOT_MET, _short(model), _short(wanted), note=note)
        if not same_samples(evidence):
            ours, theirs = (str(side.data.get("sha256")) for side in (evidence.results, evidence.baseline))
            note = f"{evidence.baseline.path} is of other images; write the baseline again"
            yield Verdict("", "data", NOT_MET, _short(ours), _short(theirs), note=note)


def _short(digest: str) -> str:
    return f"sha256 {digest[:12]}"


def _hash(path: Path) -> str:
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such checkpoint (`checkpoint:` is relative to the budget's folder)")
        return sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _artifacts(evidence: Evidence) -> Iterator[Verdict]:
    """A verdict for each file that is not what its row says; one for all others together."""
    whole = 0
    for row in evidence.results.cells:
        if row.status != OK:
            continue
        change = _altered(row, evidence.path.parent)
        if change is None:
            whole += 1
        else:
            yield Verdict(row.cell, "artifact", NOT_MET, change[0], _short(str(row.sha256)), note=change[1])
    if whole:
        yield Verdict("", "artifacts", MET, f"{whole} as measured", "all")


def _altered(row: Row, folder: Path) -> tuple[str, str] | None:
    """The state of the file and an explanation; None where it is the file that was measured."""
    if row.path is None or row.sha256 is None:
        return "no file named", "the results name no file or no hash; run the sweep again"
    path = folder / row.path
    try:
        if not path.exists():
            return "missing", f"{path}: no such file; if the artifacts are elsewhere, check without them"
        digest, count = sha256(path), size(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if digest != row.sha256:
        return _short(digest), f"{path} was changed after it was measured"
    if row.file_bytes is not None and count != row.file_bytes:
        return f"{count:,} bytes", f"{path}: the results say {row.file_bytes:,} bytes"
    return None


def _notes(evidence: Evidence, judged: set[str], artifacts: bool, verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield from evidence.results.notes
    if not artifacts:
        yield "files were not hashed, as asked: it is not checked that they are the measured ones"
    if evidence.scores is None and any(v.rule in ("max_drop", "max_regression") for v in verdicts):
        yield "no scores.npz beside the results: drops are judged by the figure alone, noise or not"
    free = [row.cell for row in evidence.results.cells if row.cell not in judged]
    if free:
        yield f"under no rule: {some(free)}"
    if evidence.baseline is not None:
        failed = {verdict.cell for verdict in verdicts if verdict.rule == "must_exist"}
        names = {row.cell for row in evidence.results.cells} | failed
        gone = [name for name in evidence.baseline.cells if name not in names]
        if gone:
            yield f"in the baseline, no longer in the results: {some(gone)}"
