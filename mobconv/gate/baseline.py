"""The lock file of earlier results: what a later sweep is held against, small enough to commit.

    {"kind": "mobconv baseline", "schema": 1, "mobconv": version,
     "model": {"path", "sha256"}, "data": {"source", "sha256", "images"}, "float_top1": fraction,
     "cells": {cell: {"top1": fraction, "bytes", "sha256", "right"}}}

`right` says which images the cell got right, for paired intervals: one bit an image in their order, the first the
highest of its byte, compressed (zlib), in base64; null where the sweep's predictions were not at hand.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.common.files import write_whole
from mobconv.errors import InputError
from mobconv.results import OK, Results, agrees

KIND, SCHEMA = "mobconv baseline", 1


@dataclass(frozen=True, eq=False)
class Locked:
    """One cell. top1: fraction; bytes: of the file; sha256: of it; right: (N,) bool, or None."""

    top1: float
    bytes: int
    sha256: str | None
    right: NDArray[np.bool_] | None


@dataclass(frozen=True, eq=False)
class Baseline:
    """A lock file. model and data hold `sha256`; cells by name."""

    path: Path
    model: dict[str, Any]
    data: dict[str, Any]
    float_top1: float
    cells: dict[str, Locked]


def write(path: Path, found: Results, predictions: Mapping[str, NDArray[np.int64]] | None) -> int:
    """Write the lock file of results; predictions as in predictions.npz. Returns how many cells it holds.

    Raises InputError when no cell was measured, or predictions are of other results.
    """
    from mobconv import __version__

    cells = {}
    for row in found.cells:
        if row.status != OK or row.top1 is None or row.file_bytes is None:
            continue
        right = None
        if predictions is not None:
            if row.cell not in predictions or not agrees(predictions[row.cell], predictions["labels"], row.top1):
                raise InputError(f"{row.cell}: predictions.npz is of other results; run the sweep again")
            right = _packed(predictions[row.cell] == predictions["labels"])
        cells[row.cell] = {"top1": row.top1, "bytes": row.file_bytes, "sha256": row.sha256, "right": right}
    if not cells:
        raise InputError("none of the results' cells was measured: nothing to hold later ones against")
    content = {
        "kind": KIND,
        "schema": SCHEMA,
        "mobconv": __version__,
        "model": {name: found.model.get(name) for name in ("path", "sha256")},
        "data": {name: found.data.get(name) for name in ("source", "sha256", "images")},
        "float_top1": found.float_top1,
        "cells": cells,
    }
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return len(cells)


def read(path: Path) -> Baseline:
    """Read a lock file. Raises InputError when it is missing, broken or something else."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such baseline; `mobconv baseline RESULTS -o {path}` writes one") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a baseline: {error}") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        results = isinstance(content, dict) and "cells" in content and "float_top1" in content
        hint = f"; these are results: `mobconv baseline {path}` makes a baseline of them" if results else ""
        raise InputError(f"{path}: not a baseline{hint}")
    if content.get("schema") != SCHEMA:
        raise InputError(f"{path}: a baseline of schema {content.get('schema')}, not {SCHEMA}; write it again")
    try:
        model, data = dict(content["model"]), dict(content["data"])
        images = int(data["images"])
        cells = {name: _locked(name, cell, images) for name, cell in content["cells"].items()}
        return Baseline(path, model, data, float(content["float_top1"]), cells)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: broken ({error}); write it again") from error


def _locked(name: str, cell: Mapping[str, Any], images: int) -> Locked:
    """Raises what a broken cell raises: KeyError, TypeError, ValueError."""
    top1, count = float(cell["top1"]), int(cell["bytes"])
    if not math.isfinite(top1) or count <= 0:
        raise ValueError(f"{name}: top1 {top1}, bytes {count}")
    right = None if cell["right"] is None else _unpacked(name, cell["right"], images)
    return Locked(top1, count, cell["sha256"], right)


def _packed(right: NDArray[np.bool_]) -> str:
    return base64.b64encode(zlib.compress(np.packbits(right).tobytes(), 9)).decode()


def _unpacked(name: str, text: str, images: int) -> NDArray[np.bool_]:
    try:
        stream = zlib.decompressobj()
        content = stream.decompress(base64.b64decode(text, validate=True), -(-images // 8) + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"{name}: {error}") from error
    if not stream.eof or len(content) != -(-images // 8):
        raise ValueError(f"{name}: not one bit for each of {images} images")
    return np.unpackbits(np.frombuffer(content, np.uint8), count=images).astype(bool)
