"""The layer types that can be run, in one table, with the semantics that NeuralNetwork.proto describes.

Imports torch: import this module only when a network is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F

from mobconv.backends.apple import ops
from mobconv.backends.mlmodel import layers_elementwise, layers_shape, layers_weights

if TYPE_CHECKING:
    from mobconv.backends.apple.call import Call, Function
    from mobconv.backends.mlmodel.layer import LayerFunction


@cache
def table() -> Mapping[str, LayerFunction]:
    """Layer types, each with the function that adds its operations."""
    return {**layers_weights.LAYERS, **layers_elementwise.LAYERS, **layers_shape.LAYERS}


@cache
def functions() -> Mapping[str, Function]:
    """Functions of operations: those of ML Programs, and one more."""
    return {**ops.table(), "embedding": _embedding}


def _embedding(call: Call) -> Any:
    """x: (.., 1) row numbers as floats; weight: (rows, size)."""
    return F.embedding(call.get("x").long().squeeze(-1), call.get("weight"))
