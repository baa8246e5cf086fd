"""The lock file of earlier results, with which a later sweep is compared: small enough to commit.

    {"kind": "mobconv baseline", "schema": 2, "mobconv": version,
     "model": {"path", "sha256"}, "data": {"source", "sha256", "samples"},
     "metric": {"name", "unit", "loss_unit", "higher_is_better", "decimals", "full",
                "resamples"}, "float_score": score,
     "cells": {cell: {"score", "bytes", "sha256", "scores": {"type", "zlib"} or null}}}

`scores` are those of each sample, for paired intervals; null where the sweep's scores.npz was missing. `zlib` is base64
of a zlib stream of one number for each sample, in the order of the samples:

| type      | a sample                                                                               |
|-----------|----------------------------------------------------------------------------------------|
| `bits`    | one bit, 1 for a score of `full` and 0 for a score of 0; the first is its byte's highest |
| `float32` | four bytes, IEEE 754, the lowest first                                                  |
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mobconv.common.files import write_whole
from mobconv.errors import InputError
from mobconv.evaluate.tasks import Metric, Scores
from mobconv.results import OK, Results, SampleScores, metric_from

KIND, SCHEMA = "mobconv baseline", 2
_BITS, _FLOATS = "bits", "float32"


@dataclass(frozen=True, eq=False)
class LockedCell:
    """One cell. score: in the metric's unit; bytes: of the file; sha256: of it; scores: of samples, (N,), or None."""

    score: float
    bytes: int
    sha256: str | None
    scores: Scores | None


@dataclass(frozen=True, eq=False)
class Baseline:
    """A lock file. model and data have `sha256`; cells by name."""

    path: Path
    model: dict[str, Any]
    data: dict[str, Any]
    metric: Metric
    float_score: float
    cells: dict[str, LockedCell]


def write(path: Path, results: Results, scores: SampleScores | None) -> int:
    """Write the lock file of results. Returns the number of its cells.

    Raises InputError when no cell was measured, or scores are of other results.
    """
    from mobconv.common.version import __version__

    cells = {}
    for row in results.cells:
        if row.status != OK or row.score is None or row.file_bytes is None:
            continue
        packed = None if scores is None else _packed(scores.of(row), results.metric)
        cells[row.cell] = {"score": row.score, "bytes": row.file_bytes, "sha256": row.sha256, "scores": packed}
    if not cells:
        raise InputError("none of the results' cells was measured: a baseline of them would be empty")
    content = {
        "kind": KIND,
        "schema": SCHEMA,
        "mobconv": __version__,
        "model": {name: results.model.get(name) for name in ("path", "sha256")},
        "data": {name: results.data.get(name) for name in ("source", "sha256", "samples")},
        "metric": asdict(results.metric),
        "float_score": results.float_score,
        "cells": cells,
    }
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return len(cells)


def read(path: Path) -> Baseline:
    """Read a lock file. Raises InputError when it is missing, broken, of another schema or another kind of file."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such baseline; `mobconv baseline RESULTS -o {path}` writes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a baseline: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        results = isinstance(content, dict) and "cells" in content and "cliffs" in content
        hint = f"; these are results: `mobconv baseline {path}` makes a baseline of them" if results else ""
        raise InputError(f"{path}: not a baseline{hint}")
    if content.get("schema") != SCHEMA:
        raise InputError(f"{path}: a baseline of schema {content.get('schema')}, not {SCHEMA}; write it again")
    try:
        model, data, metric = dict(content["model"]), dict(content["data"]), metric_from(content["metric"])
        samples = int(data["samples"])
        cells = {name: _locked(name, cell, metric, samples) for name, cell in content["cells"].items()}
        return Baseline(path, model, data, metric, float(content["float_score"]), cells)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: broken ({error}); write it again") from error


def _locked(name: str, cell: Mapping[str, Any], metric: Metric, samples: int) -> LockedCell:
    """The cell. Raises KeyError, TypeError or ValueError where it is broken."""
    score, count = float(cell["score"]), int(cell["bytes"])
    if not math.isfinite(score) or count <= 0:
        raise ValueError(f"{name}: score {score}, bytes {count}")
    scores = None if cell["scores"] is None else _unpacked(name, cell["scores"], metric, samples)
    return LockedCell(score, count, cell["sha256"], scores)


def _packed(scores: Scores, metric: Metric) -> dict[str, str]:
    """See the top of this file."""
    if metric.full is not None and not metric.resamples and bool(np.isin(scores, (0.0, metric.full)).all()):
        kind, content = _BITS, np.packbits(scores > 0).tobytes()
    else:
        kind, content = _FLOATS, scores.astype("<f4").tobytes()
    return {"type": kind, "zlib": base64.b64encode(zlib.compress(content, 9)).decode()}


def _unpacked(name: str, packed: Mapping[str, Any], metric: Metric, samples: int) -> Scores:
    kind = packed["type"]
    if kind not in (_BITS, _FLOATS) or (kind == _BITS and metric.full is None):
        raise ValueError(f"{name}: scores of type {kind!r} for {metric.name}")
    samples = metric.scores_of(samples)
    size = -(-samples // 8) if kind == _BITS else 4 * samples
    content = _inflated(packed["zlib"], size)
    if content is None:
        raise ValueError(f"{name}: not one score for each of {samples} samples")
    if kind == _BITS:
        return np.unpackbits(np.frombuffer(content, np.uint8), count=samples).astype(np.float64) * (metric.full or 0.0)
    return np.frombuffer(content, "<f4").astype(np.float64)


def _inflated(text: str, size: int) -> bytes | None:
    """The `size` bytes of a zlib stream in base64; None where it has fewer or more. Raises ValueError."""
    try:
        stream = zlib.decompressobj()
        content = stream.decompress(base64.b64decode(text, validate=True), size + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(error) from error
    return content if stream.eof and len(content) == size else None
