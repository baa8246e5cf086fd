"""Figures and sentences of a report's pages."""

from __future__ import annotations

from collections.abc import Sequence

from mobconv.report.charts import interval
from mobconv.report.digest import Digest, Measured, Panel, cliff_words, modes
from mobconv.report.style import mode_name
from mobconv.results import FAILED, OK, UNSUPPORTED, Row
from mobconv.results.tables import plural, size

VERIFIED = {
    "runtime": "the format's own runtime, on this machine",
    "emulated": "emulated: mobconv's own executor, on no Apple device",
    "macos": "Core ML, on macOS",
}


def signed(value: float, digits: int = 2) -> str:
    """With a sign, and a minus as wide as a plus."""
    return f"{round(value, digits) + 0.0:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def joined(names: Sequence[str]) -> str:
    """a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def change(each: Measured) -> str:
    """Points of top-1 against float with the interval, positive is better."""
    return f"{signed(-each.lost.points)} points, {minus(interval(each))}"


def minus(text: str) -> str:
    """With minuses as wide as a plus."""
    return "-" if text == "-" else text.replace("-", "\N{MINUS SIGN}")


def counts(rows: Sequence[Row]) -> dict[str, int]:
    """Rows by status, in the order that people ask."""
    return {status: sum(row.status == status for row in rows) for status in (OK, UNSUPPORTED, FAILED)}


def intervals(told: Digest) -> str:
    """What the 95 % intervals are."""
    if told.paired:
        over = plural(told.groups, "group") if told.groups else "images"
        return (
            "95 % intervals are of the difference to the float baseline, paired image by image (bootstrap over "
            f"{over} of the {plural(told.results.data['images'], 'image')})."
        )
    return (
        "There is no predictions.npz beside the results, so 95 % intervals are unpaired: of top-1 alone by Wilson's "
        "formula (error bars against bits), of the difference to float by Newcombe's (everything else). They are wider "
        "than paired ones, and take images as independent."
    )


def measured_by(row: Row) -> str:
    """Who ran the file."""
    return VERIFIED.get(str(row.verified), row.verified or "nobody")


def choice_lines(each: Measured, float32: int | None) -> list[str]:
    """A file that one may ship: its size, what it costs, how fast it is."""
    smaller = f", {float32 / each.bytes:.1f}x smaller than fp32" if float32 and float32 > each.bytes else ""
    speed = each.row.latency_ratio
    return [
        size(each.bytes) + smaller,
        f"{each.top1 * 100:.2f} % ({change(each)})",
        f"{speed:.2f}x the latency of fp32" if speed is not None else "not timed",
    ]


def cliff_lines(told: Digest) -> list[str]:
    """Cliffs as sentences, those that backends share in one."""
    lines = []
    several = len({cliff.backend for cliff in told.results.cliffs})
    for cliff in cliff_words(told.results):
        how = f" {cliff['way']}" if cliff["way"] else ""
        backends = cliff["backends"]
        every = len(backends) == several > 1
        where = f"{mode_name(cliff['mode'])}{how} ({'every format' if every else joined(backends)})"
        if cliff["bits"] is None:
            lines.append(f"{where}: no cliff among the widths measured")
        else:
            bits = f"{cliff['bits']} bit{'s' * (cliff['bits'] != 1)}"
            lines.append(f"{where}: falls off at {bits}, top-1 {cliff['top1'] * 100:.2f} %")
    return lines


def panel_title(panel: Panel) -> str:
    """What a plot is of."""
    return f"{panel.way or 'packed'}: {joined(panel.backends)}"


def panel_finding(panel: Panel) -> str:
    """What a plot against bits shows, for those who do not see it."""
    told = []
    for mode in modes(panel.points):
        widths = [each for each in panel.points if each.row.mode == mode]
        cliff = panel.cliffs.get(mode)
        figures = ", ".join(f"{each.row.bits} bits {each.top1 * 100:.2f} %" for each in widths)
        fall = "no cliff" if cliff is None else f"cliff at {cliff} bits"
        told.append(f"{mode_name(mode)}: {fall} ({figures})")
    return f"Top-1 against bits, {panel_title(panel)}. " + "; ".join(told) + "."


def panel_caption(panel: Panel, what: str) -> str:
    """Said below a plot of several backends: that they lie on one another."""
    if len(panel.backends) == 1:
        return f"{panel.backends[0]} alone: no other format gives the same {what}."
    return (
        f"{joined(panel.backends)} lie exactly on one another: the same weights, and equal {what} wherever more than "
        "one of them has a cell."
    )


def front_finding(told: Digest, backend: str) -> str:
    """The Pareto front in words."""
    front = ", ".join(
        f"{each.row.cell.partition('/')[2]} {size(each.bytes)} {each.top1 * 100:.2f} %" for each in told.fronts[backend]
    )
    return f"Top-1 against size, {backend}. Pareto front, smallest first: {front}."


def loss_finding(panel: Panel) -> str:
    """What bars of losses show, in words."""
    worst = max((each.row.conversion_loss or 0.0 for each in panel.points), default=0.0)
    lost = ", ".join(
        f"{each.row.scheme} {(each.row.quantization_loss or 0.0):.2f}" for each in panel.points if each.row.scheme
    )
    head = f"Points of top-1 lost, {panel_title(panel)}"
    return f"{head}. Conversion loses at most {worst:.2f}. Lost to quantization: {lost}."


def losses_note(told: Digest) -> str:
    """Whether conversion cost anything, which is the question that the plot answers."""
    known = [each for each in told.measured if each.row.conversion_loss is not None]
    worst = max(known, key=lambda each: abs(each.row.conversion_loss or 0.0), default=None)
    if worst is None:
        return "The results do not say what was lost to quantization and what to conversion."
    if not worst.row.conversion_loss:
        head = f"Conversion cost nothing in any of {len(known)} files: every point that was lost, quantization lost."
    else:
        head = (
            f"Conversion changed top-1 by at most {abs(worst.row.conversion_loss):.2f} points ({worst.row.cell}: "
            f"{signed(-worst.row.conversion_loss)})."
        )
    return (
        f"{head} Quantization: float against PyTorch with the dequantized weights. Conversion: that against the "
        "file in its "
        f"own runtime. Bars are cut at {2 * max(told.margin, 0.5):g} points and marked ↑; the figure is of the "
        "whole. Dashed: "
        "the margin."
    )
