"""Cells -> artifacts -> rows: what is there stays, what is missing or changed is made, all is written down."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

from mobconv import __version__, backends, results
from mobconv.common import files, locks
from mobconv.recipe import Recipe
from mobconv.results import FAILED, OK, UNSUPPORTED, Results, Row, tables
from mobconv.schemes import Cell, Compute
from mobconv.sweep import keys, workers
from mobconv.sweep.bench import Bench
from mobconv.sweep.job import Job, Watcher
from mobconv.sweep.store import Network, Record, Store
from mobconv.sweep.tasks import Convert, Make, Prepare, Task, Time
from mobconv.sweep.workers import Team

# a folder of a template and the seconds its conversion took, or why there is none
Template = tuple[str, float] | str


class Sweep:
    """One run over cells. Rows come out in the order of the recipe, whatever order they are made in.

    jobs: processes that work side by side; cluster: address of a Dask scheduler, whose workers do; fresh: take nothing
    from earlier sweeps for the cells that are asked for.
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
        self.job, self.plan, self.out = job, job.plan, out
        self.watcher = watcher or Watcher()
        self.jobs, self.cluster, self.fresh = jobs, cluster, fresh
        self.store = Store(out)
        self._templates: dict[tuple[str, Compute], Template] = {}

    def run(self, cells: Sequence[Cell]) -> Results:
        """Make, read back and measure every cell that is not there, and write the results beside the artifacts.

        Cells of the recipe that are not asked for keep the rows that earlier sweeps gave them, where these still hold.
        A cell that fails is a row, and the next one follows; OutputError and interruptions end the sweep, and the next
        one goes on from there. Raises LockedError where another process works in the folder.
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
        refused = refusals(self.plan)
        wanted = [cell for cell in cells if cell not in refused]
        bench = Bench(self.job, inputs, self.store, self.plan.threads, self.watcher.stage)
        with self._team(bench) as team:
            network = self.store.network(inputs.network) if inputs.data else None
            if network is None:
                network = self._prepare(team, wanted)
            self.plan.check_layers(network.sites)
            team.know(network)
            if not inputs.followed:
                self.watcher.note("it holds a whole module, whose code cannot be followed: all cells are made anew")
            for note in network.notes:
                self.watcher.note(note)
            supported = [cell for cell in self.plan.cells() if cell not in refused]
            named = {each: keys.cell(inputs, network, self.job, each) for each in supported}
            records = {each: held for each in supported if (held := self.store.get(each, named[each]))}
            missing = [each for each in wanted if each not in records or records[each].row.status != OK]
            untimed = [each for each in wanted if each not in missing and not records[each].timed]
            kept = len(wanted) - len(missing) - len(untimed)
            self.watcher.kept(kept, [each.name for each in untimed], len(wanted))
            self._tell_leftovers([each for each in supported if each not in wanted and each not in records])
            for each in cells:
                if each in refused:
                    self.watcher.row(refused[each])
            if missing or untimed:
                # what is asked of a folder whose sweep was killed: results that its files may not bear out any more
                results.withdraw(self.out)
                self._make(team, missing, untimed, named)
        records |= {each: self._kept(each, named[each]) for each in (*missing, *untimed)}
        rows = {each: held.row for each, held in records.items()} | {c: row for c, row in refused.items() if c in cells}
        return self._write([each for each in self.plan.cells() if each in rows], rows, network, records)

    def _tell_leftovers(self, stale: Sequence[Cell]) -> None:
        """Of what lies in the folder and has no row in its results any more. stale: cells that were not asked for."""
        there = self.store.names()
        lost = [cell.name for cell in stale if cell.name in there]
        if lost:
            self.watcher.note(
                f"rows of {tables.plural(len(lost), 'other cell')} do not hold any more and are left out: "
                f"{_some(lost)}. What they were made of has changed; without --only they are made anew"
            )
        known = {cell.name for cell in self.plan.cells()}
        others = [name for name in there if name not in known]
        if others:
            self.watcher.note(
                f"{self.out} has {tables.plural(len(others), 'file')} of another recipe, in no row of these: "
                f"{_some(others)}"
            )

    def _team(self, bench: Bench) -> AbstractContextManager[Team]:
        if self.cluster is not None:
            return workers.cluster(self.cluster, bench)
        return workers.processes(self.jobs, bench) if self.jobs > 1 else workers.alone(bench)

    def _prepare(self, team: Team, wanted: Sequence[Cell]) -> Network:
        """The float baseline; with workers, templates at the same time."""
        tasks = [Task((Prepare(team.shared),)), *(self._conversions(wanted) if team.shared else ())]
        if team.shared:
            self.watcher.stage(f"float baseline and {tables.plural(len(tasks) - 1, 'conversion')}, {team.told}")
        found: Network | None = None
        for part, came in team.run(tasks):
            if isinstance(part, Prepare):
                found = came
                self.plan.check_layers(found.sites)
            else:
                assert isinstance(part, Convert)
                self._templates[part.backend, part.compute] = came
        assert found is not None
        return found

    def _conversions(self, cells: Sequence[Cell]) -> list[Task]:
        """The templates that cells need and that this run has not seen."""
        pairs = dict.fromkeys((cell.backend, cell.compute) for cell in cells)
        return [Task((Convert(*pair),)) for pair in pairs if pair not in self._templates]

    def _make(self, team: Team, missing: Sequence[Cell], untimed: Sequence[Cell], named: dict[Cell, str]) -> None:
        """Make cells, scheme by scheme, so that one quantization serves all backends, then time those that are not.

        Workers time nothing while others work beside them: latency would be that of a busy machine.
        """
        for cell in missing:
            self.store.forget(cell)
        for part, came in team.run([*team.preparation(), *self._conversions(missing)]):
            if isinstance(part, Convert):
                self._templates[part.backend, part.compute] = came
        tasks: dict[str, list[Make]] = {}
        for cell in missing:
            made = self._templates[cell.backend, cell.compute]
            if isinstance(made, str):
                row = Row.of(cell, FAILED, reason=f"conversion: {made}")
                self.store.put(cell, Record(named[cell], row))
                self.watcher.row(row)
            else:
                tasks.setdefault(cell.scheme.name, []).append(Make(cell, named[cell], *made, timing=not team.shared))
        due = [Time(cell, named[cell]) for cell in untimed]
        if team.shared and missing:
            self.watcher.stage(f"{len(missing)} cells, {team.told}")
        for part, row in team.run(team.spread([Task(tuple(parts)) for parts in tasks.values()])):
            kept = self.store.get(part.cell, part.key)
            if kept is not None and not kept.timed:
                due.append(Time(part.cell, part.key))
                self.watcher.untimed(row)
            else:
                self.watcher.row(row)
        if due:
            self.watcher.stage(f"timings of {len(due)} cells, one after another")
        for _, row in team.run([Task((part,)) for part in due], apart=True):
            self.watcher.row(row)

    def _kept(self, cell: Cell, key: str) -> Record:
        """The record of a cell of this run."""
        found = self.store.get(cell, key)
        if found is None:  # somebody was at the folder, for all its lock
            row = Row.of(cell, FAILED, reason="its file was changed while the sweep ran; run the same command again")
            found = Record(key, row)
        return found

    def _write(
        self, cells: Sequence[Cell], rows: dict[Cell, Row], network: Network, records: dict[Cell, Record]
    ) -> Results:
        ordered = [rows[cell] for cell in cells]
        versions = {"mobconv": __version__, "torch": version("torch")}
        for name in dict.fromkeys(row.backend for row in ordered):
            if backends.get(name).missing() is None:
                versions.update(backends.get(name).versions())
        found = Results(
            model={
                "path": network.path,
                "sha256": network.sha256,
                "parameters": network.parameters,
                "quantizable_weights": network.quantizable_weights,
            },
            data={"source": network.source, "sha256": network.pixels, "images": len(network.labels)},
            tools=versions,
            float_top1=network.float_top1,
            cells=ordered,
            cliffs=results.cliffs(ordered, network.float_top1, self.plan.margin),
            notes=network.notes,
        )
        predictions = {"labels": network.labels}
        if network.groups is not None:
            predictions["groups"] = network.groups
        predictions["float"] = network.predictions
        for cell in cells:
            held = records[cell].predictions if cell in records else None
            if held is not None:
                predictions[cell.name] = held
        results.write(self.out, found, predictions, tables.markdown(found))
        return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def refusals(plan: Recipe) -> dict[Cell, Row]:
    """The rows of a recipe's cells that cannot be here: a backend is missing or does not hold such weights."""
    found = {}
    for cell in plan.cells():
        backend = backends.get(cell.backend)
        missing, support = backend.missing(), backend.support(cell)
        if missing or support.stored_bits is None:
            found[cell] = Row.of(cell, UNSUPPORTED, reason=missing or support.reason)
    return found
