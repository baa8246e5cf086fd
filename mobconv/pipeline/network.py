"""A scheme applied to a whole network, and what a file says of itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from mobconv import recipe
from mobconv.data.preprocessing import Preprocessing
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.trace import Program
from mobconv.quantize import QuantizedWeight, Weight, quantize
from mobconv.schemes import Cell, Scheme


def quantize_all(
    program: Program, scheme: Scheme, rules: recipe.Recipe | None = None, threads: int = 0
) -> dict[str, Weight]:
    """Every site's weight under a scheme and a recipe's layer rules.

    threads: 0 for all cores; numpy and numba release the GIL. The weights are the same whatever it is.
    """
    values = program.floats()

    def one(name: str) -> Weight:
        own = rules.scheme_for(name, scheme) if rules else scheme
        return quantize(name, values[name], program.sites[name].axis, own)

    # the largest first, lest one be left over for a single thread at the end
    order = sorted(program.sites, key=lambda name: -values[name].size)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        done = dict(zip(order, pool.map(one, order), strict=True))
    return {name: done[name] for name in program.sites}


def record(
    cell: Cell,
    checkpoint: Checkpoint,
    takes: Preprocessing | None,
    image_type: recipe.ImageTypeSpec | None = None,
) -> str:
    """What travels in an artifact: cell, hash of the checkpoint, labels, the network's preprocessing, as `input` what
    of it the file leaves to its caller, and a recipe's `image_type`; as JSON."""
    content: dict[str, Any] = {"cell": cell.name, "checkpoint": checkpoint.sha256, "labels": list(checkpoint.labels)}
    if checkpoint.preprocessing is not None:
        content["preprocessing"] = checkpoint.preprocessing.to_json()
    if takes is not None:
        content["input"] = takes.to_json()
    if image_type is not None:
        content["image_type"] = image_type.model_dump()
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def describe(weights: Mapping[str, Weight], scheme: Scheme) -> dict[str, int]:
    """How many weights a cell quantizes, and in how many tensors fp16 cannot hold the parameters."""
    counted = [w for w in weights.values() if scheme.mode is None or isinstance(w, QuantizedWeight)]
    return {
        "parameters": sum(int(w.codes.size if isinstance(w, QuantizedWeight) else w.values.size) for w in counted),
        "fp32_tensors": sum(isinstance(w, QuantizedWeight) and not w.fp16 for w in counted),
    }
