"""Figures and sentences of a report's pages."""

from __future__ import annotations

from collections.abc import Sequence

from mobconv.common.text import plural, size
from mobconv.evaluate.tasks import Metric
from mobconv.report.charts import interval
from mobconv.report.digest import Digest, Measured, Panel, modes, shared_cliffs
from mobconv.report.style import mode_name
from mobconv.results import FAILED, OK, UNSUPPORTED, Row
from mobconv.results.scores import NAME

VERIFIED = {
    "runtime": "the format's own runtime, on this machine",
    "emulated": "emulated: mobconv's own executor, on no Apple device",
    "macos": "Core ML, on macOS",
}


def joined(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def minus(text: str) -> str:
    """With minuses as wide as a plus."""
    return "-" if text == "-" else text.replace("-", "\N{MINUS SIGN}")


def signed(loss: float, metric: Metric) -> str:
    """The change of score that a loss is, with a minus as wide as a plus."""
    return minus(metric.loss_text(metric.change(loss)))


def change(each: Measured, metric: Metric) -> str:
    """Change of score against float, with the interval: '-0.50 points, -1.20 to +0.20'."""
    text = f"{signed(each.loss, metric)} {metric.loss_unit}".rstrip()
    return f"{text}, {minus(interval(each.lost, metric))}" if each.lost.known else text


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """Number of rows by status."""
    return {status: sum(row.status == status for row in rows) for status in (OK, UNSUPPORTED, FAILED)}


def intervals(digest: Digest) -> str:
    """The source of the 95 % intervals."""
    metric = digest.metric
    if digest.paired:
        sample = digest.results.sample
        over = plural(digest.groups, "group") if digest.groups else f"{sample}s"
        drawn = f"bootstrap over {over} of the {plural(digest.results.data['samples'], sample)}"
        if metric.resamples:
            return (
                f"95 % intervals are of the difference to the float baseline, with {metric.name} of both computed "
                f"again on {metric.resamples:,} resamples ({drawn})."
            )
        return f"95 % intervals are of the difference to the float baseline, paired {sample} by {sample} ({drawn})."
    if metric.full is None:
        return (
            f"The results have no {NAME} beside them, so there are no intervals: without scores of samples, nothing "
            f"says how sure a difference of {metric.name} is."
        )
    return (
        f"The results have no {NAME} beside them, so 95 % intervals are unpaired: of {metric.name} alone by Wilson's "
        "formula (error bars against bits), of the difference to float by Newcombe's (everything else). They are wider "
        "than paired ones, and take images as independent."
    )


def measured_by(row: Row) -> str:
    """The runtime that ran the file."""
    return VERIFIED.get(str(row.verified), row.verified or "unknown")


def choice_lines(each: Measured, float32: int | None, metric: Metric) -> list[str]:
    """A file to ship: its size, its score and its speed."""
    smaller = f", {float32 / each.bytes:.1f}x smaller than fp32" if float32 and float32 > each.bytes else ""
    speed = each.row.latency_ratio
    return [
        size(each.bytes) + smaller,
        f"{metric.text(each.score)} ({change(each, metric)})",
        f"{speed:.2f}x the latency of fp32" if speed is not None else "not timed",
    ]


def cliff_lines(digest: Digest) -> list[str]:
    """Cliffs as sentences, those that backends share in one."""
    lines, metric = [], digest.metric
    several = len({cliff.backend for cliff in digest.results.cliffs})
    for cliff in shared_cliffs(digest.results):
        way = f" {cliff.way}" if cliff.way else ""
        every = len(cliff.backends) == several > 1
        where = f"{mode_name(cliff.mode)}{way} ({'every format' if every else joined(cliff.backends)})"
        if cliff.bits is None:
            lines.append(f"{where}: no cliff among the widths measured")
        else:
            score = f"{metric.name} {metric.text(cliff.score)}"
            lines.append(f"{where}: falls off at {plural(cliff.bits, 'bit')}, {score}")
    return lines


def panel_title(panel: Panel) -> str:
    """The way of storing and the formats of a plot."""
    return f"{panel.way or 'packed'}: {joined(panel.backends)}"


def panel_finding(panel: Panel, metric: Metric) -> str:
    """A plot against bits in words, for those who do not see it."""
    parts = []
    for mode in modes(panel.points):
        widths = [each for each in panel.points if each.row.mode == mode]
        cliff = panel.cliffs.get(mode)
        figures = ", ".join(f"{plural(each.row.bits, 'bit')} {metric.text(each.score)}" for each in widths)
        fall = "no cliff" if cliff is None else f"cliff at {plural(cliff, 'bit')}"
        parts.append(f"{mode_name(mode)}: {fall} ({figures})")
    return f"{metric.title} against bits, {panel_title(panel)}. " + "; ".join(parts) + "."


def panel_caption(panel: Panel, figures: str, metric: Metric) -> str:
    """The caption of a plot of several backends; figures: the name of what it shows."""
    if len(panel.backends) == 1:
        return f"{panel.backends[0]} alone: no other format gives the same {figures}."
    exactly = "exactly " if metric.full is not None else ""
    return (
        f"{joined(panel.backends)} lie {exactly}on one another: the same weights, and equal {figures} wherever more "
        "than one of them has a cell."
    )


def front_finding(digest: Digest, backend: str) -> str:
    """The Pareto front in words."""
    metric = digest.metric
    front = ", ".join(
        f"{each.row.cell.partition('/')[2]} {size(each.bytes)} {metric.text(each.score)}"
        for each in digest.fronts[backend]
    )
    return f"{metric.title} against size, {backend}. Pareto front, smallest first: {front}."


def loss_finding(panel: Panel, metric: Metric) -> str:
    """The bars of losses in words."""
    worst = max((each.row.conversion_loss or 0.0 for each in panel.points), default=0.0)
    lost = ", ".join(
        f"{each.row.scheme} {metric.number(each.row.quantization_loss or 0.0)}"
        for each in panel.points
        if each.row.scheme
    )
    head = f"{losses_title(metric)}, {panel_title(panel)}"
    return f"{head}. Conversion loses at most {metric.number(worst)}. Lost to quantization: {lost}."


def losses_title(metric: Metric) -> str:
    """Title of the plot of losses, such as 'Px of MAE lost'."""
    return f"{metric.losses[:1].upper()}{metric.losses[1:]} lost"


def losses_note(digest: Digest) -> str:
    """The largest loss to conversion, which is the question that the plot answers."""
    metric = digest.metric
    known = [each for each in digest.measured if each.row.conversion_loss is not None]
    worst = max(known, key=lambda each: abs(each.row.conversion_loss or 0.0), default=None)
    if worst is None:
        return "The results have no losses to quantization and conversion."
    loss = worst.row.conversion_loss or 0.0
    if not loss:
        head = f"Conversion cost nothing in any of {len(known)} files: everything that was lost, quantization lost."
    else:
        amount = f"{metric.number(abs(loss))} {metric.loss_unit}".rstrip()
        head = f"Conversion changed {metric.name} by at most {amount} ({worst.row.cell}: {signed(loss, metric)})."
    return (
        f"{head} Quantization: float against PyTorch with the dequantized weights. Conversion: that against the file "
        f"in its own runtime. Bars are cut at {metric.amount(digest.shown_loss)} and marked ↑; the figure is of the "
        "whole. Dashed: the margin."
    )
