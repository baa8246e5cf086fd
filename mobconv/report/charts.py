"""The plots as Vega-Lite specifications, written with Altair: accuracy against bits and size, and what losses consist of.

Colours are those of Okabe and Ito (2008), told apart with any colour vision; each mode has a shape and a dash besides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mobconv.report.digest import Digest, Measured, Panel, modes
from mobconv.report.placing import place
from mobconv.report.tables import size
from mobconv.schemes import Storage

if TYPE_CHECKING:
    import altair as alt

Spec = dict[str, Any]

WIDTH = 330  # of a plot's inside, pixels: with its axis it fits a phone
_TEXT = 11
_LETTER = 6.1  # pixels of one at that size, on average
_SHAPES = ("circle", "square", "triangle-up", "diamond")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
_MODE_NAMES = {"kmeans": "k-means"}
_KNEE = 0.3  # points: below it the axis of drops is straight, above logarithmic


@dataclass(frozen=True)
class Palette:
    """Colours of a plot, each its own: a page maps them to those of its theme."""

    ink: str
    muted: str
    grid: str
    paper: str
    modes: tuple[str, str, str, str]
    quantization: str
    conversion: str
    limit: str


LIGHT = Palette(
    ink="#1b1f24",
    muted="#57606a",
    grid="#e1e4e8",
    paper="#ffffff",
    modes=("#0072b2", "#d55e00", "#007a5a", "#a0518a"),
    quantization="#56b4e9",
    conversion="#b34700",
    limit="#8a6100",
)
DARK = Palette(
    ink="#e6edf3",
    muted="#9aa4af",
    grid="#2b323b",
    paper="#0f1318",
    modes=("#5cb8f0", "#ff8b3d", "#2fc79a", "#e08cc8"),
    quantization="#3d8fc4",
    conversion="#ff9a52",
    limit="#e6b422",
)


def mode_name(mode: str) -> str:
    """As people write it."""
    return _MODE_NAMES.get(mode, mode)


def accuracy(told: Digest, panel: Panel, palette: Palette = LIGHT, title: str = "") -> Spec:
    """Top-1 against bits, a line for each mode, with error bars, the margin, and the cliffs marked."""
    import altair as alt

    known = modes(panel.points)
    shift = {mode: 0.13 * (place - (len(known) - 1) / 2) for place, mode in enumerate(known)}
    rows = [
        {
            "x": each.row.bits - shift[str(each.row.mode)],
            "top1": each.top1 * 100,
            "low": each.low,
            "high": each.high,
            "mode": mode_name(str(each.row.mode)),
            "tip": tip(each, panel.backends),
        }
        for each in panel.points
    ]
    fallen = [row for row, each in zip(rows, panel.points, strict=True) if told.fallen(each)]
    widths = sorted({*range(1, 9), *(each.row.bits for each in panel.points)})
    x = alt.X(
        "x:Q",
        title="bits per weight",
        scale=alt.Scale(domain=[widths[-1] + 0.5, widths[0] - 0.5], nice=False, zero=False),
        axis=alt.Axis(values=widths, tickCount=len(widths), grid=False, format="d"),
    )
    y_scale = alt.Scale(domain=[0, 100], nice=False)
    y = alt.Y("top1:Q", title="top-1 %", scale=y_scale, axis=alt.Axis(values=list(range(0, 101, 20))))
    looks = _looks(known, palette)
    base = alt.Chart(alt.Data(values=rows)).encode(x=x)
    layers: list[Any] = [
        *_limits(told, palette),
        *_cliff_marks(panel, palette, widths),
        base.mark_line(strokeWidth=2).encode(y=y, color=looks["color"], strokeDash=looks["dash"]),
        base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title="top-1 %"), y2="high:Q", color=looks["color"]),
        base.mark_point(filled=True, size=55, opacity=1).encode(
            y=y, color=looks["color"], shape=looks["shape"], description="tip:N"
        ),
    ]
    if fallen:
        ringed = alt.Chart(alt.Data(values=fallen)).encode(x=x, y=y)
        layers.append(ringed.mark_point(size=170, filled=False, stroke=palette.ink, strokeWidth=1))
    return _whole(alt.layer(*layers).properties(width=WIDTH, height=230), palette, title)


def _limits(told: Digest, palette: Palette) -> list[alt.Chart]:
    """Float and margin as lines across, named where the curves end low."""
    import altair as alt

    lines = []
    for value, text, colour, dash, above in (
        (told.float_top1, f"float {told.float_top1:.2f}", palette.ink, [1, 0], True),
        (told.float_top1 - told.margin, f"margin −{told.margin:g}", palette.limit, [5, 3], False),
    ):
        base = alt.Chart(alt.Data(values=[{"value": value, "text": text}])).encode(y=alt.Y("value:Q", title="top-1 %"))
        lines.append(base.mark_rule(color=colour, strokeWidth=1, strokeDash=dash))
        lines.append(
            base.mark_text(
                align="right",
                baseline="bottom" if above else "top",
                dy=-2 if above else 3,
                color=colour,
                fontSize=_TEXT,
            ).encode(text="text:N", x=alt.value(WIDTH - 2))
        )
    return lines


def _cliff_marks(panel: Panel, palette: Palette, widths: Sequence[int]) -> list[alt.Chart]:
    """A line in front of the first width that fell, with the modes that fell there."""
    import altair as alt

    marks = []
    by_width: dict[int, list[str]] = {}
    for mode, bits in panel.cliffs.items():
        by_width.setdefault(bits, []).append(mode_name(mode))
    for place, (bits, names) in enumerate(sorted(by_width.items(), reverse=True)):
        every = len(names) > 2 and len(names) == len(modes(panel.points))
        text = f"cliff at {bits}: {'all modes' if every else ', '.join(names)}"
        edge = bits + 0.5
        right = edge < (widths[-1] + widths[0]) / 2  # to the side where there is more room
        base = alt.Chart(alt.Data(values=[{"x": edge, "y": 34 - 12 * place, "text": text}])).encode(x="x:Q")
        marks.append(base.mark_rule(color=palette.muted, strokeDash=[2, 3], strokeWidth=1.2))
        at = {"align": "right" if right else "left", "dx": -5 if right else 5}
        names_here = base.encode(y="y:Q", text="text:N")
        marks += [names_here.mark_text(**at, **look) for look in _haloed(palette)]
    return marks


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
    looks = _looks([*known, ""] if any(not each.row.mode for each in files) else known, palette)
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
        [len(each.row.cell.partition("/")[2]) * _LETTER + 4 for each in named],
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
    margin = alt.Chart(alt.Data(values=[{"drop": _bent(told.margin), "text": "margin"}])).encode(y=y)
    base = alt.Chart(alt.Data(values=rows)).encode(x=x, y=y)
    far = alt.Chart(alt.Data(values=[each for each in texts if each["far"]]))
    bars = [
        {
            "bytes": each.bytes,
            "mode": mode_name(each.row.mode) if each.row.mode else "float",
            "low": max(_bent(each.lost.low), top),
            "high": min(_bent(each.lost.high), bottom),
        }
        for each in named
    ]
    names = alt.Chart(alt.Data(values=texts)).encode(x="to_bytes:Q", y="to_drop:Q", text="text:N")
    layers: list[Any] = [
        margin.mark_rule(color=palette.limit, strokeWidth=1, strokeDash=[5, 3]),
        margin.mark_text(align="right", baseline="top", dy=3, color=palette.limit, fontSize=_TEXT).encode(
            text="text:N", x=alt.value(WIDTH - 2)
        ),
        alt.Chart(alt.Data(values=stairs))
        .mark_line(interpolate="step-after", color=palette.muted, strokeWidth=1.5)
        .encode(x="bytes:Q", y="drop:Q", order="n:Q"),
        alt.Chart(alt.Data(values=bars))
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
    layers += [names.mark_text(**look) for look in _haloed(palette)]
    return _whole(alt.layer(*layers).properties(width=WIDTH, height=height), palette, title)


def _told(told: Digest, each: Measured) -> bool:
    """Whether a cell of the front is named: not where accuracy is gone altogether, which nobody ships."""
    return (told.results.float_top1 - each.top1) * 100 <= 4 * max(told.margin, 1.0)


def losses(told: Digest, panel: Panel, palette: Palette = LIGHT, title: str = "") -> Spec:
    """Points lost to quantization and to conversion, stacked; a row for each mode. What is beyond is cut and told."""
    import altair as alt

    known = modes(panel.points)
    whole = [
        (each, each.row.quantization_loss, each.row.conversion_loss)
        for each in panel.points
        if each.row.quantization_loss is not None and each.row.conversion_loss is not None
    ]
    most = 2 * max(told.margin, 0.5)
    least = min([0.0, *(min(q, 0) + min(c, 0) for _, q, c in whole)])
    least = 0.0 if least == 0 else max(least * 1.2, -most)
    rows, beyond = [], []
    for each, quantization, conversion in whole:
        mode = mode_name(str(each.row.mode))
        ends = _stacked(quantization, conversion)
        for name, (start, end) in zip(("quantization", "conversion"), ends, strict=True):
            start, end = (min(max(value, least), most) for value in (start, end))
            if start != end:
                rows.append({
                    "bits": each.row.bits, "from": start, "to": end, "loss": name, "mode": mode,
                    "tip": tip(each, panel.backends),
                })  # fmt: skip
        beyond.append({
            "bits": each.row.bits, "mode": mode, "at": min(max(quantization, 0) + max(conversion, 0), most),
            "text": _points(quantization + conversion) + ("↑" if max(quantization, 0) + max(conversion, 0) > most else ""),
        })  # fmt: skip
    widths = sorted({*range(1, 9), *(each.row.bits for each in panel.points)}, reverse=True)
    x = alt.X("bits:O", title="bits per weight", scale=alt.Scale(domain=widths), axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(domain=[least, most * 1.18], nice=False)
    title_y = "points lost"
    colour = alt.Color(
        "loss:N",
        title=None,
        scale=alt.Scale(domain=["quantization", "conversion"], range=[palette.quantization, palette.conversion]),
        legend=_legend(symbolType="square"),
    )
    parts = []
    for place, mode in enumerate(known):
        name = mode_name(mode)
        last = place == len(known) - 1
        at = (
            x
            if last
            else alt.X(
                "bits:O",
                title=None,
                scale=alt.Scale(domain=widths),
                axis=alt.Axis(labels=False, ticks=False, title=None),
            )
        )
        bars = alt.Chart(alt.Data(values=[row for row in rows if row["mode"] == name])).mark_bar(
            stroke=palette.ink, strokeWidth=0.7
        ).encode(
            x=at,
            y=alt.Y("from:Q", title=title_y, scale=scale, axis=alt.Axis(tickCount=4)),
            y2="to:Q",
            color=colour,
            description="tip:N",
        )  # fmt: skip
        figures = alt.Chart(alt.Data(values=[row for row in beyond if row["mode"] == name])).encode(
            x=at, y=alt.Y("at:Q", scale=scale, title=title_y), text="text:N"
        )  # fmt: skip
        cliff = alt.Chart(alt.Data(values=[{"value": told.margin}])).mark_rule(
            color=palette.limit, strokeWidth=1, strokeDash=[5, 3]
        ).encode(y=alt.Y("value:Q", scale=scale, title=title_y))  # fmt: skip
        parts.append(
            alt.layer(
                cliff, bars, *(figures.mark_text(dy=-3, baseline="bottom", **look) for look in _haloed(palette, 10))
            ).properties(width=WIDTH, height=90, title=alt.TitleParams(name, anchor="start", fontSize=12, offset=3))
        )
    return _whole(alt.vconcat(*parts, spacing=6), palette, title)


def _points(value: float) -> str:
    return f"{value:.{1 if abs(value) >= 1 else 2}f}".replace("-", "−")


def _stacked(first: float, second: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bars of two figures: both from 0 where their signs differ, else one on the other."""
    start = first if first * second > 0 else 0.0
    return (0.0, first), (start, start + second)


def tip(each: Measured, backends: Sequence[str] = ()) -> str:
    """What a pointer over a mark shows; all of it is in the table as well."""
    row = each.row
    names = f"{', '.join(backends)}: {row.cell.partition('/')[2]}" if len(backends) > 1 else row.cell
    lines = [names, f"top-1 {each.top1 * 100:.2f} % ({-each.lost.points:+.2f} points, {interval(each)})"]
    if len(backends) <= 1:
        lines.append(size(each.bytes) + (f", {row.latency_ratio:.2f}x float latency" if row.latency_ratio else ""))
    if row.quantization_loss is not None and row.conversion_loss is not None:
        lines.append(f"lost: quantization {row.quantization_loss:.2f}, conversion {row.conversion_loss:.2f}")
    return "\n".join(lines)


def interval(each: Measured) -> str:
    """The interval of the change against float, as `-1.20 to +0.20`."""
    low, high = 0.0 - each.lost.high, 0.0 - each.lost.low
    return f"{low + 0.0:+.2f} to {high + 0.0:+.2f}"


def _haloed(palette: Palette, points: int = _TEXT) -> tuple[Spec, Spec]:
    """Text that is read on lines: first its outline in the paper's colour, then itself."""
    outline = {"stroke": palette.paper, "strokeWidth": 3, "strokeJoin": "round", "color": palette.paper}
    return {"fontSize": points, **outline}, {"fontSize": points, "color": palette.ink}


def _looks(known: Sequence[str], palette: Palette) -> dict[str, Any]:
    """Colour, shape and dash of modes, with one legend."""
    import altair as alt

    names = [mode_name(mode) if mode else "float" for mode in known]
    order = ("linear", "symmetric", "kmeans")
    slots = [order.index(mode) if mode in order else 3 for mode in known]
    colours = [palette.modes[slot] if mode else palette.ink for mode, slot in zip(known, slots, strict=True)]
    return {
        "color": alt.Color("mode:N", title=None, scale=alt.Scale(domain=names, range=colours), legend=_legend()),
        "shape": alt.Shape(
            "mode:N", title=None, scale=alt.Scale(domain=names, range=[_SHAPES[s] for s in slots]), legend=_legend()
        ),
        "dash": alt.StrokeDash(
            "mode:N", title=None, scale=alt.Scale(domain=names, range=[_DASHES[s] for s in slots]), legend=None
        ),
    }


def _legend(**more: Any) -> alt.Legend:
    import altair as alt

    return alt.Legend(
        orient="top",
        direction="horizontal",
        symbolSize=70,
        columnPadding=16,
        symbolStrokeWidth=0,
        symbolOpacity=1,
        **more,
    )


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
    return "float" if value == 0 else f"{value:+g}".replace("-", "−")


_BYTES = (
    "datum.value >= 1e6 ? format(datum.value / 1e6, '~r') + ' MB' : "
    "datum.value >= 1e3 ? format(datum.value / 1e3, '~r') + ' kB' : datum.value + ' B'"
)


def _decades(low: float, high: float) -> list[float]:
    """Ticks of 1, 2 and 5; of 1 alone over more than two decades."""
    steps = (1, 2, 5) if high / low < 100 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]


def _whole(chart: Any, palette: Palette, title: str) -> Spec:
    """A chart as a specification, in the palette's colours."""
    import altair as alt

    if title:
        head, _, rest = title.partition("\n")
        chart = chart.properties(title=alt.TitleParams(head, subtitle=rest.split("\n") if rest else []))
    chart = chart.configure(
        background=palette.paper, font="sans-serif", padding=8,
        axis=alt.AxisConfig(
            labelColor=palette.muted, titleColor=palette.ink, gridColor=palette.grid, domainColor=palette.muted,
            tickColor=palette.muted, labelFontSize=_TEXT, titleFontSize=_TEXT, titleFontWeight="normal",
        ),
        legend=alt.LegendConfig(
            labelColor=palette.ink, titleColor=palette.ink, labelFontSize=12, titleFontSize=12, titleFontWeight="normal",
        ),
        title=alt.TitleConfig(
            color=palette.ink, subtitleColor=palette.muted, anchor="start", fontSize=14, subtitleFontSize=11,
        ),
        view=alt.ViewConfig(stroke=None),
    )  # fmt: skip
    spec: Spec = chart.to_dict()
    return spec
