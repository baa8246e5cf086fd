"""Tables and progress on a terminal; plain lines where there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from mobconv.cli import stopping
from mobconv.common.text import size
from mobconv.errors import worded
from mobconv.evaluate.tasks import Metric
from mobconv.results import FAILED, OK, Results, Row, tables
from mobconv.schemes import WEIGHTS_ONLY, Cell
from mobconv.sweep import Watcher

WIDE = 100  # columns that the whole table of `report A B` takes
_PLAIN_WIDTH = 160  # tables in a log file are not folded at 80 columns


def console(stderr: bool = False) -> Console:
    """A console; wide where the output is not a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _PLAIN_WIDTH, highlight=False)


class _Counting(Watcher):
    """Progress of a sweep.

    names    of its cells; total: their number
    name     of the checkpoint; metric: of the rows
    done     number of finished cells; waiting: cells that are built but not timed
    """

    metric: Metric

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.total, self.name, self.done = 0, "", 0
        self.waiting: set[str] = set()

    def begin(self, cells: Sequence[Cell], checkpoint: str, metric: Metric) -> None:
        self.names, self.total = {cell.name for cell in cells}, len(cells)
        self.name, self.metric = checkpoint, metric

    def kept(self, kept: int, untimed: Sequence[str], total: int) -> None:
        self.done, self.waiting, valid = kept, set(untimed), kept + len(untimed)
        if valid:
            rest = f"{total - valid} to make" if valid < total else "nothing to make"
            rest += f", {len(untimed)} to time" if untimed else ""
            hint = " (--fresh rebuilds everything)" if kept == total else ""
            self.say(f"{valid} of {total} cells are as they were; {rest}{hint}")

    def untimed(self, row: Row) -> None:
        self.waiting.add(row.cell)

    def stopped(self) -> str:
        """The state of an interrupted sweep."""
        timing = f" and {len(self.waiting)} made but not timed" if self.waiting else ""
        return f"{self.done} of {self.total} cells are done{timing}, and kept; the same command goes on from there"

    def note(self, text: str) -> None:
        self.say(f"{self.name}: {text}")

    def row(self, row: Row) -> None:
        self.done += 1
        self.waiting.discard(row.cell)

    def say(self, text: str) -> None:
        """A line for people, on stderr."""
        print(worded(text, "cli"), file=sys.stderr, flush=True)


class _Bar(_Counting):
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress
        self.task = progress.add_task("loading", total=None)

    def begin(self, cells: Sequence[Cell], checkpoint: str, metric: Metric) -> None:
        super().begin(cells, checkpoint, metric)
        self.progress.update(self.task, total=self.total)

    def say(self, text: str) -> None:
        self.progress.console.print(escape(worded(text, "cli")))

    def stage(self, text: str) -> None:
        stopping.check()
        self.progress.update(self.task, description=escape(text))

    def kept(self, kept: int, untimed: Sequence[str], total: int) -> None:
        super().kept(kept, untimed, total)
        self._moved()

    def untimed(self, row: Row) -> None:
        stopping.check()
        super().untimed(row)
        self._moved(description=row.cell)

    def row(self, row: Row) -> None:
        stopping.check()
        super().row(row)
        if row.status == FAILED:
            self.progress.console.print(f"[red]failed[/red] {escape(row.cell)}: {escape(row.reason)}")
        self._moved(description=row.cell)

    def _moved(self, description: str | None = None) -> None:
        """A cell that is built but not timed counts half."""
        self.progress.update(self.task, completed=self.done + len(self.waiting) / 2, description=description)


class _Lines(_Counting):
    def stage(self, text: str) -> None:
        stopping.check()
        if not text.startswith(("quantize", "run ")):  # a line for the cell itself follows
            self.say(text)

    def row(self, row: Row) -> None:
        stopping.check()
        super().row(row)
        self.say(f"[{self.done}/{self.total}] {self._outcome(row)}")

    def untimed(self, row: Row) -> None:
        stopping.check()
        super().untimed(row)
        self.say(f"{self._outcome(row)}, to be timed")

    def _outcome(self, row: Row) -> str:
        score = f"{self.metric.name} {self.metric.text(row.score)}"
        return f"{row.cell} " + (score if row.score is not None else f"{row.status}: {row.reason}")


@contextmanager
def watching() -> Iterator[_Counting]:
    """A progress bar on a terminal, a line for each cell elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (TextColumn("{task.description}", justify="left"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        yield _Bar(progress)


def results(measured: Results) -> None:
    """Print the table of a sweep, its cliffs and remarks on stdout."""
    out = console()
    columns = tables.fitting(measured, out.width)
    out.print(rows(measured.cells, columns))
    for line in tables.legend(measured, columns):
        out.print(escape(line), style="dim")
    if measured.cliffs:
        out.print(f"\nCliffs ({escape(tables.cliffs_heading(measured))}):")
        for cliff in measured.cliffs:
            line = tables.cliff_line(cliff, measured.metric)
            out.print(f"  {escape(line)}", style="yellow" if cliff.bits else "")
    remarks(out, tables.remarks(measured.cells))
    out.print(f"\n{tables.summary(measured)}")


def remarks(out: Console, lines: Sequence[str]) -> None:
    """Print lines under the heading `Remarks`, if there are any."""
    if lines:
        out.print("\nRemarks:")
    for line in lines:
        out.print(f"  {escape(line)}")


def rows(cells: Sequence[Row], columns: Sequence[tables.RowColumn]) -> Table:
    """Rows as a table, backends apart, dim where unsupported and red where failed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.title, justify="right" if column.figure else "left", no_wrap=True)
    for position, row in enumerate(cells):
        if position and cells[position - 1].backend != row.backend:
            table.add_row()
        style = {OK: "", FAILED: "red"}.get(row.status, "dim")
        table.add_row(*map(escape, tables.texts(row, columns)), style=style)
    return table


def exported(cells: Sequence[Row], data: str | None = None, metric: Metric | None = None) -> None:
    """Print the files that `mobconv export` wrote, as a table.

    data, metric: that they were run on, and judged by; None for random inputs.
    """
    out, table = console(), Table(box=None, pad_edge=False, header_style="bold")
    titles = ["file", "size", "eff. bits", "SNR dB", *([metric.heading] if metric else []), "latency", "", "needs"]
    for title in titles:
        table.add_column(title, justify="left" if title in ("file", "needs") else "right", no_wrap=title != "file")
    for row in cells:
        if row.status != OK:
            table.add_row(row.cell, row.status, style="red" if row.status == FAILED else "dim")
            continue
        timed = row.latency_ms is not None and row.latency_ratio is not None
        table.add_row(
            escape(str(row.path)),
            size(row.file_bytes),
            "-" if row.effective_bits is None else f"{row.effective_bits:.2f}",
            tables.snr(row),
            *([metric.number(row.score)] if metric else []),
            f"{row.latency_ms:.2f} ms" if timed else "not measured here",
            f"{row.latency_ratio:.2f}x float" if timed else "",
            row.requires or "-",
        )
    out.print(table)
    where = f"on {data}" if data else "on random inputs (`--data`: on images of your own)"
    judged = next((row for row in cells if metric and row.float_score is not None), None)
    lines = [
        *([f"PyTorch: {metric.name} {metric.text(judged.float_score)}"] if metric and judged else []),
        f"SNR: of the outputs against PyTorch, {where}; 20 dB more is a tenth of the error",
        "eff. bits: bytes that the weights add to the file, in bits per weight",
        "latency: one sample on one thread, and as a multiple of the same format's fp32 file",
    ]
    text = "; ".join(lines) + "."
    if any(row.bits < 16 for row in cells):
        text += f" {WEIGHTS_ONLY}."
    out.print(escape(text), style="dim")
    remarks(out, tables.remarks(cells))


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """A function that prints the stage of the work: in a spinner on a terminal, else as lines; on stderr."""
    shown = console(stderr=True)
    if not shown.is_terminal:

        def line(text: str) -> None:
            stopping.check()
            print(worded(text, "cli"), file=sys.stderr, flush=True)

        yield line
        return
    with shown.status("loading") as status:

        def update(text: str) -> None:
            stopping.check()
            status.update(escape(worded(text, "cli")))

        yield update
