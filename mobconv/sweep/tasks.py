"""The parts of a sweep that can be done apart, on a bench: here one after another, or by workers.

Each part has a name. Workers note that they begin one and that it ended, bad or good, so that a part that kills its
worker is known, and not begun a third time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mobconv import backends
from mobconv.errors import CellError
from mobconv.results import Row
from mobconv.schemes import Cell, Compute
from mobconv.sweep.bench import Bench, reason
from mobconv.sweep.store import Network

DEATHS = 2  # of workers, that a part may cause
KILLED = "the process that worked on it died twice (out of memory, or a crash in the converter or runtime)"


@dataclass(frozen=True)
class Prepare:
    """Load network and data and run the float baseline. share: leave the pixels for other processes."""

    share: bool
    name: str = "float baseline"

    def perform(self, bench: Bench) -> Network:
        """What is known of the network. Raises InputError and UsageError."""
        found = bench.network
        if self.share:
            bench.share_images()
        return found

    def failed(self, bench: Bench) -> Any:
        """Nothing goes on without it."""
        raise CellError(f"float baseline: {KILLED}")


@dataclass(frozen=True)
class Convert:
    """One template -> its folder below `.templates` and the seconds it took, or why it cannot be."""

    backend: str
    compute: Compute

    @property
    def name(self) -> str:
        """As it is told."""
        return f"convert to {self.backend} ({self.compute})"

    def perform(self, bench: Bench) -> tuple[str, float] | str:
        """Raises OutputError."""
        bench.program  # noqa: B018  traced outside of the time
        start = time.perf_counter()
        try:
            folder = bench.template(backends.get(self.backend), self.compute)
        except Exception as error:  # a converter may raise anything; its cells say so
            bench.stop_when_full(error)
            return reason(error)
        return folder.name, time.perf_counter() - start

    def failed(self, bench: Bench) -> str:
        """The reason that its cells give."""
        return KILLED


@dataclass(frozen=True)
class Make:
    """One cell, made and measured. timing: also timed."""

    cell: Cell
    key: str
    template: str
    seconds: float
    timing: bool

    @property
    def name(self) -> str:
        """The cell's."""
        return self.cell.name

    def perform(self, bench: Bench) -> Row:
        """Raises OutputError."""
        return bench.make(self.cell, self.key, self.template, self.seconds, self.timing)

    def failed(self, bench: Bench) -> Row:
        """A row that says so."""
        return bench.fail(self.cell, self.key, KILLED)


@dataclass(frozen=True)
class Time:
    """The timings of a cell that was made without."""

    cell: Cell
    key: str

    @property
    def name(self) -> str:
        """As it is told."""
        return f"time {self.cell.name}"

    def perform(self, bench: Bench) -> Row:
        """Raises OutputError."""
        return bench.time(self.cell, self.key)

    def failed(self, bench: Bench) -> Row:
        """A row that says so."""
        return bench.fail(self.cell, self.key, KILLED)


Part = Prepare | Convert | Make | Time


@dataclass(frozen=True)
class Task:
    """Parts that go together: of one scheme, which is quantized once for them."""

    parts: tuple[Part, ...]


def perform(bench: Bench, task: Task) -> Iterator[tuple[Part, Any]]:
    """One part after another, in this process, with what came of it."""
    for part in task.parts:
        yield part, part.perform(bench)


def perform_counted(bench: Bench, task: Task) -> dict[str, Any]:
    """What came of the parts, by name; of those that were done.

    After a part that an earlier worker died of, whatever becomes of it now, the rest is left: it is asked for again.
    """
    done: dict[str, Any] = {}
    for part in task.parts:
        before = bench.store.attempt(part.name)
        try:
            done[part.name] = part.failed(bench) if before >= DEATHS else part.perform(bench)
        finally:
            bench.store.ended(part.name)
        if before:
            break
    return done
