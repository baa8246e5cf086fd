"""What each rule of a budget asks of a cell.

**Figure or interval.** Sizes, `min_score`, `max_score`, `min_agreement`, `max_conversion_loss` and `max_latency_ratio`
are judged by the figure itself: it was measured, and equal to the limit is within it. `max_drop` and `max_regression`
are statements about samples beyond those at hand, so they are judged by the 95 % interval of the difference, paired
sample by sample (see mobconv.stats.paired): the limit is passed where the *whole* interval lies above it, that is
`low > limit`. A figure above its limit whose interval reaches down to it is `within noise` and does not fail: judged by
the figure alone, a file whose true drop is the limit would fail every other time, and a gate that fails by chance gets
switched off. So such a file fails at most once in forty runs on fresh samples, and one that is clearly worse always
fails; how clearly, more samples decide. Where nothing can be paired, the figure alone is judged, which is the stricter
of the two.

`min_score` (where higher is better) and `max_score` (where lower is) are the hard line beside it: never worse than this
on these samples, noise or not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobconv.evaluate.tasks import Metric, Scores
from mobconv.gate.baseline import Baseline, LockedCell
from mobconv.gate.limits import Growth
from mobconv.results import Results, Row, SampleScores
from mobconv.stats.paired import Difference

NOT_MET, WITHIN_NOISE, NOT_JUDGED, MET = "not met", "within noise", "not judged", "met"


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a budget is checked with.

    path      of results.json; artifacts lie beside it
    scores    of samples, as results.read_scores gives them; None without a scores.npz
    baseline  None where the budget is checked without one
    """

    path: Path
    results: Results
    scores: SampleScores | None = None
    baseline: Baseline | None = None


@dataclass(frozen=True)
class Judgement:
    """A rule's outcome on one cell; the fields are those of judge.Verdict."""

    outcome: str
    value: float | None = None
    note: str = ""
    interval: Difference | None = None


def _figure(value: float | None, limit: float, least: bool = False) -> Judgement:
    """A figure against its limit, which is still within. Twelve digits: 0.993 x 100 is 99.3, not a little less."""
    if value is None:
        return Judgement(NOT_MET, note="was not measured")
    value = float(f"{value:.12g}")
    return Judgement(MET if (value >= limit if least else value <= limit) else NOT_MET, value)


def _interval(lost: Difference, limit: float, evidence: Evidence) -> Judgement:
    """See the top of this file."""
    value, low = lost.loss, float(f"{lost.low:.12g}")
    if low > limit:
        return Judgement(NOT_MET, value, "beyond noise", lost)
    if value > limit:
        return Judgement(WITHIN_NOISE, value, f"more {evidence.results.sample}s would decide", lost)
    return Judgement(MET, value, "", lost)


def _loss(
    before: float, after: float, samples: tuple[Scores, Scores] | None, limit: float, evidence: Evidence
) -> Judgement:
    """The loss between two scores: by the interval where there are scores of samples for both, else by the figure."""
    metric = evidence.results.metric
    if samples is None or evidence.scores is None:
        judgement = _figure(metric.loss(before, after), limit)
        return Judgement(judgement.outcome, judgement.value, "by the figure alone: no scores of samples to pair")
    return _interval(metric.difference(*samples, evidence.scores.groups), limit, evidence)


def _bytes(row: Row, limit: int, evidence: Evidence) -> Judgement:
    return _figure(row.file_bytes, limit)


def _lowest_score(row: Row, limit: float, evidence: Evidence) -> Judgement:
    _scores(row, evidence)  # raises where the row's score is not theirs
    return _figure(row.score, limit, least=True)


def _highest_score(row: Row, limit: float, evidence: Evidence) -> Judgement:
    _scores(row, evidence)
    return _figure(row.score, limit)


def _drop(row: Row, limit: float, evidence: Evidence) -> Judgement:
    if row.score is None:
        return Judgement(NOT_MET, note="was not measured")
    after = _scores(row, evidence)
    samples = None if after is None or evidence.scores is None else (evidence.scores.float_baseline, after)
    return _loss(evidence.results.float_score, row.score, samples, limit, evidence)


def _conversion(row: Row, limit: float, evidence: Evidence) -> Judgement:
    return _figure(row.conversion_loss, limit)


def _agreement(row: Row, limit: float, evidence: Evidence) -> Judgement:
    return _figure(None if row.agreement is None else row.agreement * 100, limit, least=True)


def _latency(row: Row, limit: float, evidence: Evidence) -> Judgement:
    if row.latency_ratio is None and row.verified == "emulated":
        return Judgement(NOT_JUDGED, note="emulated: no latency without the device")
    return _figure(row.latency_ratio, limit)


def _locked(row: Row, evidence: Evidence) -> LockedCell | None:
    assert evidence.baseline is not None
    return evidence.baseline.cells.get(row.cell)


_NEW = "not in the baseline"


def _regression(row: Row, limit: float, evidence: Evidence) -> Judgement:
    locked = _locked(row, evidence)
    if locked is None:
        return Judgement(NOT_JUDGED, note=_NEW)
    if not same_samples(evidence):
        return Judgement(NOT_JUDGED, note="the baseline is of other images")
    if row.score is None:
        return Judgement(NOT_MET, note="was not measured")
    after = _scores(row, evidence)
    samples = None if after is None or locked.scores is None else (locked.scores, after)
    return _loss(locked.score, row.score, samples, limit, evidence)


def _growth(row: Row, limit: Growth, evidence: Evidence) -> Judgement:
    locked = _locked(row, evidence)
    if locked is None:
        return Judgement(NOT_JUDGED, note=_NEW)
    if row.file_bytes is None:
        return Judgement(NOT_MET, note="was not measured")
    grown = row.file_bytes - locked.bytes
    judgement = _figure(grown if limit.unit == "bytes" else 100 * grown / locked.bytes, limit.value)
    note = f"{row.file_bytes:,} bytes, and {locked.bytes:,} in the baseline"
    return Judgement(judgement.outcome, judgement.value, note)


JUDGES: dict[str, Callable[[Row, Any, Evidence], Judgement]] = {
    "max_bytes": _bytes,
    "min_score": _lowest_score,
    "max_score": _highest_score,
    "max_drop": _drop,
    "max_conversion_loss": _conversion,
    "min_agreement": _agreement,
    "max_latency_ratio": _latency,
    "max_regression": _regression,
    "max_growth": _growth,
}
SCORES = ("min_score", "max_score")
LOSSES = ("max_drop", "max_conversion_loss", "max_regression")
_UNITS = {"max_bytes": "bytes", "min_agreement": "%", "max_latency_ratio": "x"}


def unit(rule: str, metric: Metric) -> str:
    """The unit of a rule's figure; '' where it is text, or where the limit has its own."""
    if rule in SCORES:
        return metric.unit
    return metric.loss_unit if rule in LOSSES else _UNITS.get(rule, "")


def _scores(row: Row, evidence: Evidence) -> Scores | None:
    return None if evidence.scores is None else evidence.scores.of(row)


def same_samples(evidence: Evidence) -> bool:
    """Whether results and baseline were measured on the same samples."""
    assert evidence.baseline is not None
    return all(evidence.baseline.data.get(name) == evidence.results.data.get(name) for name in ("sha256", "samples"))
