"""Run a sweep: reuse valid cells, build the rest, write results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

from mobconv import backends, results
from mobconv import recipe as recipes
from mobconv.common import files, locks
from mobconv.common.text import plural
from mobconv.common.version import __version__
from mobconv.errors import UsageError, setting
from mobconv.evaluate import tasks
from mobconv.pipeline.calibration_data import UNUSED, CalibrationFacts
from mobconv.results import FAILED, OK, UNSUPPORTED, Results, Row, tables
from mobconv.results.scores import arrays
from mobconv.schemes import Cell, Compute
from mobconv.sweep import keys, workers
from mobconv.sweep.context import SweepContext
from mobconv.sweep.job import Job, Watcher
from mobconv.sweep.parts import Calibrate, Chunk, Convert, Make, Part, Prepare, Time
from mobconv.sweep.store import FloatBaseline, Record, Store
from mobconv.sweep.workers import Team

# a folder of a template and the seconds its conversion took, or why there is none
Template = tuple[str, float] | str


class Sweep:
    """One run over cells. Rows are in the order of the recipe, in whatever order cells are built.

    jobs: processes that work side by side; cluster: address of a Dask scheduler, whose workers do; fresh: reuse nothing
    of earlier sweeps for the cells that are asked for.
    """

    def __init__(
        self,
        job: Job,
        out: Path,
        watcher: Watcher | None = None,
        jobs: int = 1,
        cluster: str | None = None,
        fresh: bool = False,
    ) -> None:
        self.job, self.recipe, self.out = job, job.recipe, out
        self.watcher = watcher or Watcher()
        self.jobs, self.cluster, self.fresh = jobs, cluster, fresh
        self.store = Store(out)
        self._templates: dict[tuple[str, Compute], Template] = {}

    def run(self, cells: Sequence[Cell]) -> Results:
        """Build and measure every cell without a valid record, and write the results beside the artifacts.

        Cells of the recipe that are not asked for keep the rows of earlier sweeps where these are still valid. A cell
        that fails is a row, and the next one follows; OutputError and interruptions end the sweep, and the next run
        goes on from there. Raises LockedError where another process works in the folder.
        """
        files.ensure_folder(self.out)
        with locks.folder(self.out, "mobconv sweep"):
            self.store.begin(cells if self.fresh else ())
            try:
                return self._run(cells)
            finally:
                self.store.end()

    def _run(self, cells: Sequence[Cell]) -> Results:
        inputs = keys.inputs(self.job)
        refused = refusals(self.job.cells)
        wanted = [cell for cell in cells if cell not in refused]
        context = SweepContext(self.job, inputs, self.store, self.recipe.threads, self.watcher.stage)
        with self._team(context) as team:
            baseline = self.store.baseline(inputs.baseline) if inputs.data else None
            facts = self.store.calibration(inputs.facts) if inputs.data and inputs.calibration else None
            calibrating = any(self.recipe.calibrates(cell.scheme) for cell in self.job.cells if cell not in refused)
            if baseline is None or (calibrating and facts is None):
                baseline, facts = self._prepare(team, wanted, baseline, calibrating, facts)
            self.recipe.check_layers(baseline.sites)
            team.know(baseline)
            if not inputs.followed:
                self.watcher.note("its code cannot be followed (a pickled module): all cells are built again")
            notes = [*baseline.notes, *self._notes_on_calibration(calibrating, facts)]
            for note in notes:
                self.watcher.note(note)
            supported = [cell for cell in self.job.cells if cell not in refused]
            cell_keys = {cell: keys.cell(inputs, baseline, self.job, cell, facts) for cell in supported}
            records = {cell: record for cell in supported if (record := self.store.get(cell, cell_keys[cell]))}
            missing = [cell for cell in wanted if cell not in records or records[cell].row.status != OK]
            untimed = [cell for cell in wanted if cell not in missing and not records[cell].timed]
            valid = len(wanted) - len(missing) - len(untimed)
            self.watcher.kept(valid, [cell.name for cell in untimed], len(wanted))
            self._note_leftovers([cell for cell in supported if cell not in wanted and cell not in records])
            for cell in cells:
                if cell in refused:
                    self.watcher.row(refused[cell])
            if missing or untimed:
                # results of an earlier sweep that this run's files will no longer match, should it be killed
                results.withdraw(self.out)
                self._make(team, missing, untimed, cell_keys)
        records |= {cell: self._finished(cell, cell_keys[cell]) for cell in (*missing, *untimed)}
        rows = {cell: record.row for cell, record in records.items()}
        rows |= {cell: row for cell, row in refused.items() if cell in cells}
        return self._write([cell for cell in self.job.cells if cell in rows], rows, baseline, records, notes)

    def _note_leftovers(self, stale: Sequence[Cell]) -> None:
        """Name files in the folder that have no row in its results any more. stale: cells that were not asked for."""
        recorded = self.store.names()
        lost = [cell.name for cell in stale if cell.name in recorded]
        if lost:
            self.watcher.note(
                f"rows of {plural(len(lost), 'other cell')} are no longer valid and are left out: {_some(lost)}. "
                "Their inputs have changed; a sweep of all cells builds them again"
            )
        known = {cell.name for cell in self.job.cells}
        others = [name for name in recorded if name not in known]
        if others:
            self.watcher.note(
                f"{self.out} has {plural(len(others), 'file')} of another recipe, in no row of this one: "
                f"{_some(others)}"
            )

    def _team(self, context: SweepContext) -> AbstractContextManager[Team]:
        if self.cluster is not None:
            return workers.cluster(self.cluster, context)
        return workers.processes(self.jobs, context) if self.jobs > 1 else workers.alone(context)

    def _notes_on_calibration(self, calibrating: bool, facts: CalibrationFacts | None) -> list[str]:
        """What was chosen of the calibration data; or that none is needed, where there is some."""
        if calibrating and facts is not None:
            return [f"{facts.source}: {note}" for note in facts.notes]
        wanted = self.recipe.calibration
        return [] if calibrating or wanted is None else [f"{wanted.data}: {UNUSED}"]

    def _prepare(
        self,
        team: Team,
        wanted: Sequence[Cell],
        baseline: FloatBaseline | None,
        calibrating: bool,
        facts: CalibrationFacts | None,
    ) -> tuple[FloatBaseline, CalibrationFacts | None]:
        """Choose calibration data and run the float baseline, unless they are recorded.

        With workers, convert templates at the same time.
        """
        parts: list[Part] = [Calibrate(team.shared)] if calibrating and facts is None else []
        parts += [Prepare(team.shared)] if baseline is None else []
        conversions = self._conversions(wanted) if team.shared and baseline is None else []
        chunks = [Chunk(tuple(parts)), *conversions]
        if team.shared:
            begun = ", ".join(part.name for part in parts)
            begun += f" and {plural(len(conversions), 'conversion')}" if baseline is None else ""
            self.watcher.stage(f"{begun}, {team.described}")
        for part, result in team.run(chunks):
            if isinstance(part, Prepare):
                baseline = result
                self.recipe.check_layers(result.sites)
            elif isinstance(part, Calibrate):
                facts = result
            else:
                assert isinstance(part, Convert)
                self._templates[part.backend, part.compute] = result
        assert baseline is not None
        return baseline, facts

    def _conversions(self, cells: Sequence[Cell]) -> list[Chunk]:
        """The templates that cells need and that this run has not converted."""
        pairs = dict.fromkeys((cell.backend, cell.compute) for cell in cells)
        return [Chunk((Convert(*pair),)) for pair in pairs if pair not in self._templates]

    def _make(self, team: Team, missing: Sequence[Cell], untimed: Sequence[Cell], cell_keys: dict[Cell, str]) -> None:
        """Make cells, scheme by scheme, so that one quantization serves all backends, then time the untimed ones.

        Workers time nothing while others work beside them: latency would be that of a busy machine.
        """
        for cell in missing:
            self.store.forget(cell)
        calibrating = any(self.recipe.calibrates(cell.scheme) for cell in missing)
        for part, result in team.run([*team.preparation(calibrating), *self._conversions(missing)]):
            if isinstance(part, Convert):
                self._templates[part.backend, part.compute] = result
        by_scheme: dict[str, list[Make]] = {}
        for cell in missing:
            template = self._templates[cell.backend, cell.compute]
            if isinstance(template, str):
                row = Row.of(cell, FAILED, reason=f"conversion: {template}")
                self.store.put(cell, Record(cell_keys[cell], row))
                self.watcher.row(row)
            else:
                part = Make(cell, cell_keys[cell], *template, timing=not team.shared)
                by_scheme.setdefault(cell.scheme.name, []).append(part)
        due = [Time(cell, cell_keys[cell]) for cell in untimed]
        if team.shared and missing:
            self.watcher.stage(f"{len(missing)} cells, {team.described}")
        for part, row in team.run(team.spread([Chunk(tuple(parts)) for parts in by_scheme.values()])):
            record = self.store.get(part.cell, part.key)
            if record is not None and not record.timed:
                due.append(Time(part.cell, part.key))
                self.watcher.untimed(row)
            else:
                self.watcher.row(row)
        if due:
            self.watcher.stage(f"timings of {len(due)} cells, one after another")
        for _, row in team.run([Chunk((part,)) for part in due], apart=True):
            self.watcher.row(row)

    def _finished(self, cell: Cell, key: str) -> Record:
        """The record of a cell of this run."""
        record = self.store.get(cell, key)
        if record is None:  # another program changed the folder, in spite of the lock
            row = Row.of(cell, FAILED, reason="its file was changed while the sweep ran; run the same command again")
            record = Record(key, row)
        return record

    def _write(
        self,
        cells: Sequence[Cell],
        rows: dict[Cell, Row],
        baseline: FloatBaseline,
        records: dict[Cell, Record],
        notes: list[str],
    ) -> Results:
        ordered = [rows[cell] for cell in cells]
        versions = {"mobconv": __version__, "torch": version("torch")}
        for name in dict.fromkeys(row.backend for row in ordered):
            if backends.get(name).missing() is None:
                versions.update(backends.get(name).versions())
        task = self.job.task
        metric = task.metric
        outcome = Results(
            model={
                "path": baseline.name,
                "sha256": baseline.sha256,
                "parameters": baseline.parameters,
                "quantizable_weights": baseline.quantizable_weights,
            },
            data={
                "source": baseline.source,
                "sha256": baseline.data_sha256,
                "split": baseline.split,
                "skipped": baseline.skipped,
                "samples": baseline.samples,
                "kind": baseline.kind,
            },
            tools=versions,
            task=results.task_fields(task.name, metric, tasks.further(task)),
            float_score=baseline.score,
            cells=ordered,
            cliffs=results.cliffs(ordered, baseline.score, self.recipe.margin, metric),
            notes=notes,
        )
        scores = {
            cell.name: scores for cell in cells if cell in records and (scores := records[cell].scores) is not None
        }
        results.write(
            self.out,
            outcome,
            arrays(baseline.scores, scores, baseline.groups),
            tables.markdown(outcome),
        )
        return outcome


def sweep(
    recipe: Path | str,
    out: Path | str | None = None,
    *,
    only: Sequence[str] = (),
    jobs: int = 1,
    cluster: str | None = None,
    fresh: bool = False,
    trust_pickle: bool = False,
    watcher: Watcher | None = None,
) -> Results:
    """Export, read back and measure every cell of a recipe, and write the results beside the artifacts.

    recipe: a YAML file; out: folder for artifacts and results, None for `out/` and the recipe's name; only: globs over
    names of cells, of which the others keep rows that are still valid; jobs: processes side by side; cluster: address
    of a Dask scheduler; fresh: reuse nothing; trust_pickle: load pickles that run code; watcher: called with progress.

    A cell that fails is a row with status `failed`. Raises UsageError for a recipe that is wrong, InputError for a
    checkpoint or data that cannot be read, OutputError where the folder cannot be written, LockedError where another
    process works in it.
    """
    path = Path(recipe)
    if cluster is not None and jobs > 1:
        raise UsageError(
            f"{setting('jobs', jobs)} and {setting('cluster', cluster)} do not go together: a cluster has its own "
            "workers"
        )
    parsed = recipes.load(path, backends.formats(), list(tasks.TASKS))
    job = Job.of(parsed, trust_pickle, path.parent)
    cells = parsed.cells(only)
    watcher = watcher or Watcher()
    watcher.begin(cells, Path(parsed.checkpoint).name, job.task.metric)
    return Sweep(job, Path(out) if out else default_folder(path), watcher, jobs, cluster, fresh).run(cells)


def default_folder(recipe: Path) -> Path:
    """Where a sweep writes to, if nothing else is asked for."""
    return Path("out") / recipe.stem


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def refusals(cells: Sequence[Cell]) -> dict[Cell, Row]:
    """Rows of cells that cannot be made here: a backend is missing, or its format cannot hold such weights."""
    rows = {}
    for cell in cells:
        backend = backends.get(cell.backend)
        missing, support = backend.missing(), backend.support(cell)
        if missing or support.stored_bits is None:
            rows[cell] = Row.of(cell, UNSUPPORTED, reason=missing or support.reason)
    return rows
