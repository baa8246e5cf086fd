"""results.json, .csv and .md: written whole, read back and checked."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mobconv.common.files import output_errors, write_whole
from mobconv.errors import InputError
from mobconv.evaluate.tasks import Metric
from mobconv.results.rows import CELLS, SCHEMA, Cliff, Results, Row

_Kind = TypeVar("_Kind", Row, Cliff)


def row_from(values: Mapping[str, Any]) -> Row:
    """A row from its fields, as `asdict` gives them. Raises TypeError where a field is missing."""
    return Row(**_known(Row, values))


def write(folder: Path, results: Results, scores: Mapping[str, NDArray[Any]], markdown: str) -> None:
    """Write results.json, .csv, .md and scores.npz, each whole or not at all.

    scores: arrays (N,) of scores.npz. results.json is removed first and written last, so where it exists, the other
    files belong to it. Where no file would change, none is written.
    """
    stream = io.BytesIO()
    np.savez_compressed(stream, **dict(scores))  # type: ignore[arg-type]
    contents = {
        "scores.npz": stream.getvalue(),
        "results.csv": _csv(results.cells).encode(),
        "results.md": markdown.encode(),
        "results.json": (json.dumps(_finite(asdict(results)), indent=1) + "\n").encode(),
    }
    if all(_equals(folder / name, content) for name, content in contents.items()):
        return
    withdraw(folder)
    for name, content in contents.items():
        write_whole(folder / name, content)


def withdraw(folder: Path) -> None:
    """Remove results.json, before the files that belong to it change."""
    with output_errors(folder / "results.json"):
        (folder / "results.json").unlink(missing_ok=True)


def _equals(path: Path, content: bytes) -> bool:
    return path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content


def file_of(path: Path) -> Path:
    """results.json, where the folder of a sweep is named."""
    return path / "results.json" if path.is_dir() else path


def read(path: Path) -> Results:
    """Read a results.json. Raises InputError when it is missing, broken or of another schema."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        unfinished = (path.parent / CELLS).is_dir()
        why = "its sweep did not finish; run it again" if unfinished else "`mobconv sweep` writes one"
        raise InputError(f"{path}: no such results file; {why}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a results file: {error}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(f"{path}: {_schema_of(content)}")
    parts = all(isinstance(content.get(name, {}), dict) for name in ("model", "data", "tools", "task"))
    if not (parts and _number(content.get("float_score", 0)) and _number(content.get("data", {}).get("samples", 0))):
        raise InputError(
            f"{path}: model, data, tools, task or float_score is not what a sweep writes; run the sweep again"
        )
    try:
        rows = [_checked(path, row_from(values)) for values in content["cells"]]
        cliffs = [_checked(path, Cliff(**_known(Cliff, values))) for values in content["cliffs"]]
        task = {"name": str(content["task"]["name"]), "metric": _metric(path, content["task"]["metric"])}
        if further := content["task"].get("further", {}):
            task["further"] = {str(name): _metric(path, values) for name, values in further.items()}
        return Results(
            content["model"],
            content["data"],
            content["tools"],
            task,
            content["float_score"],
            rows,
            cliffs,
            notes=_notes(path, content["notes"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: a field is missing: {error}") from error


def _schema_of(content: Any) -> str:
    """Why a file is not one of this schema, in a line."""
    schema = content.get("schema") if isinstance(content, dict) else None
    if isinstance(schema, int) and schema < SCHEMA:
        return f"results of schema {schema}, and this mobconv reads schema {SCHEMA}; run the sweep again"
    return f"not a results file of schema {SCHEMA}"


def metric_from(values: Any) -> Metric:
    """A metric from its fields, as `asdict` gives them. Raises TypeError where one is missing or of another type."""
    metric = Metric(**_known(Metric, values))
    texts = all(isinstance(text, str) for text in (metric.name, metric.unit, metric.loss_unit))
    full = metric.full is None or (_number(metric.full) and metric.full > 0)
    decimals = isinstance(metric.decimals, int) and 0 <= metric.decimals <= 12
    resamples = isinstance(metric.resamples, int) and 0 <= metric.resamples <= 1_000_000
    if not (texts and full and decimals and resamples and isinstance(metric.higher_is_better, bool)):
        raise TypeError(f"not a metric: {values}")
    return metric


def _metric(path: Path, values: Any) -> dict[str, Any]:
    """The metric's fields, checked."""
    try:
        return asdict(metric_from(values))
    except (TypeError, AttributeError):
        raise InputError(f"{path}: task.metric is {values!r}; run the sweep again") from None


def _notes(path: Path, values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(note, str) for note in values):
        raise InputError(f"{path}: notes is {values!r}, not a list of texts; run the sweep again")
    return values


def _known(kind: type[Row] | type[Cliff] | type[Metric], values: Mapping[str, Any]) -> dict[str, Any]:
    """Drop unknown fields: later releases may add some."""
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def _number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def _checked(path: Path, row: _Kind) -> _Kind:
    """The row or cliff, where its figures are numbers and the rest is text. Raises InputError."""
    for each in fields(row):
        value, kind = getattr(row, each.name), str(each.type)
        if value is None and "None" in kind:
            continue
        if kind.startswith("dict"):
            valid = isinstance(value, dict) and all(_number(number) for number in value.values())
        else:
            valid = isinstance(value, str) if "str" in kind else _number(value)
        if not valid:
            where = row.cell if isinstance(row, Row) else f"cliff of {row.backend}"
            raise InputError(f"{path}: {where}: {each.name} is {value!r}; run the sweep again")
    return row


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by null."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv(rows: Iterable[Row]) -> str:
    """A line for each row; further metrics as `name=value` in one column."""
    names = [each.name for each in fields(Row) if each.name != "seconds"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = _finite(asdict(row))
        values["metrics"] = " ".join(f"{name}={value:g}" for name, value in row.metrics.items())
        writer.writerow(["" if values[name] is None else values[name] for name in names])
    return stream.getvalue()
