"""Padding in front of max pooling, which ONNX Runtime merges into the pooling though that pads with another value.

Its PadFusion (onnxruntime/core/optimizer/pad_fusion.cc) moves padding with zeros into MaxPool, which pads with -inf. It
merges no Pad that names its axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_NOT_NEGATIVE = ("Relu", "Sigmoid")  # behind these, a maximum is the same with zeros and without


def separate(model: ir.Model) -> None:
    """Name all axes of each Pad that the runtime would merge into max pooling of another result."""
    import numpy as np
    import onnx_ir as ir

    for node in model.graph:
        if node.op_type != "Pad" or len(node.inputs) > 3 or not _changes(node):
            continue
        count = len(node.inputs[1].const_value.numpy()) // 2 if node.inputs[1] and node.inputs[1].const_value else 0
        name = f"{node.outputs[0].name}_axes"
        axes = ir.Value(name=name, const_value=ir.tensor(np.arange(count, dtype=np.int64), name=name))
        model.graph.register_initializer(axes)
        node.resize_inputs(4)
        node.replace_input_with(3, axes)


def _changes(pad: ir.Node) -> bool:
    """Whether a maximum over the padding's zeros may be another than one over the values alone."""
    producer = pad.inputs[0].producer() if pad.inputs[0] is not None else None
    read = any(usage.node.op_type == "MaxPool" for usage in pad.outputs[0].uses())
    return read and (producer is None or producer.op_type not in _NOT_NEGATIVE)
