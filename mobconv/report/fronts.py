"""The plot against size, as a Vega-Lite specification: the Pareto front of a format, with its cells named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mobconv.evaluate.tasks import Metric
from mobconv.report.charts import tip
from mobconv.report.digest import Digest, Measured, modes
from mobconv.report.placing import place
from mobconv.report.style import LETTER, LIGHT, TEXT, WIDTH, Palette, Spec, chart, haloed, looks_of, mode_name, whole
from mobconv.schemes import Storage

_HEIGHT = 270
_APART = 16.0  # pixels between the labels of two ticks
_POINTS = (-1.0, -0.2, 0.2, 0.5, 1.0, 2.0, 10.0, 20.0, 50.0, 100.0)  # ticks of a percentage, the margin among them


@dataclass(frozen=True)
class LossAxis:
    """The axis of losses, straight near 0, where files that one may ship differ, and logarithmic beyond (symlog).

    knee         the loss at which it turns from one to the other
    top, bottom  its ends, as `at` gives them; the better end is on top
    """

    knee: float
    top: float
    bottom: float

    def at(self, loss: float) -> float:
        """Place of a loss on the axis."""
        return _symlog(loss, self.knee)

    def pixel(self, loss: float) -> float:
        """Place of a loss in pixels from the top."""
        return (self.at(loss) - self.top) / (self.bottom - self.top) * _HEIGHT


def loss_axis(digest: Digest, files: Sequence[Measured], front: Sequence[Measured]) -> LossAxis:
    """The axis for the files of one backend, with room above the best of them for its name."""
    knee = 0.003 * digest.metric.full if digest.metric.full else 0.03 * digest.shown_loss
    losses = [_symlog(each.loss, knee) for each in files]
    ends = [each.lost.low for each in front if each.lost.known and _named(digest, each)]
    best = min(losses)
    top = max(min(_symlog(min([0.0, *ends]), knee) - 0.3, best - 1.1), best - 2.2)
    return LossAxis(knee, top, max(_symlog(digest.margin, knee), *losses) + 0.35)


def sizes(digest: Digest, backend: str, palette: Palette = LIGHT, title: str = "") -> Spec:
    """Loss against size of one backend's files, with the Pareto front and its cells named."""
    import altair as alt

    files = [each for each in digest.measured if each.row.backend == backend]
    front = digest.fronts[backend]
    metric, axis = digest.metric, loss_axis(digest, files, front)
    least, most = min(each.bytes for each in files), max(each.bytes for each in files)
    left, right = math.log(least * 0.88), math.log(most * 1.14)

    def pixels(each: Measured) -> tuple[float, float]:
        return (math.log(each.bytes) - left) / (right - left) * WIDTH, axis.pixel(each.loss)

    known = modes(files)
    looks = looks_of([*known, ""] if any(not each.row.mode for each in files) else known, palette)
    rows = [
        {
            "bytes": each.bytes,
            "loss": axis.at(each.loss),
            "mode": mode_name(each.row.mode) if each.row.mode else "float",
            "native": each.row.storage == Storage.NATIVE,
            "tip": tip(each, metric),
        }
        for each in files
    ]
    x = alt.X(
        "bytes:Q",
        title="size of the file (log scale)",
        scale=alt.Scale(type="log", domain=[math.exp(left), math.exp(right)], nice=False),
        axis=alt.Axis(values=_decades(math.exp(left), math.exp(right)), grid=True, labelExpr=_BYTES),
    )
    ticks = loss_ticks(axis, digest.margin, metric)
    y = alt.Y(
        "loss:Q",
        title=f"{metric.losses} against float ({metric.text(digest.float_score)})",
        scale=alt.Scale(domain=[axis.bottom, axis.top], nice=False, zero=False),
        axis=alt.Axis(
            values=[axis.at(tick) for tick in ticks],
            tickCount=len(ticks),
            labelExpr=_labels([(axis.at(tick), _change(tick, metric)) for tick in ticks]),
            labelOverlap=False,
        ),
    )
    named = [each for each in front if _named(digest, each)]
    labels = place(
        [pixels(each) for each in named],
        [len(each.row.cell.partition("/")[2]) * LETTER + 8 for each in named],
        13,
        (WIDTH, _HEIGHT),
        [pixels(each) for each in files if each not in named],
    )
    texts = [
        {
            "bytes": each.bytes,
            "loss": axis.at(each.loss),
            "to_bytes": math.exp(left + label.x / WIDTH * (right - left)),
            "to_loss": axis.top + label.y / _HEIGHT * (axis.bottom - axis.top),
            "text": each.row.cell.partition("/")[2],
            "far": label.far,
        }
        for each, label in zip(named, labels, strict=True)
    ]
    stairs = [{"bytes": each.bytes, "loss": axis.at(each.loss), "n": n} for n, each in enumerate(front)]
    stairs.append({"bytes": math.exp(right), "loss": stairs[-1]["loss"], "n": len(stairs)})
    bars = [
        {
            "bytes": each.bytes,
            "mode": mode_name(each.row.mode) if each.row.mode else "float",
            "low": max(axis.at(each.lost.low), axis.top),
            "high": min(axis.at(each.lost.high), axis.bottom),
        }
        for each in named
        if each.lost.known
    ]
    margin = chart([{"loss": axis.at(digest.margin), "text": "margin"}]).encode(y=y)
    base = chart(rows).encode(x=x, y=y)
    names = chart(texts).encode(x="to_bytes:Q", y="to_loss:Q", text="text:N")
    layers: list[Any] = [
        margin.mark_rule(color=palette.limit, strokeWidth=1, strokeDash=[5, 3]),
        margin.mark_text(align="right", baseline="top", dy=3, color=palette.limit, fontSize=TEXT).encode(
            text="text:N", x=alt.value(WIDTH - 2)
        ),
        chart(stairs)
        .mark_line(aria=False, interpolate="step-after", color=palette.muted, strokeWidth=1.5)
        .encode(x="bytes:Q", y="loss:Q", order="n:Q"),
        chart(bars)
        .mark_rule(strokeWidth=1.5, opacity=0.55)
        .encode(x="bytes:Q", y="low:Q", y2="high:Q", color=looks["color"]),
        chart([text for text in texts if text["far"]])
        .mark_rule(color=palette.muted, strokeWidth=0.8)
        .encode(x="bytes:Q", y="loss:Q", x2="to_bytes:Q", y2="to_loss:Q"),
    ]
    for native in (False, True):
        layers.append(
            base.transform_filter(f"datum.native === {str(native).lower()}")
            .mark_point(filled=not native, size=50, opacity=1, strokeWidth=1.5)
            .encode(color=looks["color"], shape=looks["shape"], description="tip:N")
        )
    layers += [names.mark_text(**look) for look in haloed(palette)]
    return whole(alt.layer(*layers).properties(width=WIDTH, height=_HEIGHT), palette, title)


def _named(digest: Digest, each: Measured) -> bool:
    """Whether a cell of the front is named: not where the score is beyond use, as no one ships such a file."""
    least = digest.metric.full / 100 if digest.metric.full else 0.0
    return each.loss <= (4 * max(digest.margin, least) or digest.shown_loss)


def _symlog(loss: float, knee: float) -> float:
    return math.copysign(math.log1p(abs(loss) / knee), loss)


def loss_ticks(axis: LossAxis, margin: float, metric: Metric) -> list[float]:
    """Losses that the axis labels: 0, the margin, and round ones between."""
    if metric.full is not None:
        points = [tick * metric.full / 100 for tick in _POINTS]
        kept = [0.0, margin, *(tick for tick in points if tick < 0 or not 0.7 < tick / max(margin, 1e-9) < 1.5)]
        return sorted({tick for tick in kept if axis.top <= axis.at(tick) <= axis.bottom})
    furthest = axis.knee * math.expm1(max(abs(axis.top), abs(axis.bottom)))
    powers = range(math.floor(math.log10(axis.knee)), math.ceil(math.log10(furthest)) + 1)
    round_ones = [sign * digit * 10.0**power for digit in (1, 5, 2) for power in powers for sign in (1, -1)]
    ticks: list[float] = []
    for tick in (0.0, margin, *round_ones):
        apart = all(abs(axis.pixel(tick) - axis.pixel(other)) >= _APART for other in ticks)
        if apart and axis.top <= axis.at(tick) <= axis.bottom:
            ticks.append(tick)
    return sorted(ticks)


def _labels(ticks: Sequence[tuple[float, str]]) -> str:
    """A Vega expression that gives each place on the axis its text."""
    expression = "'0'"
    for position, text in reversed(ticks):
        expression = f"abs(datum.value - {position:.9f}) < 1e-6 ? '{text}' : ({expression})"
    return expression


def _change(loss: float, metric: Metric) -> str:
    """The change of score that a loss is, as the axis shows it."""
    return "float" if loss == 0 else f"{metric.change(loss):+g}".replace("-", "\N{MINUS SIGN}")


_BYTES = (
    "datum.value >= 1e6 ? format(datum.value / 1e6, '~r') + ' MB' : "
    "datum.value >= 1e3 ? format(datum.value / 1e3, '~r') + ' kB' : datum.value + ' B'"
)


def _decades(low: float, high: float) -> list[float]:
    """Ticks of 1, 2 and 5; of 1 alone over more than two decades."""
    steps = (1, 2, 5) if high / low < 100 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
