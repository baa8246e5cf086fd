"""Layers that move, cut and join values, and constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mobconv.backends.mlmodel.layer import LayerContext, LayerFunction

_CHANNEL_FIRST = 0  # FlattenLayerParams.FlattenOrder, ReshapeLayerParams.ReshapeOrder


def _reshape_static(layer: LayerContext) -> None:
    layer.emit("reshape", shape=[int(size) for size in layer.params.targetShape])


def _reshape(layer: LayerContext) -> None:
    """The older layer: [C, H, W] after the batch."""
    p, sizes = layer.params, [int(size) for size in layer.params.targetShape]
    if p.mode != _CHANNEL_FIRST or len(sizes) != 3:
        raise layer.refuse(f"a target shape of {len(sizes)} axes, or the order CHANNEL_LAST,")
    layer.emit("reshape", shape=[layer.shape()[0], *sizes])


def _flatten(layer: LayerContext) -> None:
    shape = layer.shape()
    if layer.params.mode != _CHANNEL_FIRST or len(shape) < 3:
        raise layer.refuse("the order CHANNEL_LAST, or an input of less than 3 axes,")
    layer.emit("reshape", shape=[*shape[:-3], int(np.prod(shape[-3:])), 1, 1])


def _permute(layer: LayerContext) -> None:
    """[sequence, channel, height, width] in another order; networks run without the first axis, see `graph`."""
    axes = [int(axis) for axis in layer.params.axis] or [0, 1, 2, 3]
    if axes[0] != 0 or layer.rank() != 4:
        raise layer.refuse("a permutation of the sequence's axis")
    layer.emit("transpose", perm=axes)


def _squeeze(layer: LayerContext) -> None:
    p = layer.params
    ones = [axis for axis, size in enumerate(layer.shape()) if size == 1]
    layer.emit("squeeze", axes=ones if p.squeezeAll else [int(axis) for axis in p.axes])


def _concat(layer: LayerContext) -> None:
    if layer.params.sequenceConcat:
        raise layer.refuse("a concatenation along the sequence")
    layer.emit("concat", {"values": layer.inputs}, axis=-3)


def _concat_nd(layer: LayerContext) -> None:
    p = layer.params
    layer.emit("concat", {"values": layer.inputs}, axis=int(p.axis), interleave=bool(p.interleave))


def _split_nd(layer: LayerContext) -> None:
    p = layer.params
    sizes = [int(size) for size in p.splitSizes]
    count: dict[str, Any] = {"split_sizes": sizes} if sizes else {"num_splits": int(p.numSplits) or len(layer.outputs)}
    layer.emit_all("split", axis=int(p.axis), **count)


def _slice_static(layer: LayerContext) -> None:
    p = layer.params
    masks: dict[str, Any] = {
        name: np.array(flags, bool)
        for name, flags in (
            ("begin_mask", p.beginMasks),
            ("end_mask", p.endMasks),
            ("squeeze_mask", p.squeezeMasks),
        )
        if flags
    }
    layer.emit("slice_by_index", begin=list(p.beginIds), end=list(p.endIds), stride=list(p.strides), **masks)


def _slice(layer: LayerContext) -> None:
    """The older layer: along one of the last three axes. An end of -1 is the last element, exclusive."""
    p, rank = layer.params, layer.rank()
    axis = rank - 3 + int(p.axis)
    if axis < 0:
        raise layer.refuse(f"an input of {rank} axes")
    inside = np.arange(rank) == axis
    begin, end = (np.where(inside, int(size), 0).tolist() for size in (p.startIndex, p.endIndex))
    stride = np.where(inside, int(p.stride) or 1, 1).tolist()
    layer.emit("slice_by_index", begin=begin, end=end, stride=stride, begin_mask=~inside, end_mask=~inside)


def _crop(layer: LayerContext) -> None:
    if len(layer.inputs) > 1:
        raise layer.refuse("a crop to the shape of another value")
    edges = layer.params.cropAmounts.borderAmounts
    height, width = ([int(edge.startEdgeSize), int(edge.endEdgeSize)] for edge in edges)
    layer.emit("crop", crop_height=height, crop_width=width)


def _reorganize(layer: LayerContext) -> None:
    p, size = layer.params, int(layer.params.blockSize)
    if layer.rank() != 4:
        raise layer.refuse(f"an input of {layer.rank()} axes")
    mode = type(p).ReorganizationType.Name(p.mode)
    if mode == "PIXEL_SHUFFLE":
        layer.emit("pixel_shuffle", upscale_factor=size)
    else:
        layer.emit(mode.lower(), block_size=size)


def _constant(layer: LayerContext) -> None:
    """loadConstant is [C, H, W] after a batch of 1."""
    values = layer.weight("data")
    layer.constant("", values[None] if layer.kind == "loadConstant" else values)


def _fill(layer: LayerContext) -> None:
    p = layer.params
    layer.constant("", np.full([int(size) for size in p.targetShape], p.value, np.float32))


def _gather(layer: LayerContext) -> None:
    values, at = layer.inputs
    layer.emit("gather", {"x": values, "indices": at}, axis=int(layer.params.axis))


def _reverse(layer: LayerContext) -> None:
    layer.emit("reverse", axes=[axis for axis, turned in enumerate(layer.params.reverseDim) if turned])


LAYERS: dict[str, LayerFunction] = {
    "reshapeStatic": _reshape_static,
    "rankPreservingReshape": _reshape_static,
    "reshape": _reshape,
    "flatten": _flatten,
    "flattenTo2D": lambda layer: layer.emit("flatten2d", axis=int(layer.params.axis)),
    "transpose": lambda layer: layer.emit("transpose", perm=[int(axis) for axis in layer.params.axes]),
    "permute": _permute,
    "squeeze": _squeeze,
    "expandDims": lambda layer: layer.emit("expand_dims", axes=[int(axis) for axis in layer.params.axes]),
    "concat": _concat,
    "concatND": _concat_nd,
    "split": lambda layer: layer.emit_all("split", axis=-3, num_splits=len(layer.outputs)),
    "splitND": _split_nd,
    "stack": lambda layer: layer.emit("stack", {"values": layer.inputs}, axis=int(layer.params.axis)),
    "sliceStatic": _slice_static,
    "slice": _slice,
    "crop": _crop,
    "reorganizeData": _reorganize,
    "tile": lambda layer: layer.emit("tile", reps=[int(count) for count in layer.params.reps]),
    "loadConstant": _constant,
    "loadConstantND": _constant,
    "fillStatic": _fill,
    "gather": _gather,
    "reverse": _reverse,
    "matrixBandPart": lambda layer: layer.emit(
        "band_part", lower=int(layer.params.numLower), upper=int(layer.params.numUpper)
    ),
}
