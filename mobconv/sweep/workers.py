"""The processes that do the parts of a sweep: this one alone, others beside it, or workers of a Dask cluster."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from mobconv.common import memory
from mobconv.data import stored
from mobconv.errors import BackendError, CellError, InputError, setting
from mobconv.sweep import keys, source_hash
from mobconv.sweep.context import SweepContext
from mobconv.sweep.job import Job
from mobconv.sweep.parts import Calibrate, Chunk, Make, Part, Prepare, Time, perform, perform_counted
from mobconv.sweep.store import FloatBaseline, Store

_IDLE = 3  # times that all workers may be gone with nothing done
_PARENT_CHECK = 1.0  # seconds between two looks at whether the process that started a worker is there


class Team(Protocol):
    """Processes that do chunks of parts.

    shared: several chunks at a time, so that nothing is timed beside others; described: the processes, in words.
    """

    shared: bool
    described: str

    def know(self, baseline: FloatBaseline) -> None:
        """Take the result of `Prepare`, of this sweep or an earlier one."""
        ...

    def run(self, chunks: Sequence[Chunk], apart: bool = False) -> Iterator[tuple[Any, Any]]:
        """Yield each part with its result, as soon as it is there; apart: one chunk at a time."""
        ...

    def preparation(self, calibrating: bool) -> list[Chunk]:
        """Parts that workers need before they make cells; calibrating: cells that use calibration data."""
        ...

    def spread(self, chunks: list[Chunk]) -> list[Chunk]:
        """The same parts in as many chunks as there are processes."""
        ...


class Alone:
    """This process."""

    shared = False
    described = "in this process"

    def know(self, baseline: FloatBaseline) -> None:
        """Do nothing: the context has it."""

    def __init__(self, context: SweepContext) -> None:
        self.context = context

    def run(self, chunks: Sequence[Chunk], apart: bool = False) -> Iterator[tuple[Any, Any]]:
        """Do one chunk after another."""
        for chunk in chunks:
            yield from perform(self.context, chunk)

    def preparation(self, calibrating: bool) -> list[Chunk]:
        """No parts: the context loads what it needs."""
        return []

    def spread(self, chunks: list[Chunk]) -> list[Chunk]:
        """Return the chunks as they are."""
        return chunks


@contextmanager
def alone(context: SweepContext) -> Iterator[Team]:
    """This process; runners that stay open are closed at the end."""
    try:
        yield Alone(context)
    finally:
        context.close()


@dataclass(frozen=True)
class Assignment:
    """What a worker needs to set up its context.

    run: of the store; source: hash of mobconv's code and versions of its tools; threads: 0 for the number that Dask
    gives the worker; parent: the process to end with, 0 for none.
    """

    job: Job
    inputs: keys.Inputs
    out: Path
    run: str
    source: list[str]
    threads: int
    parent: int


# of the code that this process imported, should the files change later
_SOURCE = source_hash.of_mobconv()
_imported: dict[str, str] = {}
_contexts: dict[str, SweepContext] = {}
_one_at_a_time = threading.Lock()  # a Dask worker may have several threads; PyTorch's settings are of the process
_watched: set[int] = set()


def work(assignment: Assignment, chunk: Chunk) -> dict[str, Any]:
    """Do a chunk, in a worker. Raises InputError where it cannot see the sweep's folder, or has another mobconv."""
    with _one_at_a_time, memory.freed_is_kept():
        return perform_counted(_context(assignment), chunk)


def _context(assignment: Assignment) -> SweepContext:
    name = f"{assignment.run} {assignment.inputs.data}"
    if name in _contexts:
        return _contexts[name]
    for earlier in _contexts.values():
        earlier.close()
    _contexts.clear()
    store = Store(assignment.out, assignment.run)
    if not store.current():
        raise InputError(
            f"{assignment.out}: a worker on {_host()} does not see this sweep's folder. Workers need it, the "
            "checkpoint and the data under the same paths: on a file system that all share"
        )
    _check_same_code(assignment)
    if assignment.parent:
        # Ctrl-C reaches every process of a terminal; the one that was started there ends its workers
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _end_with(assignment.parent)
    _keep_grown_process()
    context = SweepContext(assignment.job, assignment.inputs, store, assignment.threads or _threads_of_dask())
    _contexts[name] = context
    return context


def _check_same_code(assignment: Assignment) -> None:
    """Raise InputError unless this process would make what the sweep's own process would.

    Workers of a cluster may run on other machines, and may have imported source files that have changed since.
    """
    here = str(assignment.job.here)
    if here not in sys.path:
        sys.path.insert(0, here)
    factory = assignment.job.recipe.model
    sources = source_hash.of_factory(factory, assignment.job.here) if factory else {}
    differ = [name for name, digest in sources.items() if _imported.setdefault(name, digest) != digest]
    if differ:
        raise InputError(f"the worker on {_host()} has imported an older {', '.join(differ)}: restart the workers")
    if assignment.source != [_SOURCE, *keys.environment()]:
        raise InputError(
            f"the worker on {_host()} has another mobconv, Python or other versions of its tools than this process: "
            "install the same there and restart the workers"
        )
    inputs = assignment.inputs
    if inputs.followed and keys.inputs(assignment.job, with_data=False).code != inputs.code:
        raise InputError(f"the worker on {_host()} does not find the source of {factory} that this process finds")


def _host() -> str:
    import socket

    return socket.gethostname()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, which may have been killed."""
    if parent in _watched:
        return
    _watched.add(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _keep_grown_process() -> None:
    """loky ends a worker that grows by 300 MB, as if it leaked: here the converters, imported once, take as much."""
    from joblib.externals.loky import process_executor

    if hasattr(process_executor, "_MAX_MEMORY_LEAK_SIZE"):
        process_executor._MAX_MEMORY_LEAK_SIZE = 4 << 30


def _threads_of_dask() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


class Workers:
    """Processes of joblib: of loky on this machine, or of a Dask cluster."""

    shared = True

    def __init__(self, assignment: Assignment, backend: dict[str, Any], count: int, context: SweepContext) -> None:
        self.assignment, self.backend, self.count, self.context = assignment, backend, count, context
        self.described = f"{count} workers"

    def know(self, baseline: FloatBaseline) -> None:
        """Identify data of the hub by its content, so that workers need not load it."""
        if self.assignment.inputs.data is None:
            inputs = replace(self.assignment.inputs, data=baseline.data_sha256)
            self.assignment = replace(self.assignment, inputs=inputs)

    def preparation(self, calibrating: bool) -> list[Chunk]:
        """Write the samples, where an earlier part has not."""
        store = self.context.store
        parts: list[Part] = [] if stored.exists(store.shared) else [Prepare(True)]
        if calibrating and not stored.exists(store.shared_calibration):
            parts.append(Calibrate(True))
        return [Chunk(tuple(parts))] if parts else []

    def spread(self, chunks: list[Chunk]) -> list[Chunk]:
        """Halve the largest while there are workers without one: each half quantizes for itself."""
        parts = [chunk.parts for chunk in chunks]
        while 0 < len(parts) < self.count and len(largest := max(parts, key=len)) > 1:
            parts.remove(largest)
            middle = len(largest) // 2
            parts += [largest[:middle], largest[middle:]]
        return [Chunk(each) for each in parts]

    def run(self, chunks: Sequence[Chunk], apart: bool = False) -> Iterator[tuple[Any, Any]]:
        """See `Team`. A part whose worker died is tried once more, alone, and then has failed."""
        pending = {part.name: part for chunk in chunks for part in chunk.parts}
        together = list(chunks)
        idle = 0
        while pending:
            before = len(pending)
            try:
                for results in self._parallel(together, apart):
                    yield from ((pending.pop(name), result) for name, result in results.items() if name in pending)
            except _died():
                pass
            # results of a worker that finished them, and was ended by the death of another one
            for name, part in list(pending.items()):
                result = self._recorded(part)
                if result is not None:
                    yield pending.pop(name), result
            # one of these ended its worker: alone, it shows which
            for name, part in list(pending.items()):
                while name in pending and self.context.store.attempts(name):
                    try:
                        for results in self._parallel([Chunk((part,))], apart=True):
                            yield from ((pending.pop(k), result) for k, result in results.items() if k in pending)
                    except _died():
                        continue
            idle = idle + 1 if len(pending) == before else 0
            if idle == _IDLE:
                names = ", ".join(list(pending)[:4])
                raise CellError(f"the workers end before they begin: {names}; try {setting('jobs', 1)}")
            rest = [tuple(part for part in chunk.parts if part.name in pending) for chunk in chunks]
            together = [Chunk(parts) for parts in rest if parts]

    def _recorded(self, part: Part) -> Any:
        """The result of a part, from its record; None where there is none."""
        if not isinstance(part, Make | Time):
            return None
        record = self.context.store.get(part.cell, part.key)
        return record.row if record and (record.timed or isinstance(part, Make)) else None

    def _parallel(self, chunks: Sequence[Chunk], apart: bool) -> Iterator[dict[str, Any]]:
        from joblib import Parallel, delayed, parallel_config

        if not chunks:
            return
        with parallel_config(**self.backend) as config:
            if "client" in self.backend:
                # with a single worker joblib would do the work in this process, which a crash would then end
                backend, count = config["backend"], config["backend"].effective_n_jobs
                backend.effective_n_jobs = lambda n_jobs: max(_counted(count, n_jobs), 2)
            run = Parallel(
                n_jobs=self.count,
                batch_size=1,
                pre_dispatch=1 if apart else "all",
                return_as="generator_unordered",
            )
            yield from run(delayed(work)(self.assignment, chunk) for chunk in chunks)


def _counted(count: Callable[[int], int], n_jobs: int) -> int:
    """Number of cores of a cluster's workers. Raises BackendError where none is left."""
    try:
        return count(n_jobs)
    except TimeoutError as error:
        raise BackendError("no worker of the cluster is left; start some and run the same command again") from error


def _died() -> tuple[type[Exception], ...]:
    """The errors that joblib raises when a worker is gone."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    try:
        from distributed import KilledWorker
    except ImportError:
        return (BrokenProcessPool,)
    return BrokenProcessPool, KilledWorker


def _assignment(context: SweepContext, threads: int, parent: int) -> Assignment:
    out, source = context.store.out.absolute(), [_SOURCE, *keys.environment()]
    return Assignment(context.job.absolute(), context.inputs, out, context.store.run, source, threads, parent)


@contextmanager
def processes(count: int, context: SweepContext) -> Iterator[Team]:
    """Processes on this machine, each with its share of the cores."""
    from joblib import cpu_count
    from joblib.externals.loky import get_reusable_executor

    share = max(cpu_count() // count, 1)
    threads = min(context.job.recipe.threads or share, share)
    backend = {"backend": "loky", "inner_max_num_threads": threads}
    # tqdm, of the converters, has a semaphore; Python's tracker of those, a process that all workers share and that
    # gets these options, would warn of it when they are ended
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        yield Workers(_assignment(context, threads, os.getpid()), backend, count, context)
    finally:
        # at once: their unfinished work is lost, and nobody waits for it
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def cluster(address: str, context: SweepContext) -> Iterator[Team]:
    """The workers of a Dask cluster. Raises BackendError where Dask is missing, or no scheduler answers."""
    option = setting("cluster", address)
    try:
        from distributed import Client
    except ImportError:
        raise BackendError(f'{setting("cluster")} needs Dask: pip install "mobconv[cluster]"') from None
    try:
        client: Any = Client(address, set_as_default=False, timeout=5)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise BackendError(f"{option}: no Dask scheduler answers there: {error}") from error
    with client:
        count = len(client.scheduler_info()["workers"])
        if not count:
            raise BackendError(f"{option}: no workers there; start some: dask worker {address} --nthreads 1")
        backend = {"backend": "dask", "client": client}
        yield Workers(_assignment(context, context.job.recipe.threads, 0), backend, count, context)
