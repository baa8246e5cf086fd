"""Bytes that quantized weights add to a file: the file, less the same network with weights that take none.

That network is the file's with floats in place of codes, scales and tables, less the bytes of these floats.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from mobconv.backends.apple.description import RECORD_KEY
from mobconv.backends.mlmodel import model, params


def added_bytes(spec: Any, weights: Collection[str]) -> int:
    """Bytes of a file of ours without its record, less those of the network with weights that take none.

    weights: keys of the fields that are quantized.
    """
    plain = model.copied(spec)
    plain.description.metadata.userDefined.pop(RECORD_KEY, None)
    size, floats = len(model.serialize(plain)), 0
    for field in model.fields(model.network(plain).layers):
        if field.key in weights:
            count = math.prod(field.shape or ())
            params.put_floats(field.params, np.zeros(count, np.float32))
            floats += 4 * count
    return size - (len(model.serialize(plain)) - floats)
