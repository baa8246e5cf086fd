"""Plots against bits, as Vega-Lite specifications written with Altair: the score, and the losses by their cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mobconv.common.text import size
from mobconv.evaluate.tasks import Metric
from mobconv.report.digest import Digest, Measured, Panel, modes
from mobconv.report.style import LIGHT, TEXT, WIDTH, Palette, Spec, chart, haloed, legend, looks_of, mode_name, whole
from mobconv.stats.estimates import Estimate

_PADDING = 0.1  # of the range of scores, above and below them: a line of text


def accuracy(digest: Digest, panel: Panel, palette: Palette = LIGHT, title: str = "") -> Spec:
    """The score against bits, a line for each mode, with error bars, the margin, and the cliffs marked."""
    import altair as alt

    known = modes(panel.points)
    shift = {mode: 0.13 * (place - (len(known) - 1) / 2) for place, mode in enumerate(known)}
    rows = [
        {
            "x": each.row.bits - shift[str(each.row.mode)],
            "score": each.score,
            "low": each.low,
            "high": each.high,
            "mode": mode_name(str(each.row.mode)),
            "tip": tip(each, digest.metric, panel.backends),
        }
        for each in panel.points
    ]
    fallen = [row for row, each in zip(rows, panel.points, strict=True) if digest.fallen(each)]
    sure = [row for row in rows if row["low"] is not None]
    widths = sorted({*range(1, 9), *(each.row.bits for each in panel.points)})
    x = alt.X(
        "x:Q",
        title="bits per weight",
        scale=alt.Scale(domain=[widths[-1] + 0.5, widths[0] - 0.5], nice=False, zero=False),
        axis=alt.Axis(values=widths, tickCount=len(widths), grid=False, format="d"),
    )
    heading, domain = digest.metric.heading, score_domain(digest, panel.points)
    axis = alt.Axis() if digest.metric.full is None else alt.Axis(values=[domain[1] * n / 5 for n in range(6)])
    y = alt.Y("score:Q", title=heading, scale=alt.Scale(domain=list(domain), nice=False, zero=False), axis=axis)
    looks = looks_of(known, palette)
    base = chart(rows).encode(x=x)
    layers: list[Any] = [
        *_limits(digest, palette),
        *_cliff_marks(panel, palette, widths, _heights(digest.metric, domain)),
        base.mark_line(strokeWidth=2, aria=False).encode(y=y, color=looks["color"], strokeDash=looks["dash"]),
        chart(sure)
        .encode(x=x)
        .mark_rule(strokeWidth=1.5)
        .encode(y=alt.Y("low:Q", title=heading), y2="high:Q", color=looks["color"]),
        base.mark_point(filled=True, size=55, opacity=1).encode(
            y=y, color=looks["color"], shape=looks["shape"], description="tip:N"
        ),
    ]
    if fallen:
        ringed = chart(fallen).encode(x=x, y=y)
        layers.append(ringed.mark_point(aria=False, size=170, filled=False, stroke=palette.ink, strokeWidth=1))
    return whole(alt.layer(*layers).properties(width=WIDTH, height=230), palette, title)


def score_domain(digest: Digest, points: Sequence[Measured]) -> tuple[float, float]:
    """Ends of the axis of scores: 0 and `full` of a metric that counts samples, else all that is drawn, with room."""
    if digest.metric.full is not None:
        return 0.0, digest.metric.full
    margin = digest.float_score + digest.metric.change(digest.margin)
    ends = [end for each in points for end in (each.score, each.low, each.high) if end is not None]
    low, high = min(digest.float_score, margin, *ends), max(digest.float_score, margin, *ends)
    padding = _PADDING * (high - low) or 1.0
    return low - padding, high + padding


def _heights(metric: Metric, domain: tuple[float, float]) -> list[float]:
    """Scores at which names of cliffs stand, one below the other, where the curves leave room before they fall."""
    low, high = domain
    shares = [0.34 - 0.12 * rank for rank in range(4)]
    return [low + (high - low) * (share if metric.higher_is_better else 1 - share) for share in shares]


def _limits(digest: Digest, palette: Palette) -> list[Any]:
    """Float and margin as lines across, named where the curves end low."""
    import altair as alt

    metric, lines = digest.metric, []
    margin = f"{metric.change(digest.margin):+g}".replace("-", "\N{MINUS SIGN}")
    for value, text, colour, dash, better in (
        (digest.float_score, f"float {metric.number(digest.float_score)}", palette.ink, [1, 0], True),
        (digest.float_score + metric.change(digest.margin), f"margin {margin}", palette.limit, [5, 3], False),
    ):
        above = better is metric.higher_is_better
        base = chart([{"value": value, "text": text}]).encode(y=alt.Y("value:Q", title=metric.heading))
        lines.append(base.mark_rule(color=colour, strokeWidth=1, strokeDash=dash))
        lines.append(
            base.mark_text(
                align="right",
                baseline="bottom" if above else "top",
                dy=-2 if above else 3,
                color=colour,
                fontSize=TEXT,
            ).encode(text="text:N", x=alt.value(WIDTH - 2))
        )
    return lines


def _cliff_marks(panel: Panel, palette: Palette, widths: Sequence[int], heights: Sequence[float]) -> list[Any]:
    """A line in front of the first width that fell, with the modes that fell there; heights: of their names."""
    marks: list[Any] = []
    by_width: dict[int, list[str]] = {}
    for mode, bits in panel.cliffs.items():
        by_width.setdefault(bits, []).append(mode_name(mode))
    for rank, (bits, names) in enumerate(sorted(by_width.items(), reverse=True)):
        every = len(names) > 2 and len(names) == len(modes(panel.points))
        text = f"cliff at {bits}: {'all modes' if every else ', '.join(names)}"
        edge = bits + 0.5
        right = edge < (widths[-1] + widths[0]) / 2  # to the side where there is more room
        base = chart([{"x": edge, "y": heights[rank % len(heights)], "text": text}]).encode(x="x:Q")
        marks.append(base.mark_rule(color=palette.muted, strokeDash=[2, 3], strokeWidth=1.2))
        at = {"align": "right" if right else "left", "dx": -5 if right else 5}
        names_here = base.encode(y="y:Q", text="text:N")
        marks += [names_here.mark_text(**at, **look) for look in haloed(palette)]
    return marks


def losses(digest: Digest, panel: Panel, palette: Palette = LIGHT, title: str = "") -> Spec:
    """Losses to quantization and to conversion, stacked; a row for each mode. Longer bars are cut and marked."""
    import altair as alt

    known, metric = modes(panel.points), digest.metric
    lost = [
        (each, each.row.quantization_loss, each.row.conversion_loss)
        for each in panel.points
        if each.row.quantization_loss is not None and each.row.conversion_loss is not None
    ]
    most = digest.shown_loss
    least = min([0.0, *(min(q, 0) + min(c, 0) for _, q, c in lost)])
    least = 0.0 if least == 0 else max(least * 1.2, -most)
    rows, beyond = [], []
    for each, quantization, conversion in lost:
        mode = mode_name(str(each.row.mode))
        ends = _stacked(quantization, conversion)
        upwards = max(quantization, 0) + max(conversion, 0)
        for name, (start, end) in zip(("quantization", "conversion"), ends, strict=True):
            first, last = (min(max(value, least), most) for value in (start, end))
            if first != last:
                rows.append({
                    "bits": each.row.bits, "from": first, "to": last, "loss": name, "mode": mode,
                    "tip": tip(each, metric, panel.backends),
                })  # fmt: skip
        beyond.append({
            "bits": each.row.bits, "mode": mode, "at": min(upwards, most),
            "text": _short(quantization + conversion, metric) + ("↑" if upwards > most else ""),
        })  # fmt: skip
    widths = sorted({*range(1, 9), *(each.row.bits for each in panel.points)}, reverse=True)
    x = alt.X("bits:O", title="bits per weight", scale=alt.Scale(domain=widths), axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(domain=[least, most * 1.18], nice=False)
    title_y = f"{metric.loss_unit or metric.name} lost"
    colour = alt.Color(
        "loss:N",
        title=None,
        scale=alt.Scale(domain=["quantization", "conversion"], range=[palette.quantization, palette.conversion]),
        legend=legend(symbolType="square"),
    )
    parts = []
    for rank, mode in enumerate(known):
        name = mode_name(mode)
        last = rank == len(known) - 1
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
        bars = chart([row for row in rows if row["mode"] == name]).mark_bar(
            stroke=palette.ink, strokeWidth=0.7
        ).encode(
            x=at,
            y=alt.Y("from:Q", title=title_y, scale=scale, axis=alt.Axis(tickCount=4)),
            y2="to:Q",
            color=colour,
            description="tip:N",
        )  # fmt: skip
        figures = chart([row for row in beyond if row["mode"] == name]).encode(
            x=at, y=alt.Y("at:Q", scale=scale, title=title_y), text="text:N"
        )  # fmt: skip
        cliff = chart([{"value": digest.margin}]).mark_rule(
            color=palette.limit, strokeWidth=1, strokeDash=[5, 3]
        ).encode(y=alt.Y("value:Q", scale=scale, title=title_y))  # fmt: skip
        parts.append(
            alt.layer(
                cliff, bars, *(figures.mark_text(dy=-3, baseline="bottom", **look) for look in haloed(palette, 10))
            ).properties(width=WIDTH, height=90, title=alt.TitleParams(name, anchor="start", fontSize=12, offset=3))
        )
    return whole(alt.vconcat(*parts, spacing=6), palette, title)


def _short(loss: float, metric: Metric) -> str:
    """A loss above its bar: with one decimal less from 1 on."""
    decimals = max(metric.decimals - 1, 0) if abs(loss) >= 1 else metric.decimals
    return f"{loss:.{decimals}f}".replace("-", "\N{MINUS SIGN}")


def _stacked(first: float, second: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bars of two figures: both from 0 where their signs differ, else one on the other."""
    start = first if first * second > 0 else 0.0
    return (0.0, first), (start, start + second)


def tip(each: Measured, metric: Metric, backends: Sequence[str] = ()) -> str:
    """The text for a pointer over a mark; all of it is in the table as well."""
    row = each.row
    names = f"{', '.join(backends)}: {row.cell.partition('/')[2]}" if len(backends) > 1 else row.cell
    change = f"{metric.loss_text(metric.change(each.loss))} {metric.loss_unit}".rstrip()
    sure = f", {interval(each.lost, metric)}" if each.lost.known else ""
    lines = [names, f"{metric.name} {metric.text(each.score)} ({change}{sure})"]
    if len(backends) <= 1:
        lines.append(size(each.bytes) + (f", {row.latency_ratio:.2f}x float latency" if row.latency_ratio else ""))
    if row.quantization_loss is not None and row.conversion_loss is not None:
        quantization, conversion = metric.number(row.quantization_loss), metric.number(row.conversion_loss)
        lines.append(f"lost: quantization {quantization}, conversion {conversion}")
    return "\n".join(lines)


def interval(lost: Estimate, metric: Metric) -> str:
    """The interval of the change of score, as '-1.20 to +0.20'; '-' where there is none."""
    if not lost.known:
        return "-"
    low, high = sorted(metric.change(end) for end in (lost.low, lost.high))
    return f"{metric.loss_text(low)} to {metric.loss_text(high)}"
