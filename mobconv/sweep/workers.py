"""Who does the parts of a sweep: this process alone, processes beside it, or the workers of a Dask cluster."""

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
from mobconv.errors import BackendError, CellError, InputError
from mobconv.sweep import keys, source_hash
from mobconv.sweep.bench import Bench
from mobconv.sweep.job import Job
from mobconv.sweep.store import Network, Store
from mobconv.sweep.tasks import Make, Part, Prepare, Task, Time, perform, perform_counted

_IDLE = 3  # times that all workers may be gone with nothing done
_PARENT_CHECK = 1.0  # seconds between two looks at whether the process that started a worker is there


class Team(Protocol):
    """Does tasks.

    shared: several at a time, so that nothing is timed on the way; told: by whom, in words.
    """

    shared: bool
    told: str

    def know(self, network: Network) -> None:
        """What came of `Prepare`, in this sweep or an earlier one."""
        ...

    def run(self, tasks: Sequence[Task], apart: bool = False) -> Iterator[tuple[Any, Any]]:
        """Each part and what came of it, as soon as it is known; apart: one task at a time."""
        ...

    def preparation(self) -> list[Task]:
        """What workers need before they make cells."""
        ...

    def spread(self, tasks: list[Task]) -> list[Task]:
        """The same parts in as many tasks as there are hands."""
        ...


class Alone:
    """This process."""

    shared = False
    told = "in this process"

    def know(self, network: Network) -> None:
        """Nothing is sent to anybody."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def run(self, tasks: Sequence[Task], apart: bool = False) -> Iterator[tuple[Any, Any]]:
        """In turn."""
        for task in tasks:
            yield from perform(self.bench, task)

    def preparation(self) -> list[Task]:
        """Nothing: the bench loads what it needs."""
        return []

    def spread(self, tasks: list[Task]) -> list[Task]:
        """As they are."""
        return tasks


@contextmanager
def alone(bench: Bench) -> Iterator[Team]:
    """This process; runners that stay open are closed at the end."""
    try:
        yield Alone(bench)
    finally:
        bench.close()


@dataclass(frozen=True)
class Place:
    """What a worker has to know to set up its bench.

    run: of the store; source: mobconv's code and its tools; threads: 0 for those that Dask gives the worker; parent:
    the process to end with, 0 for none.
    """

    job: Job
    inputs: keys.Inputs
    out: Path
    run: str
    source: list[str]
    threads: int
    parent: int


# as this process has it, whatever becomes of the files
_SOURCE = source_hash.of_mobconv()
_imported: dict[str, str] = {}
_benches: dict[str, Bench] = {}
_one_at_a_time = threading.Lock()  # a Dask worker may have several threads; PyTorch's settings are of the process
_watched: set[int] = set()


def work(place: Place, task: Task) -> dict[str, Any]:
    """Do a task, in a worker. Raises InputError where it cannot see the sweep's folder, or has another mobconv."""
    with _one_at_a_time, memory.freed_is_kept():
        return perform_counted(_bench(place), task)


def _bench(place: Place) -> Bench:
    named = f"{place.run} {place.inputs.data}"
    if named in _benches:
        return _benches[named]
    for old in _benches.values():
        old.close()
    _benches.clear()
    store = Store(place.out, place.run)
    if not store.current():
        raise InputError(
            f"{place.out}: a worker on {_host()} does not see this sweep's folder. Workers need it, the checkpoint and "
            "the data under the same paths: on a file system that all share"
        )
    _same(place)
    if place.parent:
        # Ctrl-C reaches every process of a terminal; the one that was started there ends its workers
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _end_with(place.parent)
    _keep_grown_process()
    bench = Bench(place.job, place.inputs, store, place.threads or _threads_of_dask())
    _benches[named] = bench
    return bench


def _same(place: Place) -> None:
    """Raise InputError unless this process would make what the sweep's own process would.

    Workers of a cluster may run on other machines, and longer than a source file stays as it was.
    """
    here = str(place.job.here)
    if here not in sys.path:
        sys.path.insert(0, here)
    factory = place.job.plan.model
    found = source_hash.of_factory(factory, place.job.here) if factory else {}
    differ = [name for name, digest in found.items() if _imported.setdefault(name, digest) != digest]
    if differ:
        raise InputError(f"the worker on {_host()} has imported an older {', '.join(differ)}: restart the workers")
    if place.source != [_SOURCE, *keys.environment()]:
        raise InputError(
            f"the worker on {_host()} has another mobconv, Python or other versions of its tools than this process: "
            "install the same there and restart the workers"
        )
    if place.inputs.followed and keys.inputs(place.job, data=False).code != place.inputs.code:
        raise InputError(f"the worker on {_host()} does not find the source of {factory} that this process finds")


def _host() -> str:
    import socket

    return socket.gethostname()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, which may have been killed and could tell nobody."""
    if parent in _watched:
        return
    _watched.add(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _keep_grown_process() -> None:
    """loky ends a worker that grows by 300 MB, as for a leak: here it is the converters, imported once."""
    from joblib.externals.loky import process_executor

    if hasattr(process_executor, "_MAX_MEMORY_LEAK_SIZE"):
        process_executor._MAX_MEMORY_LEAK_SIZE = 4 << 30


def _threads_of_dask() -> int:
    from distributed import get_worker

    return int(get_worker().state.nthreads)


class Workers:
    """Processes of joblib's: loky's on this machine, or a Dask cluster's."""

    shared = True

    def __init__(self, place: Place, backend: dict[str, Any], count: int, bench: Bench) -> None:
        self.place, self.backend, self.count, self.bench = place, backend, count, bench
        self.told = f"{count} workers"

    def know(self, network: Network) -> None:
        """Data of the hub is known by its pixels, which workers then need not load."""
        if self.place.inputs.data is None:
            self.place = replace(self.place, inputs=replace(self.place.inputs, data=network.pixels))

    def preparation(self) -> list[Task]:
        """The pixels, where those that made them did not leave them."""
        return [] if (self.bench.store.making / "pixels.npy").exists() else [Task((Prepare(True),))]

    def spread(self, tasks: list[Task]) -> list[Task]:
        """Halve the largest while there are workers without one: each half quantizes for itself."""
        tasks = list(tasks)
        held = [task.parts for task in tasks]
        while 0 < len(held) < self.count and len(largest := max(held, key=len)) > 1:
            held.remove(largest)
            middle = len(largest) // 2
            held += [largest[:middle], largest[middle:]]
        return [Task(parts) for parts in held]

    def run(self, tasks: Sequence[Task], apart: bool = False) -> Iterator[tuple[Any, Any]]:
        """See Team. What a worker died of is tried once more, alone, and then has failed."""
        left = {part.name: part for task in tasks for part in task.parts}
        crowd = list(tasks)
        idle = 0
        while left:
            before = len(left)
            try:
                for came in self._parallel(crowd, apart):
                    yield from ((left.pop(name), found) for name, found in came.items() if name in left)
            except _died():
                pass
            # what a worker finished before another one's end took it along
            for name, part in list(left.items()):
                found = self._found(part)
                if found is not None:
                    yield left.pop(name), found
            # one of these ended its worker: alone, it is known which
            for name, part in list(left.items()):
                while name in left and self.bench.store.attempts(name):
                    try:
                        for came in self._parallel([Task((part,))], apart=True):
                            yield from ((left.pop(each), found) for each, found in came.items() if each in left)
                    except _died():
                        continue
            idle = idle + 1 if len(left) == before else 0
            if idle == _IDLE:
                raise CellError(f"the workers end before they begin: {', '.join(list(left)[:4])}; try --jobs 1")
            crowd = [Task(rest) for task in tasks if (rest := tuple(part for part in task.parts if part.name in left))]

    def _found(self, part: Part) -> Any:
        """What a part left in the store."""
        store = self.bench.store
        if not isinstance(part, Make | Time):
            return None
        record = store.get(part.cell, part.key)
        return record.row if record and (record.timed or isinstance(part, Make)) else None

    def _parallel(self, tasks: Sequence[Task], apart: bool) -> Iterator[dict[str, Any]]:
        from joblib import Parallel, delayed, parallel_config

        if not tasks:
            return
        with parallel_config(**self.backend) as config:
            if "client" in self.backend:
                # of a single worker joblib thinks that it could as well do the work here, where it would end the sweep
                backend, count = config["backend"], config["backend"].effective_n_jobs
                backend.effective_n_jobs = lambda n_jobs: max(_counted(count, n_jobs), 2)
            run = Parallel(
                n_jobs=self.count,
                batch_size=1,
                pre_dispatch=1 if apart else "all",
                return_as="generator_unordered",
            )
            yield from run(delayed(work)(self.place, task) for task in tasks)


def _counted(count: Callable[[int], int], n_jobs: int) -> int:
    """The cores of a cluster's workers. Raises BackendError where none is left."""
    try:
        return count(n_jobs)
    except TimeoutError as error:
        raise BackendError("no worker of the cluster is left; start some and run the same command again") from error


def _died() -> tuple[type[Exception], ...]:
    """What joblib raises when a worker is gone."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    try:
        from distributed import KilledWorker
    except ImportError:
        return (BrokenProcessPool,)
    return BrokenProcessPool, KilledWorker


def _place(bench: Bench, threads: int, parent: int) -> Place:
    out = bench.store.out.absolute()
    return Place(
        bench.job.absolute(), bench.inputs, out, bench.store.run, [_SOURCE, *keys.environment()], threads, parent
    )


@contextmanager
def processes(count: int, bench: Bench) -> Iterator[Team]:
    """Processes on this machine, each with its share of the cores."""
    from joblib import cpu_count
    from joblib.externals.loky import get_reusable_executor

    share = max(cpu_count() // count, 1)
    threads = min(bench.plan.threads or share, share)
    backend = {"backend": "loky", "inner_max_num_threads": threads}
    # tqdm, of the converters, has a semaphore; Python's tracker of those, a process that all workers share and that is
    # given these options, would tell of it when they are ended
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        yield Workers(_place(bench, threads, os.getpid()), backend, count, bench)
    finally:
        # at once: what they were at is lost, and nobody waits for it
        get_reusable_executor().shutdown(wait=True, kill_workers=True)


@contextmanager
def cluster(address: str, bench: Bench) -> Iterator[Team]:
    """The workers of a Dask cluster. Raises BackendError where dask is not installed, or nobody answers there."""
    try:
        from distributed import Client
    except ImportError:
        raise BackendError('--cluster needs Dask: pip install "mobconv[cluster]"') from None
    try:
        client: Any = Client(address, set_as_default=False, timeout=5)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise BackendError(f"--cluster {address}: no Dask scheduler answers there: {error}") from error
    with client:
        count = len(client.scheduler_info()["workers"])
        if not count:
            raise BackendError(f"--cluster {address}: no workers there; start some: dask worker {address} --nthreads 1")
        yield Workers(_place(bench, bench.plan.threads, 0), {"backend": "dask", "client": client}, count, bench)
