"""The tables of a comparison: steps, layers, and what the probe says."""

from __future__ import annotations

from collections.abc import Iterator

from rich.markup import escape
from rich.table import Table

from mobconv.compare.comparison import Comparison
from mobconv.stats.paired import Difference

_WHAT = {
    "float": "float baseline, PyTorch",
    "weights": "the file's weights, PyTorch",
    "graph": "the file's graph, fp32",
    "precision": "its own precision",
    "preprocessing": "its own preprocessing",
}
_BOOKED = {
    "weights": "quantization",
    "graph": "conversion",
    "precision": "compute precision",
    "preprocessing": "preprocessing",
}
# What is normalised twice varies by 1 / (255 std) of what it should: for a std of at least 0.1, by less than a 25th.
_TWICE = 20
LAYERS_NOTE = (
    "Each layer of the file fed what the float network has there, on {images} images; relative error, root mean "
    "square, of its worst output channel and of all. 'not of weights': what is left of it against PyTorch with the "
    "file's own weights."
)


def steps(found: Comparison) -> Table:
    """The waterfall: one row a step, and the total."""
    table = Table(box=None, pad_edge=False)
    for name, justify in (
        ("step", "left"),
        ("top-1 %", "right"),
        ("lost", "right"),
        ("95 % interval", "right"),
        ("p", "right"),
        ("", "left"),
        ("agree %", "right"),
        ("SNR dB", "right"),
        ("lost to", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for step, lost in zip(found.steps, found.lost, strict=True):
        snr = "" if lost is None else "equal" if step.snr_db is None else f"{step.snr_db:.1f}"
        agreement = "" if lost is None else f"{step.agreement * 100:.2f}"
        row = [_WHAT[step.name], f"{step.top1 * 100:.2f}", *_difference(lost), agreement, snr]
        table.add_row(*row, _BOOKED.get(step.name, ""))
    last = found.steps[-1]
    table.add_section()
    agreement = f"{last.agreement_float * 100:.2f}"
    table.add_row("all of it", f"{last.top1 * 100:.2f}", *_difference(found.total), agreement, "", "", style="bold")
    return table


def _difference(lost: Difference | None) -> tuple[str, str, str, str]:
    if lost is None:
        return "", "", "", ""
    interval = f"{lost.low:+.2f} to {lost.high:+.2f}"
    noise = "within noise" if lost.within_noise else "a loss" if lost.points > 0 else "a gain"
    p = f"{lost.p:.2g}" if lost.p >= 1e-4 else "< 0.0001"
    if lost.lost + lost.won == 0:
        interval, noise, p = "no change", "", ""
    return f"{lost.points:+.2f}", interval, p, noise


def remarks(found: Comparison) -> Iterator[str]:
    """What stands under the steps."""
    groups = found.total.groups
    drawn = f"{groups:,} scans" if groups != found.images else f"{found.images:,} images"
    yield (
        f"{found.images:,} images; lost: points of top-1 against the step before, with a 95 % interval (paired "
        f"bootstrap over {drawn}) and p (McNemar's exact test). Agreement and SNR: with the step before."
    )
    for step in found.steps:
        if step.note:
            yield f"{_WHAT[step.name]}: {step.note}"
    if found.verified == "emulated":
        yield "The file is run by mobconv's own executor of Core ML files (emulated): no such device here."


def injections(found: Comparison, shown: int) -> Table:
    """The layers that inject most error, worst first, those between layers among them."""
    table = Table(box=None, pad_edge=False)
    for name, justify in (
        ("layer", "left"),
        ("in the file", "left"),
        ("worst channel", "right"),
        ("its error", "right"),
        ("all", "right"),
        ("SNR dB", "right"),
        ("not of weights", "right"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    everything = sorted([*found.injections.layers, *found.injections.between], key=lambda each: -each.worst)
    for each in everything[:shown]:
        table.add_row(
            escape(each.name),
            each.kind,
            str(each.channel),
            _share(each.worst),
            _share(each.relative),
            "equal" if each.snr_db is None else f"{each.snr_db:.1f}",
            "" if each.graph is None else _share(each.graph),
        )
    return table


def _share(value: float) -> str:
    return f"{value * 100:.2f} %" if value >= 1e-4 else f"{value:.0e}" if value else "0"


def _outcome(found: Comparison) -> Iterator[str]:
    """What the points were lost to."""
    if found.other_checkpoint:
        yield "The file was made from another checkpoint: what follows compares two networks, not a file with its own."
    if found.guessing:
        yield "The float network is no better than guessing: no figure tells what conversion or quantization costs."
    total = found.total
    if total.within_noise:
        yield f"The file is as accurate as the float network, within noise ({total.points:+.2f} points)."
        return
    points = {step.name: lost.points for step, lost in zip(found.steps, found.lost, strict=True) if lost is not None}
    won = _at(points, -1, "won at")
    if found.better:
        lost = _at(points, 1, "lost to")
        yield (
            f"The file is {-total.points:.2f} points better than the float network: "
            f"{'; '.join(part for part in (won, lost) if part)}."
        )
        return
    most = max(points, key=lambda name: points[name])
    if points[most] <= total.points + 1e-6:
        yield f"Of {total.points:.2f} points lost, {points[most]:.2f} are lost to {_BOOKED[most]}."
    else:
        yield f"The file loses {total.points:.2f} points: {_at(points, 1, 'lost to')}; {won}."


def _at(points: dict[str, float], sign: int, how: str) -> str:
    """The steps that lost, or won, each with its points."""
    return ", ".join(f"{abs(value):.2f} {how} {_BOOKED[name]}" for name, value in points.items() if value * sign > 0)


def verdict(found: Comparison) -> Iterator[str]:
    """What the points were lost to, in sentences; and the corrected call."""
    yield from _outcome(found)
    inside = found.inside
    if inside is not None:
        yield (
            f"Preprocessing: the file normalises inside, though it does not say so: it takes {inside.takes}. Say "
            f"--takes {inside.option}."
        )
        yield (
            "  Found by trial, and fed so in the steps above. Fed what the network wants, it normalises a second time, "
            f"and has {inside.top1 * 100:.2f} %."
        )
    probe = found.finding
    if found.off and probe is None:
        yield (
            "Preprocessing: the file's input is not what the checkpoint's mean and std make of pixels, and the file is "
            "the better for it. Doubt the checkpoint's (--preprocessing), not the file's."
        )
    elif probe is None and inside is None:
        yield "Preprocessing: the file sees what the network wants; there is nothing to look for."
    if probe is None:
        return
    (low, mean, high), (least, middle, most) = found.sees, found.wants
    seen = (
        f"In front of its first layer it has values of {low:.4g} to {high:.4g} (mean {mean:.3g}), the network wants "
        f"{least:.4g} to {most:.4g} (mean {middle:.3g})."
    )
    if probe.named is None:
        yield (
            f"Preprocessing: the file's input is not what the network wants, and none of {probe.tried} plausible "
            "mistakes explains what it gives. Nothing is named."
        )
        yield f"  {seen}"
        if found.takes.assumed and (high - low) * _TWICE < most - least:
            yield "  That looks normalised twice: the file may take pixels of 0 to 255. Try --takes raw."
        return
    named = probe.named
    yield f"Preprocessing: {named.mistake.name}."
    yield f"  {seen}"
    yield (
        f"  The network fed that way gives what the file gives ({named.forwards_db:.0f} dB; without it "
        f"{probe.clean_db:.0f} dB), the best of {probe.tried} mistakes tried on {probe.images} images."
    )
    if named.restored is None:
        yield "  The file takes bytes, in which the mistake cannot be undone: it has to be made again."
    else:
        yield (
            f"  With the mistake undone the file has {named.restored * 100:.2f} %, not {probe.top1 * 100:.2f} %, of "
            f"all images; the network with the file's weights has {probe.reference_top1 * 100:.2f} %."
        )
    ours = found.call.startswith("mobconv ")
    yield f"  The {'command' if ours else 'call'} that does it right{' (in a recipe: `preprocessing`)' * ours}:"
    yield ""
    yield from (f"    {line}" if line else "" for line in found.call.splitlines())
