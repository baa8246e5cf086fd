"""The layer types that can be run here, in one table; semantics as NeuralNetwork.proto describes them.

torch is imported here: import this module only when a network is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F

from mobconv.backends.coreml import ops
from mobconv.backends.mlmodel import layers_elementwise, layers_shape, layers_weights

if TYPE_CHECKING:
    from mobconv.backends.coreml.call import Call, Function
    from mobconv.backends.mlmodel.graph import LayerFunction


@cache
def table() -> Mapping[str, LayerFunction]:
    """All layer types, each with the function that puts it into steps."""
    return {**layers_weights.LAYERS, **layers_elementwise.LAYERS, **layers_shape.LAYERS}


@cache
def functions() -> Mapping[str, Function]:
    """What the steps compute: the operations of ML Programs, and one that they do not have."""
    return {**ops.table(), "embedding": _embedding}


def _embedding(call: Call) -> Any:
    """x: (.., 1) row numbers as floats; weight: (rows, size)."""
    return F.embedding(call.get("x").long().squeeze(-1), call.get("weight"))
