"""Two results, cell by cell: better, worse, within noise or the same; with size and latency.

A cell is better or worse where its p, adjusted by Holm over all comparisons, is at most 5 %, and the 95 % interval of
the difference leaves out 0; the interval draws whole groups of samples where the data names them, which McNemar's test
does not know. It is the same where every sample of the same data has the same score; without scores of samples, where
it is the same file with the same score.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mobconv.errors import InputError
from mobconv.evaluate.tasks import Metric
from mobconv.results.rows import OK, Results, Row
from mobconv.results.scores import NAME, SampleScores, samples_of, unpaired
from mobconv.stats.estimates import Estimate, PairedScores
from mobconv.stats.paired import holm

LEVEL = 0.05
WORSE, BETTER, WITHIN_NOISE, SAME = "worse", "better", "within noise", "the same"
NOT_COMPARED, ONLY_BEFORE, ONLY_AFTER = "not compared", "only in A", "only in B"
ORDER = (WORSE, NOT_COMPARED, BETTER, ONLY_BEFORE, ONLY_AFTER, WITHIN_NOISE, SAME)  # as they are shown
OTHER_DATA = "OTHER IMAGES"  # the note that begins with it is a warning


@dataclass(frozen=True, eq=False)
class Side:
    """Results, the path of their results.json, and their scores of samples (None: no scores.npz)."""

    path: Path
    results: Results
    scores: SampleScores | None


_NO_LOSS = Estimate(0.0, 0.0, 0.0, 1.0, paired=False)  # of a file and itself


@dataclass(frozen=True)
class Change:
    """One cell. A side's row is None where that side has no such cell.

    outcome  one of ORDER
    lost     how much worse B is than A, None where one of them has no score; p: adjusted by Holm, None where there
             is none
    note     why it was not compared
    """

    cell: str
    outcome: str
    before: Row | None
    after: Row | None
    lost: Estimate | None = None
    p: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Changes:
    """All cells, worse ones first.

    lost    of the float baselines
    paired  whether intervals are paired; groups: number of groups that these draw, None where they draw samples
    tests   distinct comparisons, which Holm's correction is for
    """

    before: Side
    after: Side
    cells: tuple[Change, ...]
    lost: Estimate
    paired: bool
    groups: int | None
    tests: int
    notes: tuple[str, ...]

    @property
    def metric(self) -> Metric:
        """The number that both sides are judged by."""
        return self.after.results.metric

    def of(self, outcome: str) -> list[Change]:
        """The cells with an outcome."""
        return [change for change in self.cells if change.outcome == outcome]


def compare(before: Side, after: Side) -> Changes:
    """Compare A and B.

    Raises InputError where they are judged by different metrics, scores are of other results, or the groups of the
    same samples differ.
    """
    _check_metrics(before, after)
    notes, pairs = _pairs(before, after)
    notes += [f"{name}: {note}" for name, side in _named(before, after) for note in side.results.notes]
    rows_before = {row.cell: row for row in before.results.cells}
    rows_after = {row.cell: row for row in after.results.cells}
    changes = [
        _change(name, rows_before.get(name), rows_after.get(name), before, after, pairs)
        for name in dict.fromkeys([*rows_before, *rows_after])
    ]
    # the same weights in several formats: a scheme with equal figures in them is one comparison, not several
    tests = dict.fromkeys(test for change in changes if (test := _test(change)) is not None)
    adjusted = dict(zip(tests, holm([lost.p for _, lost in tests]), strict=True))
    changes = [_judged(change, adjusted) for change in changes]
    floats = _floats(before, after, pairs)
    if not all(lost.known for lost in (floats, *(change.lost for change in changes)) if lost is not None):
        notes.append(f"{after.results.metric.name} has no interval without scores of the same samples on both sides")
    return Changes(
        before,
        after,
        tuple(sorted(changes, key=lambda change: ORDER.index(change.outcome))),
        floats,
        pairs is not None,
        None if pairs is None or pairs.groups is None else len(np.unique(pairs.groups)),
        len(tests),
        tuple(notes),
    )


def _named(before: Side, after: Side) -> tuple[tuple[str, Side], tuple[str, Side]]:
    return ("A", before), ("B", after)


def _check_metrics(before: Side, after: Side) -> None:
    """Raise InputError where the two sides are judged by different metrics."""
    one, other = before.results.metric, after.results.metric
    if replace(one, decimals=other.decimals) != other:
        raise InputError(
            f"{before.path} is judged by {one.heading} and {after.path} by {other.heading}: their scores cannot be "
            "compared"
        )


def _pairs(before: Side, after: Side) -> tuple[list[str], PairedScores | None]:
    """Notes on the two sides, and the paired comparison; None where samples cannot be paired."""
    notes = []
    one, other = before.results, after.results
    if one.model.get("sha256") != other.model.get("sha256"):
        notes.append(
            f"two checkpoints: A is of {one.model.get('path', '?')}, B of {other.model.get('path', '?')}"
            + (", of the same name and other content" if one.model.get("path") == other.model.get("path") else "")
        )
    if not _same_data(one, other):
        data = " and ".join(
            f"{_counted(side.results.data.get('samples'))} of {side.results.data.get('source', '?')} ({name})"
            for name, side in _named(before, after)
        )
        notes.append(f"{OTHER_DATA}: {data}. A difference may be the images', not the files'; intervals are unpaired")
        return notes, None
    if before.scores is None or after.scores is None:
        sides = [name for name, side in _named(before, after) if side.scores is None]
        effect = (
            ""
            if other.metric.full is None
            else (": intervals are unpaired, wider than paired ones, and take images as independent")
        )
        notes.append(f"no {NAME} beside {' and '.join(sides)}{effect}")
        return notes, None
    groups = [each.groups for each in (before.scores, after.scores) if each.groups is not None]
    if len(groups) == 2 and not np.array_equal(groups[0], groups[1]):
        raise InputError(
            f"{before.scores.path} and {after.scores.path} have other groups for the same data: one of them was "
            "changed, or images were read in another order; run both sweeps again"
        )
    return notes, PairedScores(groups[0] if groups else None, other.metric.higher_is_better, other.metric.resamples)


def _counted(samples: Any) -> str:
    return f"{samples:,} image{'s' * (samples != 1)}" if isinstance(samples, int) else "? images"


def _same_network(one: Results, other: Results) -> bool:
    """Whether both are of one checkpoint, with the same score."""
    sha256 = one.model.get("sha256")
    return sha256 is not None and sha256 == other.model.get("sha256") and one.float_score == other.float_score


def _same_data(one: Results, other: Results) -> bool:
    return one.data.get("sha256") is not None and all(
        one.data.get(name) == other.data.get(name) for name in ("sha256", "samples")
    )


def _change(
    name: str, one: Row | None, other: Row | None, before: Side, after: Side, pairs: PairedScores | None
) -> Change:
    if one is None or other is None:
        return Change(name, ONLY_AFTER if one is None else ONLY_BEFORE, one, other)
    if one.score is None or other.score is None or {one.status, other.status} != {OK}:
        statuses = f"A {one.status}, B {other.status}"
        why = next((row.reason for row in (other, one) if row.status != OK and row.reason), "")
        return Change(name, NOT_COMPARED, one, other, note=f"{statuses}: {why}" if why else statuses)
    if pairs is None or before.scores is None or after.scores is None:
        samples = [samples_of(row, side.results, side.path) for row, side in ((one, before), (other, after))]
        figures = [(row.sha256, row.file_bytes, row.score) for row in (one, other)]
        same = one.sha256 is not None and figures[0] == figures[1] and _same_data(before.results, after.results)
        lost = _NO_LOSS if same else unpaired(after.results.metric, one.score, other.score, *samples)
        return Change(name, SAME if same else "", one, other, lost)
    scores = before.scores.of(one), after.scores.of(other)
    return Change(name, SAME if np.array_equal(*scores) else "", one, other, pairs(*scores))


def _test(change: Change) -> tuple[str, Estimate] | None:
    """The comparison that a cell's p is of: its scheme and the difference. None where it has no p."""
    if change.lost is None or not change.lost.known:
        return None
    return change.cell.partition("/")[2], change.lost


def _judged(change: Change, adjusted: dict[tuple[str, Estimate], float]) -> Change:
    """The change with its outcome and p; adjusted: p by comparison."""
    test = _test(change)
    if test is None or change.lost is None:
        return change if change.outcome else replace(change, outcome=NOT_COMPARED)
    outcome, p = change.outcome or WITHIN_NOISE, adjusted[test]
    if p <= LEVEL and not change.lost.within_noise:
        outcome = WORSE if change.lost.loss > 0 else BETTER
    return replace(change, outcome=outcome, p=p)


def _floats(before: Side, after: Side, pairs: PairedScores | None) -> Estimate:
    """How much worse B's float baseline is than A's."""
    if pairs is not None and before.scores is not None and after.scores is not None:
        return pairs(before.scores.float_baseline, after.scores.float_baseline)
    one, other = before.results, after.results
    if _same_data(one, other) and _same_network(one, other):
        return _NO_LOSS
    samples = [samples_of(None, side.results, side.path) for side in (before, after)]
    return unpaired(other.metric, one.float_score, other.float_score, *samples)
