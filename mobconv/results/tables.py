"""Rows of results as text: the same columns for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from mobconv.common.text import plural, size
from mobconv.evaluate.tasks import Metric
from mobconv.results.rows import FAILED, OK, UNSUPPORTED, Cliff, Results, Row


@dataclass(frozen=True)
class RowColumn:
    """A column of the table of rows.

    title   its heading, broken into lines for a terminal
    show    text of a row's cell
    figure  whether it is a number, which is set to the right
    drop    its place among the columns that a narrow terminal leaves out: 0 goes first, None is always shown
    """

    title: str
    show: Callable[[Row], str]
    figure: bool = True
    drop: int | None = None

    @property
    def name(self) -> str:
        """The heading on one line."""
        return self.title.replace("\n", " ")


def some(names: Collection[str], most: int = 6) -> str:
    """All of a few names; of many the first ones and how many more there are."""
    first = list(names)[: most - 1]
    return ", ".join(names) if len(names) <= most else f"{', '.join(first)} and {len(names) - len(first)} more"


def _number(value: float | None, pattern: str) -> str:
    return "-" if value is None else format(value, pattern)


def _stored(row: Row) -> str:
    """The width on disk, with a mark where it is another than the scheme's."""
    if row.stored_bits is None:
        return "-"
    return f"{row.stored_bits}" + ("*" if row.stored_bits != row.bits else "")


@lru_cache(maxsize=16)
def columns(metric: Metric) -> tuple[RowColumn, ...]:
    """All columns of a table of rows that are judged by this metric."""
    return (
        RowColumn("cell", lambda row: row.cell, figure=False),
        RowColumn("stored", _stored, drop=2),
        RowColumn("eff.\nbits", lambda row: _number(row.effective_bits, ".2f"), drop=3),
        RowColumn("size", lambda row: size(row.file_bytes), drop=7),
        RowColumn(metric.heading, lambda row: metric.number(row.score)),
        RowColumn("quant.\nloss", lambda row: metric.loss_text(row.quantization_loss), drop=6),
        RowColumn("conv.\nloss", lambda row: metric.loss_text(row.conversion_loss), drop=5),
        RowColumn("SNR\ndB", lambda row: _number(row.snr_db, ".0f"), drop=1),
        RowColumn("latency", lambda row: "-" if row.latency_ratio is None else f"{row.latency_ratio:.2f}x", drop=4),
        RowColumn("needs", lambda row: row.requires or "-", figure=False, drop=0),
    )


def texts(row: Row, shown: Collection[RowColumn]) -> list[str]:
    """Texts of a row in these columns; a row without figures has its status in place of the first figure."""
    cells = [column.show(row) for column in shown]
    if row.status != OK and len(cells) > 1:
        cells[1] = row.status
    return cells


def fitting(results: Results, width: int, gap: int = 2) -> list[RowColumn]:
    """The columns that show whole in a line of `width` characters, `gap` between two columns."""
    shown = list(columns(results.metric))
    while True:
        lengths = [[*map(len, texts(row, shown))] for row in results.cells]
        lengths.append([max(map(len, column.title.split("\n"))) for column in shown])
        optional = [column for column in shown if column.drop is not None]
        if not optional or sum(map(max, zip(*lengths, strict=True))) + gap * (len(shown) - 1) <= width:
            return shown
        shown.remove(min(optional, key=lambda column: column.drop or 0))


def remarks(rows: Iterable[Row]) -> list[str]:
    """Each reason and note once, with the cells that have it."""
    cells: dict[str, list[str]] = {}
    for row in rows:
        for text in (row.reason, row.note):
            if text:
                mark = "" if row.status == OK else f"{row.status}: "
                cells.setdefault(mark + text, []).append(row.cell)
    return [f"{text} ({some(names)})" for text, names in cells.items()]


def snr(row: Row) -> str:
    """Decibels of a file's outputs against the untouched module's; 'equal' where they are, '-' where not compared."""
    if row.float_snr_db is not None:
        return f"{row.float_snr_db:.0f}"
    return "equal" if row.float_error == 0 else "-"


def cliff_line(cliff: Cliff, metric: Metric) -> str:
    """One cliff as a sentence."""
    usual = ((cliff.algorithm, "mse"), (cliff.storage, "packed"), (cliff.compute, "fp32"))  # goes without saying
    other = "".join(f", {part}" for part, default in usual if part != default)
    cells = f"{cliff.backend} {cliff.mode} per {cliff.granularity}{other}"
    if cliff.bits is None:
        return f"{cells}: no cliff among the widths measured"
    return f"{cells}: falls off at {plural(cliff.bits, 'bit')} ({metric.name} {metric.text(cliff.score)})"


def cliffs_heading(results: Results) -> str:
    """The definition of a cliff, as the heading of their list: 'MAE more than 0.5 px above the float baseline'."""
    return f"{results.metric.name} {results.metric.beyond(results.cliffs[0].margin)} the float baseline"


def summary(results: Results) -> str:
    """Counts of rows by status, in one line."""
    counts = {status: sum(row.status == status for row in results.cells) for status in (OK, UNSUPPORTED, FAILED)}
    listed = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    return f"{plural(len(results.cells), 'cell')}: {listed}"


_MEANINGS = {
    "quant. loss": "PyTorch with the dequantized weights",
    "conv. loss": "what the file adds",
    "latency": "one {sample} on one thread, against the same backend's fp32 file",
}


def legend(results: Results, shown: Collection[RowColumn] | None = None) -> list[str]:
    """Meaning of columns (by default of all), for someone who sees the table for the first time."""
    metric = results.metric
    every = columns(metric)
    names = {column.name for column in (every if shown is None else shown)}
    meanings = "; ".join(
        f"{name}: {meaning.format(sample=results.sample)}" for name, meaning in _MEANINGS.items() if name in names
    )
    of = "of" if metric.full else "on"
    lines = [
        f"float baseline: {metric.name} {metric.text(results.float_score)} {of} "
        f"{plural(results.data['samples'], results.sample)}; losses are in {metric.losses} {metric.worse_side} it, "
        "positive is worse.",
    ]
    if meanings:
        lines.append(f"{meanings}.")
    if any(row.verified == "emulated" for row in results.cells):
        lines.append("Emulated files were run by mobconv's own executor on this machine: accuracy, but no latency.")
    if "stored" in names and any(row.stored_bits not in (None, row.bits) for row in results.cells):
        lines.append("* stored wider than asked; the reason is below.")
    hidden = [column.name for column in every if column.name not in names]
    if hidden:
        lines.append(f"Left out, as the terminal is too narrow: {', '.join(hidden)}.")
    return lines


def markdown(results: Results) -> str:
    """The whole of the results as a Markdown page."""
    metric = results.metric
    every = columns(metric)
    lines = [f"# {results.model['path']}", "", *(f"> {note}\n" for note in results.notes), *legend(results), ""]
    lines.append("| " + " | ".join(column.name for column in every) + " |")
    lines.append("| " + " | ".join("---:" if column.figure else "---" for column in every) + " |")
    lines += ["| " + " | ".join(column.show(row) for column in every) + " |" for row in results.cells]
    if results.cliffs:
        beyond = metric.beyond(results.cliffs[0].margin)
        lines += ["", "## Cliffs", "", f"Where {metric.name} first {metric.worsens} {beyond} the baseline:", ""]
        lines += [f"- {cliff_line(cliff, metric)}" for cliff in results.cliffs]
    listed = remarks(results.cells)
    if listed:
        lines += ["", "## Remarks", "", *(f"- {text}" for text in listed)]
    lines += ["", summary(results) + ".", ""]
    return "\n".join(lines)
