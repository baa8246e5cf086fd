"""An operation behind the normalisation of pixels that keeps litert-torch from changing the first layer's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mobconv.model.program import ADDED

if TYPE_CHECKING:
    from torch.fx import GraphModule

LEAST = f"{ADDED}least"


def barrier(module: GraphModule, normalised: Any, scale: Any) -> Any:
    """Put a maximum with the least float behind pixels divided by one scale for all channels: it changes no value.

    litert-torch would multiply such a scale into the weights of the first layer, where other weights are to go.
    normalised: node of the division; scale: float32 (1, channels, 1, 1). -> the node that the network reads.
    """
    import torch

    if not bool((scale == scale.flatten()[0]).all()):
        return normalised
    module.register_buffer(LEAST, torch.full((1, 1, 1, 1), torch.finfo(torch.float32).min))
    return module.graph.call_function(torch.ops.aten.maximum.default, (normalised, module.graph.get_attr(LEAST)))
