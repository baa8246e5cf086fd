"""Rows of results as text: the same columns for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mobconv.results import FAILED, OK, Cliff, Results, Row


@dataclass(frozen=True)
class Column:
    """A heading, how a row shows there, whether it is a figure (set to the right), and whether it
    is left out where the terminal is narrow."""

    title: str
    show: Callable[[Row], str]
    figure: bool = True
    extra: bool = False


def size(count: int | None) -> str:
    """Bytes for people, in units of 1000."""
    if count is None:
        return "-"
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else format(value, pattern)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.2f}"


def _stored(row: Row) -> str:
    """The width on disk, marked where it is not the one asked."""
    if row.stored_bits is None:
        return "-"
    return f"{row.stored_bits}" + ("*" if row.stored_bits != row.bits else "")


COLUMNS = (
    Column("cell", lambda row: row.cell, figure=False),
    Column("stored", _stored, extra=True),
    Column("eff.\nbits", lambda row: _number(row.effective_bits, ".2f")),
    Column("size", lambda row: size(row.file_bytes)),
    Column("top-1 %", lambda row: _percent(row.top1)),
    Column("quant.\nloss", lambda row: _number(row.quantization_loss, "+.2f")),
    Column("conv.\nloss", lambda row: _number(row.conversion_loss, "+.2f")),
    Column("SNR\ndB", lambda row: _number(row.snr_db, ".0f"), extra=True),
    Column("latency", lambda row: "-" if row.latency_ratio is None else f"{row.latency_ratio:.2f}x"),
    Column("needs", lambda row: row.requires or "-", figure=False, extra=True),
)


def remarks(rows: Iterable[Row]) -> list[str]:
    """Each reason and note once, with the cells that it is about."""
    told: dict[str, list[str]] = {}
    for row in rows:
        for text in (row.reason, row.note):
            if text:
                mark = "" if row.status == OK else f"{row.status}: "
                told.setdefault(mark + text, []).append(row.cell)
    return [f"{text} ({_cells(cells)})" for text, cells in told.items()]


def _cells(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def cliff_line(cliff: Cliff) -> str:
    """One cliff as a sentence."""
    other = "".join(f", {part}" for part, usual in _ways(cliff) if part != usual)
    what = f"{cliff.backend} {cliff.mode} per {cliff.granularity}{other}"
    if cliff.bits is None:
        return f"{what}: no cliff among the widths measured"
    return f"{what}: falls off at {cliff.bits} bit{'s' * (cliff.bits > 1)} (top-1 {_percent(cliff.top1)} %)"


def _ways(cliff: Cliff) -> tuple[tuple[str, str], ...]:
    """How its cells were made, each beside the default, which goes without saying."""
    return (cliff.algorithm, "mse"), (cliff.storage, "packed"), (cliff.compute, "fp32")


def summary(found: Results) -> str:
    """Counts of rows by status, in one line."""
    counts = {status: sum(row.status == status for row in found.cells) for status in (OK, "unsupported", FAILED)}
    shown = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{len(found.cells)} cells: {shown}"


def legend(found: Results) -> list[str]:
    """What the columns mean, for someone who sees the table for the first time."""
    lines = [
        f"float baseline: top-1 {_percent(found.float_top1)} % of {found.data['images']} images; losses are in points "
        "of top-1 below it, positive is worse.",
        "quant. loss: PyTorch with the dequantized weights; conv. loss: what the file adds; latency: one image "
        "on one thread, against the same backend's fp32 file.",
    ]
    if any(row.verified == "emulated" for row in found.cells):
        lines.append(
            "Core ML files were run by mobconv's own executor on this machine (emulated): accuracy, but no latency."
        )
    if any(row.stored_bits not in (None, row.bits) for row in found.cells):
        lines.append("* stored wider than asked; the reason is below.")
    return lines


def markdown(found: Results) -> str:
    """The whole of the results as a Markdown page."""
    lines = [f"# {found.model['path']}", "", *(f"> {note}\n" for note in found.notes), *legend(found), ""]
    lines.append("| " + " | ".join(column.title.replace("\n", " ") for column in COLUMNS) + " |")
    lines.append("| " + " | ".join("---:" if column.figure else "---" for column in COLUMNS) + " |")
    lines += ["| " + " | ".join(column.show(row) for column in COLUMNS) + " |" for row in found.cells]
    lines += ["", "## Cliffs", "", f"Where top-1 first falls more than {_margin(found)} points below the baseline:", ""]
    lines += [f"- {cliff_line(cliff)}" for cliff in found.cliffs]
    told = remarks(found.cells)
    if told:
        lines += ["", "## Remarks", "", *(f"- {text}" for text in told)]
    lines += ["", summary(found) + ".", ""]
    return "\n".join(lines)


def _margin(found: Results) -> str:
    return f"{found.cliffs[0].margin:g}" if found.cliffs else "-"
