"""Two results, cell by cell: what is better, worse, within noise or the same, in size and latency too.

A cell is better or worse where its p, adjusted by Holm over all comparisons, is at most 5 %, and the 95 % interval of
the difference leaves out 0; the interval draws whole groups of images where the data names them, which p does not know.
It is the same where every image of the same data has the same prediction; without predictions, where it is the same
file with the same top-1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import InputError
from mobconv.results import OK, Results, Row, images_of, predictions_of
from mobconv.stats.estimates import Estimate, Pairs, unpaired
from mobconv.stats.paired import holm

LEVEL = 0.05
WORSE, BETTER, WITHIN_NOISE, SAME = "worse", "better", "within noise", "the same"
NOT_COMPARED, ONLY_BEFORE, ONLY_AFTER = "not compared", "only in A", "only in B"
ORDER = (WORSE, NOT_COMPARED, BETTER, ONLY_BEFORE, ONLY_AFTER, WITHIN_NOISE, SAME)  # as they are shown


@dataclass(frozen=True, eq=False)
class Side:
    """Results, where they were read, and the predictions beside them (None: there are none)."""

    path: Path
    results: Results
    predictions: Mapping[str, NDArray[np.int64]] | None


_NONE = Estimate(0.0, 0.0, 0.0, 1.0, paired=False)  # of one and the same


@dataclass(frozen=True)
class Change:
    """One cell. A side's row is None where it has no such cell.

    outcome  one of ORDER
    lost  points of top-1 that B is below A, None where not compared; p: adjusted by Holm
    note  why it was not compared
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
    """All cells, worse ones first; lost: of the float baselines; groups: drawn from where paired, None: images.

    tests: distinct comparisons, which Holm's correction is for.
    """

    before: Side
    after: Side
    cells: tuple[Change, ...]
    lost: Estimate
    paired: bool
    groups: int | None
    tests: int
    notes: tuple[str, ...]

    def of(self, outcome: str) -> list[Change]:
        """The cells with an outcome."""
        return [each for each in self.cells if each.outcome == outcome]


def compare(before: Side, after: Side) -> Changes:
    """A and B. Raises InputError where labels of the same images differ, or predictions are not of their results."""
    notes, pairs = _pairs(before, after)
    notes += [f"{name}: {note}" for name, side in (("A", before), ("B", after)) for note in side.results.notes]
    rows_before = {row.cell: row for row in before.results.cells}
    rows_after = {row.cell: row for row in after.results.cells}
    found = [
        _change(name, rows_before.get(name), rows_after.get(name), before, after, pairs)
        for name in dict.fromkeys([*rows_before, *rows_after])
    ]
    # formats hold the same weights: a scheme with equal figures in several of them is one comparison, not several
    tests = dict.fromkeys(_test(each) for each in found if each.lost is not None)
    adjusted = dict(zip(tests, holm([lost.p for _, lost in tests]), strict=True))
    found = [each if each.lost is None else _judged(each, adjusted[_test(each)]) for each in found]
    groups = None if pairs is None or pairs.groups is None else len(np.unique(pairs.groups))
    return Changes(
        before,
        after,
        tuple(sorted(found, key=lambda each: ORDER.index(each.outcome))),
        _floats(before, after, pairs),
        pairs is not None,
        groups,
        len(tests),
        tuple(notes),
    )


def _pairs(before: Side, after: Side) -> tuple[list[str], Pairs | None]:
    """What pairs images, None where nothing can; and what there is to say of it."""
    notes = []
    one, other = before.results, after.results
    if one.model.get("sha256") != other.model.get("sha256"):
        notes.append(
            f"two checkpoints: A is of {one.model.get('path', '?')}, B of {other.model.get('path', '?')}"
            + (", of the same name and other content" if one.model.get("path") == other.model.get("path") else "")
        )
    if not _same_images(one, other):
        told = " and ".join(
            f"{_counted(side.data.get('images'))} of {side.data.get('source', '?')} ({name})"
            for name, side in (("A", one), ("B", other))
        )
        notes.append(f"OTHER IMAGES: {told}. A difference may be the images', not the files'; intervals are unpaired")
        return notes, None
    if before.predictions is None or after.predictions is None:
        sides = [name for name, side in (("A", before), ("B", after)) if side.predictions is None]
        notes.append(
            f"no predictions.npz beside {' and '.join(sides)}: intervals are unpaired, wider than paired ones, "
            "and take images "
            "as independent"
        )
        return notes, None
    if not np.array_equal(before.predictions["labels"], after.predictions["labels"]):
        raise InputError(
            f"{before.path.with_name('predictions.npz')} and {after.path.with_name('predictions.npz')} have other "
            "labels for "
            "the same data: one of them was changed, or images were read in another order; run both sweeps again"
        )
    groups = before.predictions.get("groups", after.predictions.get("groups"))
    return notes, Pairs(before.predictions["labels"], groups)


def _counted(images: Any) -> str:
    return f"{images:,} image{'s' * (images != 1)}" if isinstance(images, int) else "? images"


def _same_network(one: Results, other: Results) -> bool:
    """Whether both are of one checkpoint, with the same figure."""
    sha256 = one.model.get("sha256")
    return sha256 is not None and sha256 == other.model.get("sha256") and one.float_top1 == other.float_top1


def _same_images(one: Results, other: Results) -> bool:
    return one.data.get("sha256") is not None and all(
        one.data.get(name) == other.data.get(name) for name in ("sha256", "images")
    )


def _change(name: str, one: Row | None, other: Row | None, before: Side, after: Side, pairs: Pairs | None) -> Change:
    if one is None or other is None:
        return Change(name, ONLY_AFTER if one is None else ONLY_BEFORE, one, other)
    if one.top1 is None or other.top1 is None or {one.status, other.status} != {OK}:
        said = f"A {one.status}, B {other.status}"
        why = next((row.reason for row in (other, one) if row.status != OK and row.reason), "")
        return Change(name, NOT_COMPARED, one, other, note=f"{said}: {why}" if why else said)
    if pairs is None:
        images = [images_of(row, side.results, side.path) for row, side in ((one, before), (other, after))]
        figures = [(row.sha256, row.file_bytes, row.top1) for row in (one, other)]
        same = one.sha256 is not None and figures[0] == figures[1] and _same_images(before.results, after.results)
        lost = _NONE if same else unpaired(one.top1, other.top1, *images)
        return Change(name, SAME if same else "", one, other, lost)
    held = [predictions_of(row, side.predictions, side.path) for row, side in ((one, before), (other, after))]
    assert held[0] is not None and held[1] is not None
    same = np.array_equal(held[0], held[1])
    return Change(name, SAME if same else "", one, other, pairs(held[0], held[1]))


def _test(each: Change) -> tuple[str, Estimate]:
    assert each.lost is not None
    return each.cell.partition("/")[2], each.lost


def _judged(each: Change, p: float) -> Change:
    assert each.lost is not None
    outcome = each.outcome or WITHIN_NOISE
    if p <= LEVEL and not each.lost.within_noise:
        outcome = WORSE if each.lost.points > 0 else BETTER
    return Change(each.cell, outcome, each.before, each.after, each.lost, p)


def _floats(before: Side, after: Side, pairs: Pairs | None) -> Estimate:
    if pairs is not None and before.predictions is not None and after.predictions is not None:
        return pairs(before.predictions["float"], after.predictions["float"])
    one, other = before.results, after.results
    if _same_images(one, other) and _same_network(one, other):
        return _NONE
    images = [images_of(None, side.results, side.path) for side in (before, after)]
    return unpaired(before.results.float_top1, after.results.float_top1, *images)
