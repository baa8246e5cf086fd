"""Results held against a budget: one verdict for each cell and rule (mobconv.rules says what is judged)."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobconv.common.files import sha256, size
from mobconv.errors import InputError, UsageError, did_you_mean
from mobconv.gate.budget import AGAINST_BASELINE, Budget, Growth
from mobconv.gate.rules import JUDGES, MET, NOT_JUDGED, NOT_MET, UNITS, WITHIN_NOISE, Evidence, same_images
from mobconv.results import FAILED, OK, UNSUPPORTED, Row
from mobconv.stats.paired import Difference

_ORDER = (NOT_MET, WITHIN_NOISE, NOT_JUDGED, MET)  # as they are shown


@dataclass(frozen=True)
class Verdict:
    """One rule on one cell.

    cell      its name; "" where the results as a whole are judged
    outcome   `not met`, `within noise` (above the limit, but the interval reaches it: no failure), `not judged`, `met`
    value     what was found; limit: what it is held against; both in `unit`: bytes, points, %, x, or "" for text
    interval  of value, where it is paired
    entry     of the budget, from 1; None where the rule is not of an entry
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


@dataclass(frozen=True)
class Report:
    """Verdicts, failures first, what else there is to know, and how many images were measured."""

    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    images: int

    @property
    def met(self) -> bool:
        """Whether nothing failed."""
        return not self.of(NOT_MET)

    def of(self, outcome: str) -> list[Verdict]:
        """The verdicts with an outcome."""
        return [verdict for verdict in self.verdicts if verdict.outcome == outcome]


def judge(budget: Budget, held: Evidence, artifacts: bool = True) -> Report:
    """Hold results against a budget; artifacts: also hash each file that the results name.

    Raises UsageError for a glob that matches no cell and for a rule that needs a baseline where there is none,
    InputError when the checkpoint cannot be read or predictions are of other results.
    """
    needs = [(i, rule) for i, entry in enumerate(budget.entries) for rule in entry.rules if rule in AGAINST_BASELINE]
    if held.baseline is None and needs:
        raise UsageError(
            f"{budget.where(*needs[0])}: held against what? Say `baseline: FILE` in the budget or --baseline FILE; "
            "`mobconv baseline RESULTS` writes one"
        )
    verdicts: list[Verdict] = []
    judged: set[str] = set()
    for position, entry in enumerate(budget.entries):
        cells, absent = _matching(budget, position, held)
        judged |= {row.cell for row in cells}
        verdicts += [
            Verdict(name, "must_exist", NOT_MET, "not in the results", OK, note=note, entry=position + 1)
            for name, note in absent.items()
        ]
        verdicts += [
            _verdict(row, rule, limit, held, position + 1) for row in cells for rule, limit in entry.rules.items()
        ]
    verdicts += _identity(budget, held)
    if artifacts:
        verdicts += _artifacts(held)
    # sorted() keeps the budget's order among equals
    ordered = sorted(verdicts, key=lambda verdict: _ORDER.index(verdict.outcome))
    notes = tuple(_notes(held, judged, artifacts, ordered))
    return Report(tuple(ordered), notes, int(held.results.data.get("images", 0)))


def _matching(budget: Budget, position: int, held: Evidence) -> tuple[list[Row], dict[str, str]]:
    """The rows of an entry, in the results' order; and cells that it says must exist and do not, each with a note."""
    entry, rows = budget.entries[position], held.results.cells
    names = [row.cell for row in rows]
    absent: dict[str, str] = {}
    for glob in entry.globs:
        gone = [name for name in held.baseline.cells if name not in names] if held.baseline else []
        gone = [name for name in gone if fnmatch.fnmatchcase(name, glob)]
        if entry.must_exist:
            absent |= dict.fromkeys(gone, "the baseline has it")
        if any(fnmatch.fnmatchcase(name, glob) for name in names) or (entry.must_exist and gone):
            continue
        if entry.must_exist and not any(sign in glob for sign in "*?["):
            absent[glob] = did_you_mean(glob, names).strip(" ()")
            continue
        raise UsageError(
            f"{budget.where(position, 'cells')}: {glob!r} matches none of the {len(names)} cells of {held.path}"
            + _nearest(glob, names)
        )
    return [row for row in rows if any(fnmatch.fnmatchcase(row.cell, glob) for glob in entry.globs)], absent


def _nearest(glob: str, names: Sequence[str]) -> str:
    """The names most like a glob, whatever its wildcards stand for; else the first ones."""
    near = difflib.get_close_matches(glob, names, n=3, cutoff=0.5)
    if near:
        return f" (did you mean {' or '.join(repr(str(name)) for name in near)}?)"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f" (there are {', '.join(names[:3])}{more})" if names else ""


def _verdict(row: Row, rule: str, limit: Any, held: Evidence, entry: int) -> Verdict:
    told = row.reason or "no reason given"
    shown, unit = (limit.value, limit.unit) if isinstance(limit, Growth) else (limit, UNITS[rule])
    if rule == "must_exist":
        outcome, note = (MET, "") if row.status == OK else (NOT_MET, told)
        return Verdict(row.cell, rule, outcome, row.status, OK, note=note, entry=entry)
    if row.status == FAILED:
        return Verdict(row.cell, rule, NOT_MET, None, shown, unit, note=f"failed: {told}", entry=entry)
    if row.status != OK:
        return Verdict(row.cell, rule, NOT_JUDGED, None, shown, unit, note=f"{UNSUPPORTED}: {told}", entry=entry)
    found = JUDGES[rule](row, limit, held)
    return Verdict(row.cell, rule, found.outcome, found.value, shown, unit, found.interval, found.note, entry)


def _identity(budget: Budget, held: Evidence) -> Iterator[Verdict]:
    """Whether results, budget and baseline are of the same checkpoint and images."""
    model = str(held.results.model.get("sha256"))
    if budget.checkpoint is not None:
        wanted = _hash(budget.checkpoint)
        outcome = MET if model == wanted else NOT_MET
        note = "" if model == wanted else f"the results are not of {budget.checkpoint}; run the sweep again"
        yield Verdict("", "checkpoint", outcome, _short(model), _short(wanted), note=note)
    if held.baseline is not None:
        wanted = str(held.baseline.model.get("sha256"))
        if model != wanted:
            note = f"{held.baseline.path} is of another checkpoint; if the new one is meant, write the baseline again"
            yield Verdict("", "checkpoint", NOT_MET, _short(model), _short(wanted), note=note)
        if not same_images(held):
            ours, theirs = (str(each.data.get("sha256")) for each in (held.results, held.baseline))
            note = f"{held.baseline.path} is of other images; write the baseline again"
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


def _artifacts(held: Evidence) -> Iterator[Verdict]:
    """A verdict for each file that is not what its row says; one for all others together."""
    whole = 0
    for row in held.results.cells:
        if row.status != OK:
            continue
        found = _altered(row, held.path.parent)
        if found is None:
            whole += 1
        else:
            yield Verdict(row.cell, "artifact", NOT_MET, found[0], _short(str(row.sha256)), note=found[1])
    if whole:
        yield Verdict("", "artifacts", MET, f"{whole} as measured", "all")


def _altered(row: Row, folder: Path) -> tuple[str, str] | None:
    """What is there and what is wrong with it; None where it is the file that was measured."""
    if row.path is None or row.sha256 is None:
        return "no file named", "the results name no file or no hash; run the sweep again"
    path = folder / row.path
    try:
        if not path.exists():
            return "missing", f"{path}: no such file; --no-artifacts where files are kept elsewhere"
        found, count = sha256(path), size(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if found != row.sha256:
        return _short(found), f"{path} was changed after it was measured"
    if row.file_bytes is not None and count != row.file_bytes:
        return f"{count:,} bytes", f"{path}: the results say {row.file_bytes:,} bytes"
    return None


def _notes(held: Evidence, judged: set[str], artifacts: bool, verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield from held.results.notes
    if not artifacts:
        yield "files were not hashed (--no-artifacts): that they are those measured is not checked"
    if held.predictions is None and any(v.rule in ("max_drop", "max_regression") for v in verdicts):
        yield "no predictions.npz beside the results: drops are judged by the figure alone, noise or not"
    free = [row.cell for row in held.results.cells if row.cell not in judged]
    if free:
        yield f"under no rule: {_some(free)}"
    if held.baseline is not None:
        failed = {verdict.cell for verdict in verdicts if verdict.rule == "must_exist"}
        names = {row.cell for row in held.results.cells} | failed
        gone = [name for name in held.baseline.cells if name not in names]
        if gone:
            yield f"in the baseline, no longer in the results: {_some(gone)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
