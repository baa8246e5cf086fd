"""An artifact, opened from disk: its inputs and outputs, its record, and what its caller does to pixels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from mobconv import backends
from mobconv.backends.base import Backend, Runner, TensorSpec
from mobconv.backends.size_audit import record_of
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import BackendError, InputError
from mobconv.evaluate import input_spec

EMULATED = "emulated"


@dataclass
class Artifact:
    """A file of any format, open.

    verified  how it is run: 'runtime', 'emulated' or another of `Runner.verified`
    labels    class names that the file has, by means of its format or in its record
    record    of mobconv, empty in other tools' files
    load_ms   milliseconds that reading it took
    runner    open until `close`
    """

    path: Path
    backend: Backend
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    verified: str
    labels: tuple[str, ...]
    record: dict[str, Any]
    load_ms: float
    threads: int
    runner: Runner | None = field(repr=False, default=None)

    @property
    def has_other_biases(self) -> bool:
        """Whether biases in a file of ours are not those of the checkpoint: calibration corrected them."""
        return self.record.get("biases") is not None

    def image_input(
        self,
        stated: Preprocessing | None = None,
        otherwise: Preprocessing | None = None,
        option: str = "preprocessing",
    ) -> input_spec.Expected:
        """What the caller does to RGB pixels; see `input_spec.expected`, also for the errors."""
        return input_spec.expected(self.inputs, self.outputs, self.record, self.path, stated, otherwise, option)

    def reopen(self, threads: int) -> Runner:
        """Another runner of the file, with so many threads; the caller closes it."""
        return self.backend.open(self.path, threads)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Named inputs (N, ...) -> named outputs (N, ...), as the file has them."""
        if self.runner is None:
            self.runner = self.reopen(self.threads)
        return self.runner.run(feeds)

    def close(self) -> None:
        """Close the runner; `run` opens it again."""
        if self.runner is not None:
            self.runner.close()
            self.runner = None

    def __enter__(self) -> Artifact:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def backend_of(path: Path, backend: Backend | None = None) -> Backend:
    """The backend that opens a file: by its suffix, or the one that is known already.

    Raises InputError for a file that is missing or of no known format, BackendError where its runtime is missing.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    backend = backend or backends.for_path(path)
    if missing := backend.missing():
        raise BackendError(missing)
    return backend


def open_artifact(path: Path | str, threads: int = 0, backend: Backend | None = None) -> Artifact:
    """Open a file from disk.

    threads: of the runtime, 0 for its own choice; backend: its format, None to go by the file's suffix. Raises
    InputError for a file that is missing, damaged or of no known format, BackendError where its runtime is missing.
    """
    path = Path(path)
    backend = backend_of(path, backend)
    start = time.perf_counter()
    runner = backend.open(path, threads)
    load_ms = (time.perf_counter() - start) * 1e3
    try:
        record = record_of(runner.record, path)
        labels = runner.labels or tuple(map(str, record.get("labels", ())))
        return Artifact(
            path, backend, runner.inputs, runner.outputs, runner.verified, labels, record, load_ms, threads, runner
        )
    except BaseException:
        runner.close()
        raise
