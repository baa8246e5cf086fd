"""The corrected call to paste, once a mistake in preprocessing has a name: Python, or a command of mobconv's own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobconv import backends
from mobconv.backends.base import Backend, TensorSpec
from mobconv.backends.suggestion import caller_code
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import UsageError


def corrected(backend: Backend, spec: TensorSpec, network: Preprocessing, caller: Preprocessing) -> str:
    """Python that normalises as the network does.

    network: its own preprocessing; caller: what the file's caller does. Where callers hand over pixels as they are,
    normalising is up to the file, which has to be converted again, by its vendor's call; else it is up to the caller.
    """
    return backend.suggested_fix(spec, network, caller) if caller.untouched else caller_code(network, caller)


def exported_again(
    record: Mapping[str, Any],
    spec: TensorSpec,
    checkpoint: Path | str,
    network: Preprocessing,
    options: Sequence[str] = (),
) -> str:
    """The command that exports a file of ours as it should be.

    record: the file's own; options: of the command line, that say how the checkpoint is loaded. '' for another tool's
    file, and for one whose recipe gave its backend options: the command line has none.
    """
    try:
        cell = backends.cell(str(record["cell"]))
    except (KeyError, UsageError):  # another tool's file, or a later mobconv's
        return ""
    if set(record) & set(backends.get(cell.backend).options_schema.get("properties", {})):
        return ""
    choices = ["--to", cell.backend, "--scheme", cell.rest]
    if spec.dtype == "uint8":
        choices += ["--input", "image-uint8"]
    if cell.scheme.calibrated:
        choices += ["--calibrate", "DATA"]  # the record has the hash of the samples, not where they are
    lines = [
        ["mobconv", "export", str(checkpoint), *options],
        choices,
        ["--preprocessing", json.dumps(network.to_json()), "-o", "mended"],
    ]
    return " \\\n    ".join(map(shlex.join, lines))
