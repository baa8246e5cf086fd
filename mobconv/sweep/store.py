"""Records of a sweep below its folder, from which the next sweep goes on.

    .cells/
        baseline.npz            the float baseline, with the facts of network and data
        calibration.npz         the facts of the calibration data
        <backend>/w4-kmeans.npz a cell: its key, its row, the scores of its samples
        run                     the sweep that may write here now
        making/                 files in the making; removed when a sweep ends

An artifact is written below `making/`, read back and measured there, and moved to its place; then its record is
written, aside and renamed. A process that is killed in between leaves a record that does not fit the artifact's hash,
or none: that cell is built again. Nothing is synced to the disk: after a power cut the hashes show it, too.
"""

from __future__ import annotations

import json
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv import backends, results
from mobconv.common import files, locks
from mobconv.errors import OutputError
from mobconv.pipeline import templates
from mobconv.pipeline.calibration_data import CalibrationFacts, facts_from
from mobconv.results import OK, Row
from mobconv.schemes import Cell

FOLDER = results.CELLS
_BROKEN = (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


class SupersededError(OutputError):
    """Another sweep works in the folder by now: a worker of the earlier one may not write any more."""


@dataclass
class FloatBaseline:
    """The float baseline, and the facts of network and data that a sweep needs without loading them.

    name    of the checkpoint; sites: names of the weights that are quantized, in order
    score   of the untouched module; scores: of each sample, (N,) float64, or of resamples
    source  name of the data, kind: 'images' or 'arrays', samples: their number; data_sha256, groups, split, skipped:
            as in data.arrays.Samples
    class_names  of the network, from the checkpoint or the data
    """

    name: str
    sha256: str
    parameters: int
    quantizable_weights: int
    sites: list[str]
    notes: list[str]
    score: float
    source: str
    kind: str
    samples: int
    data_sha256: str
    scores: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None
    split: str = ""
    skipped: int = 0
    class_names: list[str] = field(default_factory=list)


@dataclass
class Record:
    """The record of a cell. timed: whether its timings were taken, or do not apply; scores: of each sample, (N,)."""

    key: str
    row: Row
    timed: bool = True
    scores: NDArray[np.float64] | None = None


class Store:
    """The records of a folder. run: the sweep that writes, as `begin` names it; empty to read only."""

    def __init__(self, out: Path, run: str = "") -> None:
        self.out, self.folder, self.run = out, out / FOLDER, run
        self.making = self.folder / "making"
        self.shared = self.making / "samples"  # for the sweep's other processes
        self.shared_calibration = self.making / "calibration samples"

    def begin(self, fresh: Sequence[Cell] = ()) -> None:
        """Make this the only sweep that may write, and clean up after killed ones.

        fresh: cells whose records are removed, with the float baseline and the templates of their backends. The folder
        must be locked.
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
                for template in (self.out / templates.FOLDER).glob(f"{name}-fp*"):
                    files.remove(template)
            if fresh:
                self._baseline.unlink(missing_ok=True)
                self._calibration.unlink(missing_ok=True)

    def end(self) -> None:
        """Remove files in the making."""
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
        """A folder to make an artifact in, removed at the end."""
        place = self.making / uuid.uuid4().hex
        with files.output_errors(place):
            place.mkdir(parents=True)
        try:
            yield place
        finally:
            with suppress(OSError):
                files.remove(place)

    def baseline(self, key: str) -> FloatBaseline | None:
        """The float baseline of that key; None where it is not recorded."""
        content = _read(self._baseline)
        if content is None or content[0].get("key") != key:
            return None
        values, arrays = content
        try:
            groups = arrays["groups"].astype(np.int64) if "groups" in arrays else None
            return FloatBaseline(**values["baseline"], scores=arrays["scores"].astype(np.float64), groups=groups)
        except _BROKEN:
            return None

    def put_baseline(self, key: str, baseline: FloatBaseline) -> None:
        """Record the float baseline."""
        values = {k: v for k, v in vars(baseline).items() if not isinstance(v, np.ndarray) and k != "groups"}
        arrays = {k: v for k, v in vars(baseline).items() if isinstance(v, np.ndarray)}
        with self._current():
            _write(self._baseline, {"key": key, "baseline": values}, arrays)

    def calibration(self, key: str) -> CalibrationFacts | None:
        """The facts of calibration data of that key; None where they are not recorded."""
        content = _read(self._calibration)
        if content is None or content[0].get("key") != key:
            return None
        try:
            return facts_from(content[0]["calibration"])
        except _BROKEN:
            return None

    def put_calibration(self, key: str, facts: CalibrationFacts) -> None:
        """Record the facts of calibration data."""
        with self._current():
            _write(self._calibration, {"key": key, "calibration": vars(facts)}, {})

    def get(self, cell: Cell, key: str) -> Record | None:
        """The record of a cell, if it has that key and its artifact, if any, is unchanged."""
        content = _read(self._path(cell))
        if content is None or content[0].get("key") != key:
            return None
        values, arrays = content
        try:
            scores = arrays["scores"].astype(np.float64) if "scores" in arrays else None
            record = Record(key, results.row_from(values["row"]), bool(values["timed"]), scores)
            path = self.out / (record.row.path or "")
            if record.row.status == OK and files.sha256(path) != record.row.sha256:
                return None
        except _BROKEN:
            return None
        return record

    def names(self) -> list[str]:
        """The cells that have a record here, valid or not."""
        paths = self.folder.glob("*/*.npz")
        return sorted(path.relative_to(self.folder).with_suffix("").as_posix() for path in paths)

    def forget(self, cell: Cell) -> None:
        """Remove a record: something that its cell is made of has changed."""
        with files.output_errors(self._path(cell)):
            self._path(cell).unlink(missing_ok=True)

    def put(self, cell: Cell, record: Record, made: Path | None = None) -> None:
        """Move an artifact from its workplace to its place, and write the record.

        A record of a cell without an artifact removes a file in its place: no file may stand beside a row that does not
        vouch for it.
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
            values = {"key": record.key, "timed": record.timed, "row": asdict(record.row)}
            _write(self._path(cell), values, {} if record.scores is None else {"scores": record.scores})

    def attempt(self, name: str) -> int:
        """Record that a worker begins a part -> how often it was begun in this sweep before, and not ended."""
        path = self._attempts(name)
        with files.output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as stream:
                before = stream.tell()
                stream.write(b".")
        return before

    def attempts(self, name: str) -> int:
        """How often a part was begun and not ended."""
        path = self._attempts(name)
        return path.stat().st_size if path.exists() else 0

    def ended(self, name: str) -> None:
        """Record that a part came to an end, good or bad: its worker lives."""
        self._attempts(name).unlink(missing_ok=True)

    def _attempts(self, name: str) -> Path:
        return self.making / "attempts" / name.replace("/", " ")

    @property
    def _baseline(self) -> Path:
        return self.folder / "baseline.npz"

    @property
    def _calibration(self) -> Path:
        return self.folder / "calibration.npz"

    def _path(self, cell: Cell) -> Path:
        return self.folder / cell.path("npz")

    def _moment(self) -> AbstractContextManager[None]:
        return locks.moment(self.folder / "run.lock")

    @contextmanager
    def _current(self) -> Iterator[None]:
        """Keep other processes from writing. Raises SupersededError where another sweep has begun."""
        with self._moment():
            if not self.current():
                raise SupersededError(f"{self.out}: another sweep has begun in this folder")
            yield


def _write(path: Path, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    with files.aside(path) as partial, partial.open("wb") as stream:
        small = {k: v.astype(np.float32 if v.dtype.kind == "f" else np.int32) for k, v in arrays.items()}
        np.savez_compressed(stream, values=np.array(json.dumps(values)), **small)  # type: ignore[arg-type]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Values and arrays of a record; None where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        values = json.loads(str(arrays.pop("values")))
    except _BROKEN:
        return None
    return (values, arrays) if isinstance(values, dict) else None
