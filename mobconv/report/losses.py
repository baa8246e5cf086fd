"""Tables and sentences of a comparison: steps, layers, and the verdict on preprocessing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from rich.markup import escape
from rich.table import Table

from mobconv.compare.comparison import Comparison
from mobconv.compare.probe import MistakeTrial, ProbeResult
from mobconv.errors import setting
from mobconv.stats.paired import Difference

_STEPS = {
    "float": "float baseline, PyTorch",
    "weights": "the file's weights, PyTorch",
    "graph": "the file's graph, fp32",
    "precision": "its own precision",
    "preprocessing": "its own preprocessing",
}
_LOST_TO = {
    "weights": "quantization",
    "graph": "conversion",
    "precision": "compute precision",
    "preprocessing": "preprocessing",
}
# Values normalised twice vary by 1 / (255 std) of those wanted: for a std of at least 0.1, by less than a 25th.
_TWICE = 20
_LAYERS_NOTE = (
    "Each layer of the file fed what the float network has there, on {images}; relative error, root mean "
    "square, of its worst output channel and of all. 'not of weights': what is left of it against PyTorch with the "
    "file's own weights."
)
# of arrays, which go in as they are
_OF_ARRAYS = {"preprocessing": "the whole file"}
_LOST_IN_ARRAYS = {"preprocessing": "input"}
Justify = Literal["left", "right"]


def _table(columns: Sequence[tuple[str, Justify]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify=justify)
    return table


def _step(comparison: Comparison, name: str) -> str:
    """A step, in words."""
    return _OF_ARRAYS.get(name, _STEPS[name]) if comparison.expected is None else _STEPS[name]


def _lost_to(comparison: Comparison, name: str) -> str:
    """What the loss of a step is booked to; empty for the first."""
    lost = _LOST_TO | _LOST_IN_ARRAYS if comparison.expected is None else _LOST_TO
    return lost.get(name, "")


def steps(comparison: Comparison) -> Table:
    """The waterfall: one row a step, and the total."""
    metric = comparison.metric
    table = _table(
        [
            ("step", "left"),
            (metric.heading, "right"),
            ("lost", "right"),
            ("95 % interval", "right"),
            ("p", "right"),
            ("", "left"),
            ("agree %", "right"),
            ("SNR dB", "right"),
            ("lost to", "left"),
        ]
    )
    for step, difference in zip(comparison.steps, comparison.differences, strict=True):
        snr = "" if difference is None else "equal" if step.snr_db is None else f"{step.snr_db:.1f}"
        agreement = "" if difference is None else f"{step.agreement * 100:.2f}"
        table.add_row(
            _step(comparison, step.name),
            metric.number(step.score),
            *_difference(comparison, difference),
            agreement,
            snr,
            _lost_to(comparison, step.name),
        )
    last = comparison.steps[-1]
    table.add_section()
    total = _difference(comparison, comparison.total)
    agreement = f"{last.agreement_float * 100:.2f}"
    table.add_row("all of it", metric.number(last.score), *total, agreement, "", "", style="bold")
    return table


def _difference(comparison: Comparison, difference: Difference | None) -> tuple[str, str, str, str]:
    """Loss, interval, p, and what they mean; empty for None."""
    if difference is None:
        return "", "", "", ""
    text = comparison.metric.loss_text
    if not difference.changed:
        return text(difference.loss), "no change", "", ""
    interval = f"{text(difference.low)} to {text(difference.high)}"
    p = f"{difference.p:.2g}" if difference.p >= 1e-4 else "< 0.0001"
    meaning = "within noise" if difference.within_noise else "a loss" if difference.loss > 0 else "a gain"
    return text(difference.loss), interval, p, meaning


def remarks(comparison: Comparison) -> Iterator[str]:
    """Lines below the steps: how losses are measured, and notes of steps."""
    metric, groups = comparison.metric, comparison.total.groups
    alone = groups in (0, comparison.images)
    drawn = f"{comparison.images:,} {comparison.samples}" if alone else f"{groups:,} scans"
    unit = f"{metric.loss_unit} of {metric.name}" if metric.loss_unit else metric.name
    yield (
        f"{comparison.images:,} {comparison.samples}; lost: {unit} against the step before, with a 95 % interval "
        f"(paired bootstrap over {drawn}) and p ({metric.test}). Agreement and SNR: with the step before."
    )
    for step in comparison.steps:
        if step.note:
            yield f"{_step(comparison, step.name)}: {step.note}"
    if comparison.verified == "emulated":
        yield f"The file is run by {comparison.run_by}: no such device here."


def layers(comparison: Comparison, shown: int) -> Table:
    """Errors of layers, and of the operations between them, the worst first; shown: number of rows."""
    table = _table(
        [
            ("layer", "left"),
            ("in the file", "left"),
            ("worst channel", "right"),
            ("its error", "right"),
            ("all", "right"),
            ("SNR dB", "right"),
            ("not of weights", "right"),
        ]
    )
    errors = comparison.layer_errors
    for error in sorted([*errors.layers, *errors.between], key=lambda error: -error.worst)[:shown]:
        table.add_row(
            escape(error.name),
            error.kind,
            str(error.channel),
            _share(error.worst),
            _share(error.relative),
            "equal" if error.snr_db is None else f"{error.snr_db:.1f}",
            "" if error.graph is None else _share(error.graph),
        )
    return table


def layer_remarks(comparison: Comparison) -> Iterator[str]:
    """Lines below the layers: what their columns mean, and which layers were not compared."""
    yield _LAYERS_NOTE.format(images=f"{comparison.layer_errors.images} {comparison.samples}")
    for line in comparison.layer_errors.skipped:
        yield f"not compared: {line}"


def _share(value: float) -> str:
    return f"{value * 100:.2f} %" if value >= 1e-4 else f"{value:.0e}" if value else "0"


def verdict(comparison: Comparison) -> Iterator[str]:
    """Sentences: which step the loss is booked to, what is wrong with preprocessing, and the corrected call.

    They contain settings (see mobconv.errors.setting), which `worded` turns into options or arguments.
    """
    yield from _outcome(comparison)
    yield from _preprocessing(comparison)


def _outcome(comparison: Comparison) -> Iterator[str]:
    """The steps that the loss is booked to."""
    if comparison.other_checkpoint:
        yield "The file was made from another checkpoint: what follows compares two networks, not a file with its own."
    if warning := comparison.baseline_warning:
        yield f"{warning[0].upper()}{warning[1:]}."
    total, unit = comparison.total, comparison.metric.loss_unit
    if total.within_noise:
        change = f"{comparison.metric.loss_text(total.loss)} {unit}".rstrip()
        low, high = (comparison.metric.loss_text(end) for end in (total.low, total.high))
        yield (
            f"No loss can be measured on these samples: {change} against the float network, 95 % interval {low} to "
            f"{high}."
        )
        return
    amount = f"{_amount(comparison, total.loss)} {unit}".rstrip()
    losses = {
        step.name: difference.loss
        for step, difference in zip(comparison.steps, comparison.differences, strict=True)
        if difference is not None
    }
    gained = _booked(comparison, losses, -1, "won at")
    if comparison.is_gain:
        lost = _booked(comparison, losses, 1, "lost to")
        parts = "; ".join(part for part in (gained, lost) if part)
        yield f"The file is {amount} better than the float network: {parts}."
        return
    most = max(losses, key=lambda name: losses[name])
    if losses[most] <= total.loss + 1e-6:
        yield f"Of {amount} lost, {_amount(comparison, losses[most])} are lost to {_lost_to(comparison, most)}."
    else:
        yield f"The file loses {amount}: {_booked(comparison, losses, 1, 'lost to')}; {gained}."


def _amount(comparison: Comparison, loss: float) -> str:
    """The size of a loss or gain, without a sign."""
    return comparison.metric.number(abs(loss))


def _booked(comparison: Comparison, losses: dict[str, float], sign: int, how: str) -> str:
    """The steps that lost (sign 1) or gained (-1), each with its amount."""
    return ", ".join(
        f"{_amount(comparison, loss)} {how} {_lost_to(comparison, name)}"
        for name, loss in losses.items()
        if loss * sign > 0
    )


def _preprocessing(comparison: Comparison) -> Iterator[str]:
    """What the file takes, where that was found by trial; the mistake, and the corrected call."""
    if comparison.expected is None:
        yield (
            "Input: what the file makes of it in front of its first layers is not what the network does."
            if comparison.wrong_input
            else "Input: the file's layers get what the network's get."
        )
        return
    inside, result = comparison.inside, comparison.probe_result
    if inside is not None:
        yield (
            f"Preprocessing: the file normalises inside, though it does not say so: it takes {inside.pixels}. Say "
            f"{setting('takes')} {inside.option}."
        )
        yield (
            "  Found by trial, and fed so in the steps above. Fed what the network wants, it normalises a second time, "
            f"and has {comparison.metric.text(inside.score)}."
        )
    if result is not None:
        yield from _probe(comparison, result)
    elif comparison.wrong_input:
        yield (
            "Preprocessing: the file's input is not what the checkpoint's mean and std make of pixels, and the file is "
            f"the better for it. Doubt the checkpoint's ({setting('preprocessing')}), not the file's."
        )
    elif inside is None:
        yield "Preprocessing: the file sees what the network wants; there is nothing to look for."


def _probe(comparison: Comparison, result: ProbeResult) -> Iterator[str]:
    """The mistake that explains the file, or that none does."""
    (low, mean, high), (least, middle, most) = comparison.seen, comparison.wanted
    seen = (
        f"  In front of its first layer it has values of {low:.4g} to {high:.4g} (mean {mean:.3g}), the network wants "
        f"{least:.4g} to {most:.4g} (mean {middle:.3g})."
    )
    if result.named is not None:
        yield f"Preprocessing: {result.named.mistake.name}."
        yield seen
        yield from _named(comparison, result, result.named)
        return
    yield (
        f"Preprocessing: the file's input is not what the network wants, and none of {result.tried} plausible "
        "mistakes explains what it gives. Nothing is named."
    )
    yield seen
    assumed = comparison.expected is not None and comparison.expected.assumed
    if assumed and (high - low) * _TWICE < most - least:
        yield f"  That looks normalised twice: the file may take pixels of 0 to 255. Try {setting('takes', 'raw')}."


def _named(comparison: Comparison, result: ProbeResult, named: MistakeTrial) -> Iterator[str]:
    """The evidence for a mistake, and the corrected call."""
    metric = comparison.metric
    yield (
        f"  The network fed that way gives what the file gives ({named.forwards_db:.0f} dB; without it "
        f"{result.clean_db:.0f} dB), the best of {result.tried} mistakes tried on {result.images} images."
    )
    if named.restored is None:
        yield "  The file takes bytes, in which the mistake cannot be undone: export the file again."
    else:
        yield (
            f"  With the mistake undone the file has {metric.text(named.restored)}, not {metric.text(result.score)}, "
            f"of all images; the network with the file's weights has {metric.text(result.reference_score)}."
        )
    is_command = comparison.corrected.startswith("mobconv ")
    kind, in_recipe = ("command", " (in a recipe: `preprocessing`)") if is_command else ("call", "")
    yield f"  The {kind} that does it right{in_recipe}:"
    yield ""
    yield from (f"    {line}" if line else "" for line in comparison.corrected.splitlines())
