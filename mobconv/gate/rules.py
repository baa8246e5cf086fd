"""What each rule of a budget asks of a cell.


**What is judged.** Sizes, `min_accuracy`, `min_agreement`, `max_conversion_loss` and `max_latency_ratio` are judged by
the figure itself: it was measured, and equal to the limit is within it. `max_drop` and `max_regression` ask what holds
for images beyond those at hand, so they are judged by the 95 % interval of the difference, paired image by image (see
mobconv.paired): the limit is passed where the *whole* interval lies above it, `low > limit`. A figure above its limit
whose interval reaches down to it is told as `within noise` and does not fail: were it judged by the figure alone, a
file whose true drop is the limit would fail every other time, and a gate that fails by chance gets switched off. So
such a file fails at most once in forty runs on fresh images, and one that is clearly worse always fails; how clearly,
more images decide. Where nothing can be paired, the figure alone is judged, which is the stricter of the two.

`min_accuracy` is the hard line beside it: never below this on these images, noise or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.gate.baseline import Baseline, Locked
from mobconv.gate.budget import Growth
from mobconv.results import Results, Row, predictions_of
from mobconv.stats.paired import Difference, difference

NOT_MET, WITHIN_NOISE, NOT_JUDGED, MET = "not met", "within noise", "not judged", "met"

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is at hand.

    path         of results.json; artifacts lie beside it
    predictions  as results.read_predictions gives them; None where there are none
    """

    path: Path
    results: Results
    predictions: Mapping[str, Ints] | None = None
    baseline: Baseline | None = None


@dataclass(frozen=True)
class Finding:
    """What a rule found: see gate.Verdict for the fields."""

    outcome: str
    value: float | None = None
    note: str = ""
    interval: Difference | None = None


def _plain(value: float | None, limit: float, least: bool = False) -> Finding:
    """A figure against its limit, which is still within. Nine digits: 0.90 - 0.85 is five points, not more."""
    if value is None:
        return Finding(NOT_MET, note="was not measured")
    value = round(value, 9)
    return Finding(MET if (value >= limit if least else value <= limit) else NOT_MET, value)


def _interval(found: Difference, limit: float) -> Finding:
    """See the top of this file."""
    value, low = round(found.points, 9), round(found.low, 9)
    if low > limit:
        return Finding(NOT_MET, value, "beyond noise", found)
    if value > limit:
        return Finding(WITHIN_NOISE, value, "more images would tell", found)
    return Finding(MET, value, "", found)


def _bytes(row: Row, limit: int, held: Evidence) -> Finding:
    return _plain(row.file_bytes, limit)


def _accuracy(row: Row, limit: float, held: Evidence) -> Finding:
    _predicted(row, held)  # that the figure is of these predictions
    return _plain(None if row.top1 is None else row.top1 * 100, limit, least=True)


def _drop(row: Row, limit: float, held: Evidence) -> Finding:
    if row.top1 is None:
        return Finding(NOT_MET, note="was not measured")
    after = _predicted(row, held)
    if after is None or held.predictions is None:
        found = _plain((held.results.float_top1 - row.top1) * 100, limit)
        return Finding(found.outcome, found.value, "by the figure alone: no predictions to pair")
    labels, groups = held.predictions["labels"], held.predictions.get("groups")
    return _interval(difference(held.predictions["float"], after, labels, groups), limit)


def _conversion(row: Row, limit: float, held: Evidence) -> Finding:
    return _plain(row.conversion_loss, limit)


def _agreement(row: Row, limit: float, held: Evidence) -> Finding:
    return _plain(None if row.agreement is None else row.agreement * 100, limit, least=True)


def _latency(row: Row, limit: float, held: Evidence) -> Finding:
    if row.latency_ratio is None and row.verified == "emulated":
        return Finding(NOT_JUDGED, note="emulated: no latency without the device")
    return _plain(row.latency_ratio, limit)


def _before(row: Row, held: Evidence) -> Locked | None:
    assert held.baseline is not None
    return held.baseline.cells.get(row.cell)


_NEW = "not in the baseline"


def _regression(row: Row, limit: float, held: Evidence) -> Finding:
    before = _before(row, held)
    assert held.baseline is not None
    if before is None:
        return Finding(NOT_JUDGED, note=_NEW)
    if not same_images(held):
        return Finding(NOT_JUDGED, note="the baseline is of other images")
    if row.top1 is None:
        return Finding(NOT_MET, note="was not measured")
    after = _predicted(row, held)
    if after is None or held.predictions is None or before.right is None:
        found = _plain((before.top1 - row.top1) * 100, limit)
        return Finding(found.outcome, found.value, "by the figure alone: no predictions to pair")
    right, yes = after == held.predictions["labels"], np.ones(len(after), np.int64)
    groups = held.predictions.get("groups")
    return _interval(difference(before.right.astype(np.int64), right.astype(np.int64), yes, groups), limit)


def _growth(row: Row, limit: Growth, held: Evidence) -> Finding:
    before = _before(row, held)
    if before is None:
        return Finding(NOT_JUDGED, note=_NEW)
    if row.file_bytes is None:
        return Finding(NOT_MET, note="was not measured")
    grown = row.file_bytes - before.bytes
    found = _plain(grown if limit.unit == "bytes" else 100 * grown / before.bytes, limit.value)
    return Finding(found.outcome, found.value, f"{row.file_bytes:,} bytes, and {before.bytes:,} in the baseline")


JUDGES: dict[str, Callable[[Row, Any, Evidence], Finding]] = {
    "max_bytes": _bytes,
    "min_accuracy": _accuracy,
    "max_drop": _drop,
    "max_conversion_loss": _conversion,
    "min_agreement": _agreement,
    "max_latency_ratio": _latency,
    "max_regression": _regression,
    "max_growth": _growth,
}
UNITS = {
    "must_exist": "",
    "max_bytes": "bytes",
    "min_accuracy": "%",
    "max_drop": "points",
    "max_conversion_loss": "points",
    "min_agreement": "%",
    "max_latency_ratio": "x",
    "max_regression": "points",
}


def _predicted(row: Row, held: Evidence) -> Ints | None:
    return predictions_of(row, held.predictions, held.path)


def same_images(held: Evidence) -> bool:
    """Whether results and baseline were measured on the same images."""
    assert held.baseline is not None
    return all(held.baseline.data.get(name) == held.results.data.get(name) for name in ("sha256", "images"))
