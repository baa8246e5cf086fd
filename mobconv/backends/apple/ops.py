"""The operations of ML Programs in torch, in one table.

Semantics follow coremltools' definitions (mil/ops/defs/iOS15 to iOS18).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from mobconv.backends.apple.call import Function


@cache
def table() -> Mapping[str, Function]:
    """Functions of all operations, by kind. torch is imported here."""
    from mobconv.backends.apple import ops_elementwise, ops_layers, ops_shape

    return {**ops_elementwise.OPS, **ops_layers.OPS, **ops_shape.OPS}
