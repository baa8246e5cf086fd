"""The plot against size, as a Vega-Lite specification: the Pareto front of a format, with its cells named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mobconv.report.charts import tip
from mobconv.report.digest import Digest, Measured, modes
from mobconv.report.placing import place
from mobconv.report.style import LETTER, LIGHT, TEXT, WIDTH, Palette, Spec, chart, haloed, looks_of, mode_name, whole
from mobconv.schemes import Storage

_KNEE = 0.3  # points: below it the axis of drops is straight, above logarithmic


def sizes(told: Digest, backend: str, palette: Palette = LIGHT, title: str = "") -> Spec:
    """Drop below float against size of one backend's files, with the Pareto front and its cells named."""
    import altair as alt

    height = 270
    files = [each for each in told.measured if each.row.backend == backend]
    front = told.fronts[backend]
    least, most = min(each.bytes for each in files), max(each.bytes for each in files)
    left, right = math.log(least * 0.88), math.log(most * 1.14)
    drops = [(told.results.float_top1 - each.top1) * 100 for each in files]
    ends = [each.lost.low for each in front if _told(told, each)]
    top, bottom = (
        max(min(_bent(min([0.0, *ends])) - 0.3, _bent(min(drops)) - 1.1), _bent(min(drops)) - 2.2),
        _bent(max(told.margin, *drops)) + 0.35,
    )

    def pixels(each: Measured) -> tuple[float, float]:
        drop = _bent((told.results.float_top1 - each.top1) * 100)
        return (math.log(each.bytes) - left) / (right - left) * WIDTH, (drop - top) / (bottom - top) * height

    known = modes(files)
    looks = looks_of([*known, ""] if any(not each.row.mode for each in files) else known, palette)
    rows = [
        {
            "bytes": each.bytes,
            "drop": _bent((told.results.float_top1 - each.top1) * 100),
            "mode": mode_name(each.row.mode) if each.row.mode else "float",
            "native": each.row.storage == Storage.NATIVE,
            "tip": tip(each),
        }
        for each in files
    ]
    x = alt.X(
        "bytes:Q",
        title="size of the file (log scale)",
        scale=alt.Scale(type="log", domain=[math.exp(left), math.exp(right)], nice=False),
        axis=alt.Axis(values=_decades(math.exp(left), math.exp(right)), grid=True, labelExpr=_BYTES),
    )
    ticks = [value for value in (*_drop_ticks(told.margin),) if top <= _bent(value) <= bottom]
    y = alt.Y(
        "drop:Q",
        title=f"points of top-1 against float ({told.float_top1:.2f} %)",
        scale=alt.Scale(domain=[bottom, top], nice=False, zero=False),
        axis=alt.Axis(
            values=[_bent(value) for value in ticks],
            tickCount=len(ticks),
            labelExpr=_drop_labels(ticks),
            labelOverlap=False,
        ),
    )
    named = [each for each in front if _told(told, each)]
    labels = place(
        [pixels(each) for each in named],
        [len(each.row.cell.partition("/")[2]) * LETTER + 8 for each in named],
        13,
        (WIDTH, height),
        [pixels(each) for each in files if each not in named],
    )
    texts = [
        {
            "bytes": each.bytes,
            "drop": _bent((told.results.float_top1 - each.top1) * 100),
            "to_bytes": math.exp(left + label.x / WIDTH * (right - left)),
            "to_drop": top + label.y / height * (bottom - top),
            "text": each.row.cell.partition("/")[2],
            "far": label.far,
        }
        for each, label in zip(named, labels, strict=True)
    ]
    stairs = [
        {"bytes": each.bytes, "drop": _bent((told.results.float_top1 - each.top1) * 100), "n": n}
        for n, each in enumerate(front)
    ]
    if stairs:
        stairs.append({"bytes": math.exp(right), "drop": stairs[-1]["drop"], "n": len(stairs)})
    margin = chart([{"drop": _bent(told.margin), "text": "margin"}]).encode(y=y)
    base = chart(rows).encode(x=x, y=y)
    far = chart([each for each in texts if each["far"]])
    bars = [
        {
            "bytes": each.bytes,
            "mode": mode_name(each.row.mode) if each.row.mode else "float",
            "low": max(_bent(each.lost.low), top),
            "high": min(_bent(each.lost.high), bottom),
        }
        for each in named
    ]
    names = chart(texts).encode(x="to_bytes:Q", y="to_drop:Q", text="text:N")
    layers: list[Any] = [
        margin.mark_rule(color=palette.limit, strokeWidth=1, strokeDash=[5, 3]),
        margin.mark_text(align="right", baseline="top", dy=3, color=palette.limit, fontSize=TEXT).encode(
            text="text:N", x=alt.value(WIDTH - 2)
        ),
        chart(stairs)
        .mark_line(aria=False, interpolate="step-after", color=palette.muted, strokeWidth=1.5)
        .encode(x="bytes:Q", y="drop:Q", order="n:Q"),
        chart(bars)
        .mark_rule(strokeWidth=1.5, opacity=0.55)
        .encode(x="bytes:Q", y="low:Q", y2="high:Q", color=looks["color"]),
        far.mark_rule(color=palette.muted, strokeWidth=0.8).encode(
            x="bytes:Q", y="drop:Q", x2="to_bytes:Q", y2="to_drop:Q"
        ),
    ]
    for native in (False, True):
        layers.append(
            base.transform_filter(f"datum.native === {str(native).lower()}")
            .mark_point(filled=not native, size=50, opacity=1, strokeWidth=1.5)
            .encode(color=looks["color"], shape=looks["shape"], description="tip:N")
        )
    layers += [names.mark_text(**look) for look in haloed(palette)]
    return whole(alt.layer(*layers).properties(width=WIDTH, height=height), palette, title)


def _told(told: Digest, each: Measured) -> bool:
    """Whether a cell of the front is named: not where accuracy is gone altogether, which nobody ships."""
    return (told.results.float_top1 - each.top1) * 100 <= 4 * max(told.margin, 1.0)


def _bent(drop: float) -> float:
    """The axis of drops: straight near 0, where files that one may ship differ, logarithmic beyond (symlog)."""
    return math.copysign(math.log1p(abs(drop) / _KNEE), drop)


def _drop_ticks(margin: float) -> list[float]:
    return sorted({-1.0, -0.2, 0.0, 0.2, 0.5, 1.0, 2.0, margin, 10.0, 20.0, 50.0, 100.0} - _near(margin))


def _near(margin: float) -> set[float]:
    """Ticks too close to that of the margin to be read."""
    return {
        tick
        for tick in (0.2, 0.5, 1.0, 2.0, 10.0, 20.0, 50.0, 100.0)
        if tick != margin and 0.7 < tick / max(margin, 1e-9) < 1.5
    }


def _drop_labels(ticks: Sequence[float]) -> str:
    """A Vega expression that turns bent values back to what they stand for."""
    pairs = ", ".join(f"[{_bent(tick):.9f}, '{_signed(-tick)}']" for tick in ticks)
    found = "'0'"
    for pair in reversed(pairs.split("], ")):
        value, text = pair.strip("[]").split(", ")
        found = f"abs(datum.value - {value}) < 1e-6 ? {text} : ({found})"
    return found


def _signed(value: float) -> str:
    return "float" if value == 0 else f"{value:+g}".replace("-", "\N{MINUS SIGN}")


_BYTES = (
    "datum.value >= 1e6 ? format(datum.value / 1e6, '~r') + ' MB' : "
    "datum.value >= 1e3 ? format(datum.value / 1e3, '~r') + ' kB' : datum.value + ' B'"
)


def _decades(low: float, high: float) -> list[float]:
    """Ticks of 1, 2 and 5; of 1 alone over more than two decades."""
    steps = (1, 2, 5) if high / low < 100 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
