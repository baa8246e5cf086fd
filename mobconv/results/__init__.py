"""The results of a sweep: a public contract in JSON, and the same rows as CSV and predictions."""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Encoded
from mobconv.common.files import output_errors, sha256, size, write_whole
from mobconv.errors import InputError
from mobconv.evaluate.latency import Latency
from mobconv.schemes import Cell

SCHEMA = 1
CELLS = ".cells"  # what a sweep keeps of each finished cell, below its folder
OK, UNSUPPORTED, FAILED = "ok", "unsupported", "failed"


@dataclass
class Row:
    """One cell. None where a figure does not apply or was not reached.

    parameters       weights quantized in this cell (all of the network's, in a float cell)
    weight_bytes     what these weights add to the file; effective_bits is 8 times that over parameters
    fp32_tensors     tensors whose scales or tables fp16 cannot hold: they are fp32
    top1, top5       fractions; the losses are points of top-1, positive is worse
    max_error        largest output error of an image over its largest reference output, worst image
    latency_ratio    to the same backend's fp32 file, run in turn; None where no runtime of its own ran
    """

    cell: str
    backend: str
    scheme: str
    bits: int
    mode: str | None
    granularity: str | None
    algorithm: str | None
    storage: str
    compute: str
    status: str
    stored_bits: int | None = None
    reason: str = ""
    note: str = ""
    requires: str = ""
    verified: str | None = None
    path: str | None = None
    sha256: str | None = None
    file_bytes: int | None = None
    weight_bytes: int | None = None
    effective_bits: float | None = None
    parameters: int | None = None
    fp32_tensors: int | None = None
    images: int | None = None
    top1: float | None = None
    top5: float | None = None
    reference_top1: float | None = None
    quantization_loss: float | None = None
    conversion_loss: float | None = None
    agreement: float | None = None
    snr_db: float | None = None
    max_error: float | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None
    load_ms: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, cell: Cell, status: str, **values: Any) -> Row:
        """A row with the parts of the cell's name filled in."""
        scheme = cell.scheme
        quantized = scheme.mode is not None
        return cls(
            cell=cell.name,
            backend=cell.backend,
            scheme=scheme.name,
            bits=scheme.bits,
            mode=scheme.mode.value if scheme.mode else None,
            granularity=scheme.granularity.value if quantized else None,
            algorithm=scheme.algorithm.value if quantized else None,
            storage=cell.storage.value,
            compute=cell.compute.value,
            status=status,
            **values,
        )


def of_file(
    cell: Cell,
    encoded: Encoded,
    file: Path,
    shown: str,
    counts: Mapping[str, int],
    verified: str,
    timing: Latency | None,
    **measured: Any,
) -> Row:
    """The row of a file that was written and opened.

    shown: its path as the row gives it; counts: `parameters` and `fp32_tensors`; measured: more fields.
    """
    support, weights = encoded.support, counts["parameters"]
    return Row.of(
        cell,
        OK,
        stored_bits=support.stored_bits,
        reason=support.reason,
        note=support.note,
        requires=support.requires,
        verified=verified,
        path=shown,
        sha256=sha256(file),
        file_bytes=size(file),
        weight_bytes=encoded.weight_bytes,
        effective_bits=round(8 * encoded.weight_bytes / weights, 4) if weights else None,
        latency_ms=timing.ms if timing else None,
        latency_ratio=timing.ratio if timing else None,
        **counts,
        **measured,
    )


@dataclass
class Cliff:
    """The widest width at which top-1 falls more than `margin` points below the float baseline.

    bits and top1 are None where none of the measured widths does.
    """

    backend: str
    mode: str
    granularity: str
    storage: str
    algorithm: str
    compute: str
    bits: int | None
    margin: float
    top1: float | None


@dataclass
class Results:
    """All of a sweep, as in ``results.json``.

    notes: what was recognised in checkpoint and data; what stands in the way of believing the figures, for one
    """

    model: dict[str, Any]
    data: dict[str, Any]
    tools: dict[str, str]
    float_top1: float
    cells: list[Row]
    cliffs: list[Cliff]
    schema: int = SCHEMA
    notes: list[str] = field(default_factory=list)


_Kind = TypeVar("_Kind", Row, Cliff)


def cliffs(rows: Iterable[Row], float_top1: float, margin: float) -> list[Cliff]:
    """One cliff for each backend, mode, granularity, storage, algorithm and compute that was measured."""
    groups: dict[tuple[str, str, str, str, str, str], list[Row]] = {}
    for row in rows:
        if row.mode and row.granularity and row.algorithm and row.top1 is not None:
            key = (row.backend, row.mode, row.granularity, row.storage, row.algorithm, row.compute)
            groups.setdefault(key, []).append(row)
    found = []
    for key, members in groups.items():
        fallen = [row for row in members if row.top1 is not None and _points(float_top1 - row.top1) > margin]
        widest = max(fallen, key=lambda row: row.bits, default=None)
        found.append(Cliff(*key, widest.bits if widest else None, margin, widest.top1 if widest else None))
    return found


def _points(fraction: float) -> float:
    """In points, without the last digits of binary fractions: 0.90 - 0.85 is five points, not more."""
    return round(fraction * 100, 9)


def row(values: Mapping[str, Any]) -> Row:
    """A row from what `asdict` made of it. Raises TypeError where a field is missing."""
    return Row(**_known(Row, values))


def write(folder: Path, results: Results, predictions: Mapping[str, NDArray[np.int64]], markdown: str) -> None:
    """Write results.json, .csv, .md and predictions.npz, each whole or not at all.

    results.json comes last, and goes first where others are to be replaced: whoever finds it finds what belongs to it.
    What is there already stays as it is.
    """
    stream = io.BytesIO()
    np.savez_compressed(stream, **{name: values.astype(np.int32) for name, values in predictions.items()})  # type: ignore[arg-type]
    contents = {
        "predictions.npz": stream.getvalue(),
        "results.csv": _csv(results.cells).encode(),
        "results.md": markdown.encode(),
        "results.json": (json.dumps(_finite(asdict(results)), indent=1) + "\n").encode(),
    }
    if all(_holds(folder / name, content) for name, content in contents.items()):
        return
    withdraw(folder)
    for name, content in contents.items():
        write_whole(folder / name, content)


def withdraw(folder: Path) -> None:
    """Remove results.json: files that it vouches for are about to change."""
    with output_errors(folder / "results.json"):
        (folder / "results.json").unlink(missing_ok=True)


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def read(path: Path) -> Results:
    """Read a results.json. Raises InputError when it is missing, broken or of another schema."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        begun = (path.parent / CELLS).is_dir()
        what = "its sweep has not come to its end; run it again" if begun else "`mobconv sweep` writes one"
        raise InputError(f"{path}: no such results file; {what}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a results file: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a results file of schema {SCHEMA}")
    parts = all(isinstance(content.get(name, {}), dict) for name in ("model", "data", "tools"))
    if not (parts and _number(content.get("float_top1", 0)) and _number(content.get("data", {}).get("images", 0))):
        raise InputError(f"{path}: model, data, tools or float_top1 is not what a sweep writes; run the sweep again")
    try:
        rows = [_checked(path, row(held)) for held in content["cells"]]
        drops = [_checked(path, Cliff(**_known(Cliff, cliff))) for cliff in content["cliffs"]]
        return Results(
            content["model"],
            content["data"],
            content["tools"],
            content["float_top1"],
            rows,
            drops,
            notes=_notes(path, content.get("notes", [])),  # files of mobconv 0.1.0 before they had any
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: a field is missing: {error}") from error


def read_predictions(path: Path, found: Results) -> dict[str, NDArray[np.int64]] | None:
    """What predictions.npz beside the results.json at `path` holds, each (N,); None where there is no such file.

    Raises InputError when it is broken, or not of these results. Cells are compared with their rows by `agrees`.
    """
    file = path.with_name("predictions.npz")
    if not file.exists():
        return None
    try:
        with np.load(file) as archive:
            held = {name: np.asarray(archive[name], np.int64) for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{file}: not predictions of a sweep: {error}") from error
    missing = [name for name in ("labels", "float") if name not in held]
    if missing:
        raise InputError(f"{file}: not predictions of a sweep: no {missing[0]!r} in it")
    shape = (found.data.get("images"),)
    if other := [name for name, values in held.items() if values.shape != shape]:
        raise InputError(f"{file}: {other[0]} is not of the {shape[0]} images of {path.name}")
    if not agrees(held["float"], held["labels"], found.float_top1):
        raise InputError(f"{file} is not of {path}: the float baseline's top-1 is another there")
    return held


def agrees(predicted: NDArray[np.int64], labels: NDArray[np.int64], top1: float) -> bool:
    """Whether predictions (N,) are those that a top-1 was counted from.

    A tie of two logits counts as right in a row, but has one class only among the predictions: half a percent of the
    images may differ by it (fp16 logits tie once in some thousand images).
    """
    return abs(float((predicted == labels).mean()) - top1) <= max(0.005, 1 / len(labels)) + 1e-9


def predictions_of(row: Row, held: Mapping[str, NDArray[np.int64]] | None, path: Path) -> NDArray[np.int64] | None:
    """Those of a cell (N,), of what read_predictions gave for the results.json at `path`; None where it gave None.

    Raises InputError where they are not what its row was counted from.
    """
    if held is None:
        return None
    file = path.with_name("predictions.npz")
    found = held.get(row.cell)
    if found is None:
        raise InputError(f"{file} has no predictions of {row.cell}: it is not of {path}; run the sweep again")
    if row.top1 is not None and not agrees(found, held["labels"], row.top1):
        counted = float((found == held["labels"]).mean()) * 100
        raise InputError(
            f"{row.cell}: {file} gives top-1 {counted:.2f} %, {path} says {row.top1 * 100:.2f} %: "
            "one of them was changed; run the sweep again"
        )
    return found


def images_of(row: Row | None, found: Results, path: Path) -> int:
    """On how many images a row (None: the float baseline) was measured. Raises InputError where that is not said."""
    images = (row.images if row else None) or found.data.get("images") or 0
    if not 1 <= images <= 1e12:
        where = row.cell if row else "float baseline"
        raise InputError(f"{path}: {where}: on how many images it was measured is not said; run the sweep again")
    return int(images)


def _notes(path: Path, held: Any) -> list[str]:
    if not isinstance(held, list) or not all(isinstance(note, str) for note in held):
        raise InputError(f"{path}: notes is {held!r}, not a list of texts; run the sweep again")
    return held


def _known(kind: type[Row] | type[Cliff], values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields may be added by later releases: unknown ones are left aside."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def _number(value: Any) -> bool:
    """Whether a figure is one: finite, and not so large that no float holds it."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _checked(path: Path, row: _Kind) -> _Kind:
    """The row or cliff, where its figures are numbers and the rest is text. Raises InputError."""
    for each in fields(row):
        value, kind = getattr(row, each.name), str(each.type)
        if kind.startswith("dict") or (value is None and "None" in kind):
            continue
        if not (isinstance(value, str) if "str" in kind else _number(value)):
            where = row.cell if isinstance(row, Row) else f"cliff of {row.backend}"
            raise InputError(f"{path}: {where}: {each.name} is {value!r}; run the sweep again")
    return row


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Iterable[Row]) -> str:
    names = [each.name for each in fields(Row) if each.name != "seconds"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = _finite(asdict(row))
        writer.writerow(["" if values[name] is None else values[name] for name in names])
    return stream.getvalue()
