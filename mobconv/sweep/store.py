"""What a sweep keeps below its folder, so that the next one goes on from there.

    .cells/
        network.npz             the float baseline, and what is known of network and data
        onnx/w4-kmeans.npz      a cell: its key, its row, its predictions
        run                     the sweep that may write here now
        making/                 what is being made; nothing of it outlives a sweep

An artifact is written below `making/`, read back and measured there, and moved to its place; then its record is
written, aside and renamed. A process that is killed in between leaves a record that does not fit the artifact's hash,
or none: that cell is made again. Nothing is synced to the disk: after a power cut the hashes tell as well.
"""

from __future__ import annotations

import json
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv import backends, results
from mobconv.common import files, locks
from mobconv.errors import OutputError
from mobconv.pipeline import templates
from mobconv.results import OK, Row
from mobconv.schemes import Cell

FOLDER = results.CELLS
_BROKEN = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class SupersededError(OutputError):
    """Another sweep works in the folder by now: what a worker of a dead one made is not wanted."""


@dataclass
class Network:
    """The float baseline and what else is known once network and data were loaded.

    sites        the weights that are quantized, in order
    predictions  top-1 of each image, (N,); labels, groups: as data.Images has them
    """

    path: str
    sha256: str
    parameters: int
    quantizable_weights: int
    sites: list[str]
    notes: list[str]
    float_top1: float
    source: str
    pixels: str
    predictions: NDArray[np.int64]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64] | None = None


@dataclass
class Record:
    """A cell as it is kept. timed: whether its timings were taken, or do not apply."""

    key: str
    row: Row
    timed: bool = True
    predictions: NDArray[np.int64] | None = None


class Store:
    """The records of a folder. run: the sweep that writes, as `begin` names it; empty to read only."""

    def __init__(self, out: Path, run: str = "") -> None:
        self.out, self.folder, self.run = out, out / FOLDER, run
        self.making = self.folder / "making"

    def begin(self, fresh: Sequence[Cell] = ()) -> None:
        """Make this the only sweep that may write, and clean up after dead ones.

        fresh: cells to forget, with the float baseline and the templates of their backends.

        The folder must be locked.
        """
        files.ensure_folder(self.folder)
        self.run = uuid.uuid4().hex
        with self._moment():
            files.write_whole(self.folder / "run", self.run)
        names = backends.names()
        for folder in (self.out, self.out / templates.FOLDER, self.folder, *(self.out / name for name in names)):
            files.remove_partials(folder)
        for name in names:
            files.remove_partials(self.folder / name)
        with files.output_errors(self.making):
            files.remove(self.making)
            for cell in fresh:
                self._path(cell).unlink(missing_ok=True)
            for name in {cell.backend for cell in fresh}:
                for held in (self.out / templates.FOLDER).glob(f"{name}-fp*"):
                    files.remove(held)
            if fresh:
                (self.folder / "network.npz").unlink(missing_ok=True)

    def end(self) -> None:
        """Clean up."""
        with suppress(OSError):
            files.remove(self.making)

    def current(self) -> bool:
        """Whether this is the sweep that may write here."""
        try:
            return (self.folder / "run").read_text() == self.run
        except OSError:
            return False

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """A folder to make an artifact in."""
        place = self.making / uuid.uuid4().hex
        with files.output_errors(place):
            place.mkdir(parents=True)
        try:
            yield place
        finally:
            with suppress(OSError):
                files.remove(place)

    def network(self, key: str) -> Network | None:
        """The float baseline of that key, if it is kept."""
        found = _read(self.folder / "network.npz")
        if found is None or found[0].get("key") != key:
            return None
        told, arrays = found
        try:
            return Network(**(told["network"] | {name: held.astype(np.int64) for name, held in arrays.items()}))
        except _BROKEN:
            return None

    def put_network(self, key: str, network: Network) -> None:
        """Keep the float baseline."""
        told = {k: v for k, v in vars(network).items() if not isinstance(v, np.ndarray) and k != "groups"}
        arrays = {k: v for k, v in vars(network).items() if isinstance(v, np.ndarray)}
        with self._current():
            _write(self.folder / "network.npz", {"key": key, "network": told}, arrays)

    def get(self, cell: Cell, key: str) -> Record | None:
        """The record of a cell, if it is of that key and, where it has an artifact, that is whole."""
        found = _read(self._path(cell))
        if found is None or found[0].get("key") != key:
            return None
        try:
            record = Record(key, results.row(found[0]["row"]), bool(found[0]["timed"]), found[1].get("predictions"))
            path = self.out / (record.row.path or "")
            if record.row.status == OK and files.sha256(path) != record.row.sha256:
                return None
        except _BROKEN:
            return None
        return record

    def names(self) -> list[str]:
        """The cells that some sweep kept here, whether they still hold or not."""
        found = self.folder.glob("*/*.npz")
        return sorted(path.relative_to(self.folder).with_suffix("").as_posix() for path in found)

    def forget(self, cell: Cell) -> None:
        """Drop a record: what it was made of has changed."""
        with files.output_errors(self._path(cell)):
            self._path(cell).unlink(missing_ok=True)

    def put(self, cell: Cell, record: Record, made: Path | None = None) -> None:
        """Move an artifact from its workplace to its place, and keep the record.

        A record of a cell without an artifact removes what stands in its place: no file may stand beside a row that
        does not vouch for it.
        """
        place = self.out / cell.path(backends.get(cell.backend).suffix)
        with self._current():
            if record.row.status != OK:
                files.remove(place)
            elif made is not None:
                with files.output_errors(place):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    if place.is_dir() or made.is_dir():
                        files.remove(place)
                    made.replace(place)
            told = {"key": record.key, "timed": record.timed, "row": asdict(record.row)}
            held = {} if record.predictions is None else {"predictions": record.predictions}
            _write(self._path(cell), told, held)

    def attempt(self, name: str) -> int:
        """Note that a worker begins something -> how often that was begun before in this sweep and not ended."""
        path = self._attempts(name)
        with files.output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as stream:
                before = stream.tell()
                stream.write(b".")
        return before

    def attempts(self, name: str) -> int:
        """How often something was begun and not ended."""
        path = self._attempts(name)
        return path.stat().st_size if path.exists() else 0

    def ended(self, name: str) -> None:
        """It came to an end, good or bad: the worker lives."""
        self._attempts(name).unlink(missing_ok=True)

    def _attempts(self, name: str) -> Path:
        return self.making / "attempts" / name.replace("/", " ")

    def _path(self, cell: Cell) -> Path:
        return self.folder / cell.path("npz")

    def _moment(self) -> AbstractContextManager[None]:
        return locks.moment(self.folder / "run.lock")

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Nobody else writes meanwhile. Raises SupersededError where another sweep has begun."""
        with self._moment():
            if not self.current():
                raise SupersededError(f"{self.out}: another sweep has begun in this folder")
            yield


def _write(path: Path, told: Mapping[str, Any], arrays: Mapping[str, NDArray[np.int64]]) -> None:
    with files.aside(path) as partial, partial.open("wb") as stream:
        held = {name: values.astype(np.int32) for name, values in arrays.items()}
        np.savez_compressed(stream, told=np.array(json.dumps(told)), **held)  # type: ignore[arg-type]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """None where there is nothing, or nothing whole."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
        told = json.loads(str(held.pop("told")))
    except _BROKEN:
        return None
    return (told, held) if isinstance(told, dict) else None
