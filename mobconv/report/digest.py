"""The numbers of a report: losses with their intervals, files to ship, Pareto fronts, curves and cliffs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobconv.errors import InputError
from mobconv.evaluate.tasks import Metric
from mobconv.recipe import Recipe
from mobconv.results import OK, Cliff, Results, Row, SampleScores, samples_of, unpaired
from mobconv.schemes import DEFAULT_ALGORITHM, DEFAULT_GRANULARITY, Compute, Mode, Storage
from mobconv.stats.estimates import Estimate, PairedScores, wilson

# one image on one thread against float: two runs of one file differ by up to a tenth on a busy machine
FLOAT_SPEED = 1.1


@dataclass(frozen=True)
class Measured:
    """A file that was measured.

    score      in the metric's unit
    loss       how much worse than the float baseline, by the two scores
    lost       the same with the interval of the difference
    low, high  ends of the error bar, as scores: float's score less the paired interval, else Wilson's interval of the
               score itself; None where there is neither
    """

    row: Row
    score: float
    loss: float
    bytes: int
    lost: Estimate
    low: float | None
    high: float | None

    @property
    def fast(self) -> bool:
        """Whether it was timed and runs about as fast as float."""
        return self.row.latency_ratio is not None and self.row.latency_ratio <= FLOAT_SPEED

    def surely_within(self, margin: float) -> bool:
        """Whether its loss is at most a margin by all of the interval; by the figure where there is none."""
        return (self.lost.high if self.lost.known else self.loss) <= margin


@dataclass(frozen=True)
class Choice:
    """The smallest files of a backend: without measurable loss, the same at float speed, and within the margin.

    All three have an interval that ends within the margin: on few samples any file would have no measurable loss.
    None where no file has one.

    float32  bytes of the backend's fp32 file, None where it was not built
    timed    whether any file has a latency; sure: whether any has an interval
    wide     whether an interval of a file within the margin by its figure reaches beyond it
    """

    backend: str
    float32: int | None
    lossless: Measured | None
    fast: Measured | None
    within: Measured | None
    timed: bool
    sure: bool
    wide: bool


@dataclass(frozen=True)
class Panel:
    """One plot against bits: a way of storing, for backends that agree wherever both have a cell.

    cliffs: mode to the widest width whose loss is more than the margin, of the points here.
    """

    way: str
    backends: tuple[str, ...]
    points: tuple[Measured, ...]
    cliffs: Mapping[str, int]


@dataclass(frozen=True)
class Digest:
    """All numbers of a report.

    margin   of a cliff, in the metric's unit of loss
    by_cell  each file that was measured
    paired   whether intervals are paired; groups: number of groups that they draw, None where they draw samples
    """

    results: Results
    margin: float
    measured: tuple[Measured, ...]
    by_cell: Mapping[str, Measured]
    choices: tuple[Choice, ...]
    fronts: Mapping[str, tuple[Measured, ...]]
    accuracy: tuple[Panel, ...]
    losses: tuple[Panel, ...]
    paired: bool
    groups: int | None

    @property
    def metric(self) -> Metric:
        """The number that scores are."""
        return self.results.metric

    @property
    def float_score(self) -> float:
        """Of the float baseline, in the metric's unit."""
        return self.results.float_score

    @property
    def small_loss(self) -> float:
        """The least loss that a page stresses: 0.5 points of a percentage, else a tenth of the margin."""
        return 0.005 * self.metric.full if self.metric.full else 0.1 * self.margin

    @property
    def shown_loss(self) -> float:
        """The loss at which bars are cut, above 0."""
        return 2 * max(self.margin, self.small_loss) or max(0.0, *(each.loss for each in self.measured)) or 1.0

    def fallen(self, measured: Measured) -> bool:
        """Whether its score is worse than float's by more than the margin."""
        return measured.loss > self.margin


def digest(results: Results, scores: SampleScores | None, path: Path) -> Digest:
    """The numbers that plots and page show. path: of results.json, for messages.

    Raises InputError when no file was measured, or scores of samples are of other results.
    """
    measured = _measured(results, scores, path)
    if not measured:
        raise InputError(
            f"{path}: none of its {len(results.cells)} cells was measured (all unsupported or failed): there is "
            "nothing to plot; `mobconv sweep` prints the reasons"
        )
    margin = results.cliffs[0].margin if results.cliffs else float(Recipe.model_fields["margin"].default)
    backends = list(dict.fromkeys(each.row.backend for each in measured))
    of_backend = {name: [each for each in measured if each.row.backend == name] for name in backends}
    metric, groups = results.metric, scores.groups if scores else None

    def fallen(each: Measured) -> bool:
        return each.loss > margin

    def shown(score: float | None) -> Hashable:
        # formats compute a count of samples alike; other scores differ in their last digits
        return score if metric.full is not None or score is None else metric.number(score)

    def shown_losses(each: Measured) -> Hashable:
        return shown(each.row.quantization_loss), shown(each.row.conversion_loss)

    return Digest(
        results=results,
        margin=margin,
        measured=tuple(measured),
        by_cell={each.row.cell: each for each in measured},
        choices=tuple(_choice(name, of_backend[name], margin) for name in backends),
        fronts={name: pareto(of_backend[name]) for name in backends},
        accuracy=_panels(measured, fallen, lambda each: shown(each.score)),
        losses=_panels(measured, fallen, shown_losses),
        paired=scores is not None,
        groups=None if groups is None else len(np.unique(groups)),
    )


def _measured(results: Results, scores: SampleScores | None, path: Path) -> list[Measured]:
    metric, float_score = results.metric, results.float_score
    pairs = None if scores is None else PairedScores(scores.groups, metric.higher_is_better, metric.resamples)
    measured = []
    for row in results.cells:
        if row.status != OK or row.score is None or not row.file_bytes or row.file_bytes < 0:
            continue
        ends: Sequence[float | None] = (None, None)
        if pairs is not None and scores is not None:
            lost = pairs(scores.float_baseline, scores.of(row))
            ends = sorted(float_score + metric.change(end) for end in (lost.low, lost.high))
        else:
            samples = samples_of(row, results, path)
            lost = unpaired(metric, float_score, row.score, samples, samples)
            if metric.full is not None:
                ends = [metric.full * end for end in wilson(row.score / metric.full, samples)]
        measured.append(Measured(row, row.score, metric.loss(float_score, row.score), row.file_bytes, lost, *ends))
    return measured


def _choice(backend: str, files: Sequence[Measured], margin: float) -> Choice:
    within = [each for each in files if each.surely_within(margin)]
    lossless = [each for each in within if each.lost.low <= 0]
    return Choice(
        backend,
        next((each.bytes for each in files if each.row.scheme == "fp32"), None),
        _smallest(lossless),
        _smallest([each for each in lossless if each.fast]),
        _smallest(within),
        timed=any(each.row.latency_ratio is not None for each in files),
        sure=any(each.lost.known for each in files),
        wide=any(each.loss <= margin and not each.surely_within(margin) for each in files),
    )


def _smallest(files: Sequence[Measured]) -> Measured | None:
    return min(files, key=lambda each: (each.bytes, each.loss), default=None)


def pareto(files: Sequence[Measured]) -> tuple[Measured, ...]:
    """Files with a better score than any file of as few bytes, smallest first."""
    front: list[Measured] = []
    for each in sorted(files, key=lambda each: (each.bytes, each.loss)):
        if not front or each.loss < front[-1].loss:
            front.append(each)
    return tuple(front)


def way(row: Row | Cliff) -> str:
    """How a quantized cell is stored, in words; "" for all defaults."""
    parts = []
    if (
        row.granularity
        and row.mode
        and row.granularity != DEFAULT_GRANULARITY.get(Mode(row.mode) if row.mode in list(Mode) else Mode.LINEAR)
    ):
        parts.append(f"per {row.granularity}")
    if row.algorithm and row.algorithm != DEFAULT_ALGORITHM:
        parts.append(row.algorithm)
    if row.storage != Storage.PACKED:
        parts.append(f"@{row.storage}")
    if row.compute != Compute.FP32:
        parts.append(f"computed in {row.compute}")
    return ", ".join(parts)


def _panels(
    measured: Sequence[Measured], fallen: Callable[[Measured], bool], shown: Callable[[Measured], Hashable]
) -> tuple[Panel, ...]:
    """Panels by way of storing; backends whose `shown` is equal wherever both have a cell stand in one."""
    curves: dict[str, dict[str, dict[tuple[str, int], Measured]]] = {}
    for each in measured:
        if each.row.mode:
            key = each.row.mode, each.row.bits
            curves.setdefault(way(each.row), {}).setdefault(each.row.backend, {})[key] = each
    panels = []
    for name in sorted(curves, key=bool):  # the defaults first
        together: list[tuple[list[str], dict[tuple[str, int], Measured]]] = []
        for backend, curve in curves[name].items():
            for backends, known in together:
                both = known.keys() & curve.keys()
                if both and all(shown(known[key]) == shown(curve[key]) for key in both):
                    backends.append(backend)
                    known.update({key: each for key, each in curve.items() if key not in known})
                    break
            else:
                together.append(([backend], dict(curve)))
        panels += [_panel(name, backends, list(known.values()), fallen) for backends, known in together]
    return tuple(panels)


def _panel(name: str, backends: Sequence[str], points: Sequence[Measured], fallen: Callable[[Measured], bool]) -> Panel:
    cliffs: dict[str, int] = {}
    for each in points:
        if fallen(each):
            cliffs[str(each.row.mode)] = max(each.row.bits, cliffs.get(str(each.row.mode), 0))
    known = modes(points)
    ordered = sorted(points, key=lambda each: (known.index(str(each.row.mode)), -each.row.bits))
    return Panel(name, tuple(backends), tuple(ordered), {mode: cliffs[mode] for mode in known if mode in cliffs})


def modes(points: Sequence[Measured]) -> list[str]:
    """The modes that occur: ours in their order, then those of other tools."""
    names = dict.fromkeys(str(each.row.mode) for each in points if each.row.mode)
    return [*(str(mode) for mode in Mode if mode in names), *(mode for mode in names if mode not in list(Mode))]


@dataclass(frozen=True)
class SharedCliff:
    """A cliff of several backends. way: as `way` has it; bits, score: None where there is none."""

    mode: str
    way: str
    bits: int | None
    score: float | None
    backends: tuple[str, ...]


def shared_cliffs(results: Results) -> list[SharedCliff]:
    """Cliffs, those that backends share in one."""
    backends: dict[tuple[str, str, int | None, float | None], list[str]] = {}
    for cliff in results.cliffs:
        backends.setdefault((cliff.mode, way(cliff), cliff.bits, cliff.score), []).append(cliff.backend)
    return [SharedCliff(*key, tuple(names)) for key, names in backends.items()]
