"""Shared by all benchmarks: arguments, timing in turn, verdicts, and the section that each benchmark writes.

Times are only compared within one run, and in turn: A, B, A, B. The report has the median of the rounds' ratios and, as
spread, the range of their middle half (quartiles). A busy minute of the machine then slows both sides, and shows in the
spread.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mobconv.common import memory

# As the command line does (mobconv/cli/app.py), and before torch is loaded: both sides of every ratio get it.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
memory.keep_freed()

if TYPE_CHECKING:
    from mobconv.data.labelled import Images
    from mobconv.model.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "fixtures"
CHECKPOINT = FIXTURES / "digits-mobilenet-v2.safetensors"
DATA = FIXTURES / "digits-test.parquet"


@dataclass
class Verdict:
    """A figure and its limit. Without a limit the figure is only printed."""

    what: str
    value: float
    limit: float | None = None
    at_least: bool = False
    spread: tuple[float, float] | None = None
    detail: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the limit is met; None without a limit. NaN meets no limit."""
        if self.limit is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def cells(self) -> list[str]:
        """Figure, spread, limit and verdict, as cells of a table's row."""
        spread = "" if self.spread is None else f"{figure(self.spread[0])} to {figure(self.spread[1])}"
        limit = "" if self.limit is None else f"{'at least' if self.at_least else 'at most'} {figure(self.limit)}"
        word = {True: "met", False: "**missed**", None: ""}[self.met]
        return [self.what, figure(self.value), spread, limit, word, self.detail]


@dataclass
class Table:
    """Headers and rows of text; `caption` is a line above the table."""

    headers: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    caption: str = ""

    def markdown(self) -> str:
        """The table in Markdown; columns of figures are aligned right."""
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * len(self.headers)
        rules = ["---:" if column and all(_numeric(cell) for cell in column) else "---" for column in columns]
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.headers, rules, *self.rows)]
        return "\n".join(([self.caption, ""] if self.caption else []) + lines)


@dataclass
class Section:
    """One benchmark's part of RESULTS.md. notes: the conditions under which the figures were measured."""

    title: str
    verdicts: list[Verdict]
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    subject: str = ""

    def markdown(self, command: str) -> str:
        """The section in Markdown: verdicts on top, then tables and notes."""
        missed = sum(verdict.met is False for verdict in self.verdicts)
        limits = sum(verdict.met is not None for verdict in self.verdicts)
        summary = f"{limits - missed} of {limits} limits met." if limits else "No limits here."
        head = Table(["figure", "value", "spread", "limit", "", "of"], [v.cells() for v in self.verdicts])
        parts = [f"## {self.title}", f"`{command}` on {self.subject}. {summary}"]
        if self.verdicts:
            parts.append(head.markdown())
        parts += [table.markdown() for table in self.tables]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(parts) + "\n"


def _numeric(cell: str) -> bool:
    return not cell or cell.strip("*-—% ")[:1].isdigit()


def figure(value: float | None) -> str:
    """A figure with three significant digits; without decimals from 1000 on; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "—"
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}" if digits <= 6 else f"{value:.2e}"


@dataclass
class Times:
    """Seconds of each contender, round by round."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of one contender."""
        return float(np.median(self.seconds[name]))

    def ratios(self, name: str, to: str) -> np.ndarray:
        """Ratios of two contenders' seconds, (rounds,)."""
        return np.asarray(self.seconds[name]) / np.asarray(self.seconds[to])

    def ratio(self, name: str, to: str) -> float:
        """Median of the rounds' ratios."""
        return float(np.median(self.ratios(name, to)))

    def spread(self, name: str, to: str) -> tuple[float, float]:
        """Quartiles of the rounds' ratios."""
        low, high = np.percentile(self.ratios(name, to), (25, 75))
        return float(low), float(high)

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(next(iter(self.seconds.values())))


def in_turn(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    seconds: float = math.inf,
    warm: int = 1,
    least: int = 1,
) -> Times:
    """Run all contenders once a round, in order, for `rounds` rounds.

    After `seconds` no round begins, except that there are at least `least` rounds. warm: number of rounds before, which
    are not timed. Garbage is collected before the first timed round, and never during one.
    """
    import gc

    for _ in range(warm):
        for run in contenders.values():
            run()
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    enabled, stop = gc.isenabled(), time.perf_counter() + seconds
    gc.collect()
    gc.disable()
    try:
        for done in range(rounds):
            if done >= least and time.perf_counter() > stop:
                break
            for name, run in contenders.items():
                start = time.perf_counter()
                run()
                spent[name].append(time.perf_counter() - start)
    finally:
        if enabled:
            gc.enable()
    return Times(spent)


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Silence the progress bars, logs and warnings of vendors. Both sides of a ratio run inside."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _stderr_to_nowhere():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _stderr_to_nowhere() -> Iterator[None]:
    """Silence the stderr of the process, not only of Python: the runtimes log from C++."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device
        os.dup2(nowhere.fileno(), 2)
        try:
            with contextlib.redirect_stderr(nowhere):
                yield
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


@dataclass
class Options:
    """Arguments of all benchmarks, and of `overhead` its recipe and keep."""

    checkpoint: Path
    data: Path
    quick: bool
    threads: int
    recipe: Path | None = None
    keep: Path | None = None
    scratch: Path = Path()

    def load(self, input_shape: tuple[int, ...] | None = None) -> Checkpoint:
        """Load the trained network; input_shape: in place of the checkpoint's."""
        from mobconv.model import checkpoint

        return checkpoint.load(self.checkpoint, checkpoint.Options(input_shape=input_shape))

    def images(self) -> Images:
        """Load the test images: all 2,000, with --quick the first 200."""
        from mobconv.data import labelled

        return labelled.load(str(self.data), 200 if self.quick else None)

    @property
    def subject(self) -> str:
        """The checkpoint's name, and its numbers of parameters and of weights to quantize."""
        from math import prod

        network = self.load()
        sites = network.trace().sites.values()
        count = sum(parameter.numel() for parameter in network.module.parameters())
        weights = sum(prod(site.shape) for site in sites)
        return (
            f"`{self.checkpoint.name}`, {count:,} parameters, {weights:,} of them in {len(sites)} weights to quantize"
        )


def main(description: str | None, build: Callable[[Options], Section], *more: Callable[[Any], None]) -> int:
    """Run one benchmark as a command: print its section, or write it to the file of --write, for run.py.

    more: functions that add arguments. The exit code is 0 also for a missed limit: the table says so.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="trained network (%(default)s)")
    parser.add_argument("--data", type=Path, default=DATA, help="test images (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, cells and images: to try the script")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of both sides (%(default)s)")
    parser.add_argument("--write", type=Path, help="write the section as JSON, for run.py")
    for add in more:
        add(parser)
    given = parser.parse_args()
    if not given.checkpoint.exists():
        parser.error(f"{given.checkpoint}: no such file; fixtures/train.py makes it, or name another")
    with tempfile.TemporaryDirectory(prefix="mobconv-bench-") as scratch:
        paths = {name: getattr(given, name, None) for name in ("recipe", "keep")}  # arguments of overhead only
        options = Options(given.checkpoint, given.data, given.quick, given.threads, **paths)
        options.scratch = Path(scratch)
        start = time.perf_counter()
        section = build(options)
        section.subject = section.subject or options.subject
        if given.quick:
            section.notes.insert(0, "Made with --quick: to try the script, not to be quoted.")
    text = section.markdown(_command())
    if given.write:
        took = time.perf_counter() - start
        given.write.write_text(
            json.dumps({"verdicts": list(map(asdict, section.verdicts)), "markdown": text, "took": took})
        )
    else:
        print(text)
    return 0


def _command() -> str:
    """This command as a reader would type it: paths relative to the repository, without --write and --keep."""
    arguments = iter(sys.argv[1:])
    kept = []
    for argument in arguments:
        if argument in ("--write", "--keep"):
            next(arguments, None)
        else:
            path = Path(argument)
            inside = path.is_absolute() and path.is_relative_to(ROOT)
            kept.append(str(path.relative_to(ROOT)) if inside else argument)
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *kept])


def progress(text: str) -> None:
    """Print on stderr what is being measured now."""
    print(f"  {text}", file=sys.stderr, flush=True)
