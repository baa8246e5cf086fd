"""Rows of results as text: the same columns for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from mobconv.results import FAILED, OK, Cliff, Results, Row


@dataclass(frozen=True)
class Column:
    """A heading, how a row shows there, whether it is a figure (set to the right), and how far it is from being
    left out where the terminal is narrow: 0 is the first to go, None stays."""

    title: str
    show: Callable[[Row], str]
    figure: bool = True
    leaves: int | None = None

    @property
    def name(self) -> str:
        """The heading on one line."""
        return self.title.replace("\n", " ")


def size(count: int | None) -> str:
    """Bytes for people, in units of 1000."""
    if count is None:
        return "-"
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"


def plural(count: int, word: str) -> str:
    """'1 cell', '2,000 cells'."""
    return f"{count:,} {word}{'s' * (count != 1)}"


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
    Column("stored", _stored, leaves=2),
    Column("eff.\nbits", lambda row: _number(row.effective_bits, ".2f"), leaves=3),
    Column("size", lambda row: size(row.file_bytes), leaves=7),
    Column("top-1 %", lambda row: _percent(row.top1)),
    Column("quant.\nloss", lambda row: _number(row.quantization_loss, "+.2f"), leaves=6),
    Column("conv.\nloss", lambda row: _number(row.conversion_loss, "+.2f"), leaves=5),
    Column("SNR\ndB", lambda row: _number(row.snr_db, ".0f"), leaves=1),
    Column("latency", lambda row: "-" if row.latency_ratio is None else f"{row.latency_ratio:.2f}x", leaves=4),
    Column("needs", lambda row: row.requires or "-", figure=False, leaves=0),
)


def shown(row: Row, columns: Iterable[Column] = COLUMNS) -> list[str]:
    """A row's texts; one without figures has its status in place of the first."""
    texts = [column.show(row) for column in columns]
    if row.status != OK and len(texts) > 1:
        texts[1] = row.status
    return texts


def fitting(rows: Collection[Row], width: int, gap: int = 2) -> list[Column]:
    """The columns that show whole in so many characters, with so many between them: fewer where it is narrow."""
    columns = list(COLUMNS)
    while True:
        table = [[*map(len, shown(row, columns))] for row in rows]
        table.append([max(map(len, column.title.split("\n"))) for column in columns])
        leaving = [column for column in columns if column.leaves is not None]
        if not leaving or sum(map(max, zip(*table, strict=True))) + gap * (len(columns) - 1) <= width:
            return columns
        columns.remove(min(leaving, key=lambda column: column.leaves or 0))


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
    return f"{plural(len(found.cells), 'cell')}: {shown}"


_MEANINGS = {
    "quant. loss": "PyTorch with the dequantized weights",
    "conv. loss": "what the file adds",
    "latency": "one image on one thread, against the same backend's fp32 file",
}


def legend(found: Results, columns: Collection[Column] = COLUMNS) -> list[str]:
    """What these columns mean, for someone who sees the table for the first time."""
    names = {column.name for column in columns}
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in _MEANINGS.items() if name in names)
    images = plural(found.data["images"], "image")
    lines = [
        f"float baseline: top-1 {_percent(found.float_top1)} % of {images}; losses are in points of top-1 below "
        "it, positive is worse.",
    ]
    if meanings:
        lines.append(f"{meanings}.")
    if any(row.verified == "emulated" for row in found.cells):
        lines.append(
            "Core ML files were run by mobconv's own executor on this machine (emulated): accuracy, but no latency."
        )
    if "stored" in names and any(row.stored_bits not in (None, row.bits) for row in found.cells):
        lines.append("* stored wider than asked; the reason is below.")
    left = [column.name for column in COLUMNS if column.name not in names]
    if left:
        lines.append(f"Not shown, for want of room: {', '.join(left)}.")
    return lines


def markdown(found: Results) -> str:
    """The whole of the results as a Markdown page."""
    lines = [f"# {found.model['path']}", "", *(f"> {note}\n" for note in found.notes), *legend(found), ""]
    lines.append("| " + " | ".join(column.name for column in COLUMNS) + " |")
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
