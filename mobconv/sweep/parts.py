"""The parts of a sweep that can be done apart: here one after another, or by workers.

Each part has a name. Workers record that they begin a part and that it ended, so that a part that kills its worker is
known, and not begun a third time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mobconv import backends
from mobconv.errors import CellError
from mobconv.pipeline.calibration_data import CalibrationFacts
from mobconv.results import Row
from mobconv.schemes import Cell, Compute
from mobconv.sweep import cells
from mobconv.sweep.context import SweepContext
from mobconv.sweep.store import FloatBaseline

DEATHS = 2  # of workers, that a part may cause
KILLED = "the process that worked on it died twice (out of memory, or a crash in the converter or runtime)"


@dataclass(frozen=True)
class Prepare:
    """Load network and data and run the float baseline. share: write the pixels for other processes."""

    share: bool
    name: str = "float baseline"

    def perform(self, context: SweepContext) -> FloatBaseline:
        """The float baseline. Raises InputError and UsageError."""
        baseline = context.baseline
        if self.share:
            context.share_data()
        return baseline

    def failed(self, context: SweepContext) -> Any:
        """Raise CellError: nothing goes on without the baseline."""
        raise CellError(f"float baseline: {KILLED}")


@dataclass(frozen=True)
class Calibrate:
    """Choose calibration samples, and compare them with the data. share: write them for other processes."""

    share: bool
    name: str = "calibration data"

    def perform(self, context: SweepContext) -> CalibrationFacts:
        """What rows say of the samples. Raises InputError and UsageError."""
        facts = context.calibration_facts
        if self.share:
            context.share_calibration()
        return facts

    def failed(self, context: SweepContext) -> Any:
        """Raise CellError: no cell that uses the samples can be made."""
        raise CellError(f"calibration data: {KILLED}")


@dataclass(frozen=True)
class Convert:
    """One template -> its folder below `.templates` and the seconds it took, or the reason why there is none."""

    backend: str
    compute: Compute

    @property
    def name(self) -> str:
        """Shown to people."""
        return f"convert to {self.backend} ({self.compute})"

    def perform(self, context: SweepContext) -> tuple[str, float] | str:
        """Raises OutputError."""
        context.program  # noqa: B018  traced outside of the time
        start = time.perf_counter()
        try:
            folder = context.template(backends.get(self.backend), self.compute)
        except Exception as error:  # a converter may raise anything; its cells say so
            cells.stop_when_full(context, error)
            return cells.reason(error)
        return folder.name, time.perf_counter() - start

    def failed(self, context: SweepContext) -> str:
        """The reason that its cells give."""
        return KILLED


@dataclass(frozen=True)
class Make:
    """One cell, built and measured. timing: also timed."""

    cell: Cell
    key: str
    template: str
    seconds: float
    timing: bool

    @property
    def name(self) -> str:
        """The cell's."""
        return self.cell.name

    def perform(self, context: SweepContext) -> Row:
        """Raises OutputError."""
        return cells.make(context, self.cell, self.key, self.template, self.seconds, self.timing)

    def failed(self, context: SweepContext) -> Row:
        """A row that says so."""
        return cells.fail(context, self.cell, self.key, KILLED)


@dataclass(frozen=True)
class Time:
    """The timings of a cell that was made without."""

    cell: Cell
    key: str

    @property
    def name(self) -> str:
        """Shown to people."""
        return f"time {self.cell.name}"

    def perform(self, context: SweepContext) -> Row:
        """Raises OutputError."""
        return cells.time_cell(context, self.cell, self.key)

    def failed(self, context: SweepContext) -> Row:
        """A row that says so."""
        return cells.fail(context, self.cell, self.key, KILLED)


Part = Prepare | Calibrate | Convert | Make | Time


@dataclass(frozen=True)
class Chunk:
    """Parts that go to one process together: of one scheme, which is quantized once for them."""

    parts: tuple[Part, ...]


def perform(context: SweepContext, chunk: Chunk) -> Iterator[tuple[Part, Any]]:
    """Do one part after another, in this process; yields each with its result."""
    for part in chunk.parts:
        yield part, part.perform(context)


def perform_counted(context: SweepContext, chunk: Chunk) -> dict[str, Any]:
    """Results by name of the parts that were done.

    After a part that an earlier worker died of, whether it succeeds now or not, the rest is left to another call.
    """
    results: dict[str, Any] = {}
    for part in chunk.parts:
        before = context.store.attempt(part.name)
        try:
            results[part.name] = part.failed(context) if before >= DEATHS else part.perform(context)
        finally:
            context.store.ended(part.name)
        if before:
            break
    return results
