"""What a report says of a sweep, as numbers: drops with their intervals, which file to ship, fronts, curves, cliffs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import InputError
from mobconv.recipe import Recipe
from mobconv.results import OK, Cliff, Results, Row, images_of, predictions_of
from mobconv.schemes import DEFAULT_GRANULARITY, Algorithm, Compute, Mode, Storage
from mobconv.stats.estimates import Estimate, Pairs, unpaired, wilson

# one image on one thread against float: within a tenth is what two runs of one file differ by on a busy machine
FLOAT_SPEED = 1.1


@dataclass(frozen=True)
class Measured:
    """A file that was measured.

    lost       points of top-1 below the float baseline, with the interval of the difference
    low, high  what the error bar spans, in % of top-1: float less the paired interval, else Wilson's of top-1
    """

    row: Row
    top1: float
    bytes: int
    lost: Estimate
    low: float
    high: float

    @property
    def fast(self) -> bool:
        """Whether it was timed and runs about as fast as float."""
        return self.row.latency_ratio is not None and self.row.latency_ratio <= FLOAT_SPEED


@dataclass(frozen=True)
class Choice:
    """The smallest file of a backend without measurable loss, that at float speed, and that within the margin.

    None where no file is; float32: bytes of the backend's fp32 file, None where it was not made.
    """

    backend: str
    float32: int | None
    lossless: Measured | None
    fast: Measured | None
    within: Measured | None
    timed: bool


@dataclass(frozen=True)
class Panel:
    """One plot against bits: a way of storing, for backends that agree wherever both have a cell.

    cliffs: mode to the widest width that fell more than the margin, of the points here.
    """

    way: str
    backends: tuple[str, ...]
    points: tuple[Measured, ...]
    cliffs: Mapping[str, int]


@dataclass(frozen=True)
class Digest:
    """All of it. by_cell has each file that was measured; margin in points."""

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
    def float_top1(self) -> float:
        """Of the float baseline, in %."""
        return self.results.float_top1 * 100

    def fallen(self, measured: Measured) -> bool:
        """Whether it is more than the margin below float, by the figure."""
        return points_below(self.results, measured) > self.margin


def digest(found: Results, predictions: Mapping[str, NDArray[np.int64]] | None, path: Path) -> Digest:
    """Everything that plots and page show. path: of results.json, for messages.

    Raises InputError when no file was measured, or predictions are of other results.
    """
    measured = _measured(found, predictions, path)
    if not measured:
        raise InputError(
            f"{path}: none of its {len(found.cells)} cells was measured (all unsupported or failed): there is "
            "nothing to plot; `mobconv sweep` tells the reasons"
        )
    margin = found.cliffs[0].margin if found.cliffs else float(Recipe.model_fields["margin"].default)
    backends = list(dict.fromkeys(each.row.backend for each in measured))
    of_backend = {name: [each for each in measured if each.row.backend == name] for name in backends}
    groups = predictions.get("groups") if predictions else None

    def fallen(each: Measured) -> bool:
        return points_below(found, each) > margin

    return Digest(
        results=found,
        margin=margin,
        measured=tuple(measured),
        by_cell={each.row.cell: each for each in measured},
        choices=tuple(_choice(name, of_backend[name], fallen) for name in backends),
        fronts={name: pareto(of_backend[name]) for name in backends},
        accuracy=_panels(measured, fallen, lambda each: each.top1),
        losses=_panels(measured, fallen, lambda each: (each.row.quantization_loss, each.row.conversion_loss)),
        paired=predictions is not None,
        groups=None if groups is None else len(np.unique(groups)),
    )


def points_below(found: Results, each: Measured) -> float:
    """Points of top-1 below float, without the last digits of binary fractions."""
    return round((found.float_top1 - each.top1) * 100, 9)


def _measured(found: Results, held: Mapping[str, NDArray[np.int64]] | None, path: Path) -> list[Measured]:
    pairs = None if held is None else Pairs(held["labels"], held.get("groups"))
    measured = []
    for row in found.cells:
        if row.status != OK or row.top1 is None or not row.file_bytes or row.file_bytes < 0:
            continue
        after = predictions_of(row, held, path)
        if pairs is not None and held is not None and after is not None:
            lost = pairs(held["float"], after)
            low, high = found.float_top1 * 100 - lost.high, found.float_top1 * 100 - lost.low
        else:
            images = images_of(row, found, path)
            lost = unpaired(found.float_top1, row.top1, images, images)
            low, high = (100 * end for end in wilson(row.top1, images))
        measured.append(Measured(row, row.top1, row.file_bytes, lost, low, high))
    return measured


def _choice(backend: str, files: Sequence[Measured], fallen: Callable[[Measured], bool]) -> Choice:
    lossless = [each for each in files if each.lost.low <= 0]
    return Choice(
        backend,
        next((each.bytes for each in files if each.row.scheme == "fp32"), None),
        _smallest(lossless),
        _smallest([each for each in lossless if each.fast]),
        _smallest([each for each in files if not fallen(each)]),
        timed=any(each.row.latency_ratio is not None for each in files),
    )


def _smallest(files: Sequence[Measured]) -> Measured | None:
    return min(files, key=lambda each: (each.bytes, -each.top1), default=None)


def pareto(files: Sequence[Measured]) -> tuple[Measured, ...]:
    """Those that no other file matches in top-1 at fewer bytes, smallest first."""
    front: list[Measured] = []
    for each in sorted(files, key=lambda each: (each.bytes, -each.top1)):
        if not front or each.top1 > front[-1].top1:
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
    if row.algorithm and row.algorithm != Algorithm.MSE:
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
    found = dict.fromkeys(str(each.row.mode) for each in points if each.row.mode)
    return [*(str(mode) for mode in Mode if mode in found), *(mode for mode in found if mode not in list(Mode))]


def cliff_words(found: Results) -> list[dict[str, Any]]:
    """Cliffs with the backends that share one: mode, way, bits (None: none), top1, backends."""
    together: dict[tuple[Hashable, ...], list[str]] = {}
    for cliff in found.cliffs:
        together.setdefault((cliff.mode, way(cliff), cliff.bits, cliff.top1), []).append(cliff.backend)
    return [
        {"mode": mode, "way": how, "bits": bits, "top1": top1, "backends": backends}
        for (mode, how, bits, top1), backends in together.items()
    ]
