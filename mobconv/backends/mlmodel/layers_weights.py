"""Layers with weights, pooling and normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from mobconv.backends.mlmodel.layer import LayerContext, LayerFunction

_MAX, _AVERAGE, _L2 = 0, 1, 2  # PoolingLayerParams.PoolingType
_TOP_LEFT = 1  # SamePadding.SamePaddingMode


def _borders(message: Any) -> list[int]:
    """[top, bottom, left, right] of BorderAmounts."""
    borders = [int(size) for edge in message.borderAmounts for size in (edge.startEdgeSize, edge.endEdgeSize)]
    return borders or [0, 0, 0, 0]


def _padding(params: Any, which: str) -> dict[str, Any]:
    """Padding as parameters of an operation."""
    if which == "same":
        return {"pad_type": "same_lower" if params.same.asymmetryMode == _TOP_LEFT else "same"}
    return {"pad_type": "custom", "pad": _borders(params.valid.paddingAmounts)}


def _needs_rank(layer: LayerContext, rank: int = 4) -> None:
    if layer.rank() != rank:
        raise layer.refuse(f"an input of {layer.rank()} axes")


def _convolution(layer: LayerContext) -> None:
    p = layer.params
    _needs_rank(layer)
    if len(layer.inputs) > 1:
        raise layer.refuse("a weight that is computed")
    constants: dict[str, Any] = {"weight": layer.weight(), "groups": int(p.nGroups) or 1}
    constants["strides"] = [int(size) for size in p.stride] or [1, 1]
    if p.hasBias:
        constants["bias"] = layer.read(p.bias, p.outputChannels)
    if p.isDeconvolution:
        constants |= _deconvolution_borders(layer, constants["strides"], constants["weight"].shape[2:])
        layer.emit("conv_transpose", **constants)
    else:
        constants |= _padding(p, p.WhichOneof("ConvolutionPaddingType") or "valid")
        layer.emit("conv", dilations=[int(size) for size in p.dilationFactor] or [1, 1], **constants)


def _deconvolution_borders(layer: LayerContext, strides: list[int], window: tuple[int, ...]) -> dict[str, Any]:
    """What is cut off the full result of a deconvolution.

    The format says that padding is ignored where outputShape is set, and not where the cut is made then: such a
    layer is run only if its padding leads to that very shape. (`convert` writes padding and no outputShape.)
    """
    p = layer.params
    wanted = [int(size) for size in p.outputShape]
    if any(factor > 1 for factor in p.dilationFactor):
        raise layer.refuse("a deconvolution with dilation, which the format ignores,")
    if p.WhichOneof("ConvolutionPaddingType") == "same":
        if wanted and wanted != [size * step for size, step in zip(layer.shape()[2:], strides, strict=True)]:
            raise layer.refuse(f"a deconvolution to the shape {wanted}, which its padding does not give,")
        return _padding(p, "same")
    borders = _borders(p.valid.paddingAmounts)
    if wanted and wanted != deconvolved(layer.shape()[2:], window, strides, borders):
        raise layer.refuse(f"a deconvolution to the shape {wanted}, which its padding does not give,")
    return {"pad_type": "custom", "pad": borders}


def deconvolved(sizes: tuple[int, ...], window: tuple[int, ...], strides: list[int], borders: list[int]) -> list[int]:
    """[height, width] of a deconvolution's output under ValidPadding, for an input of `sizes`."""
    return [(sizes[i] - 1) * strides[i] + window[i] - borders[2 * i] - borders[2 * i + 1] for i in (0, 1)]


def _biased(layer: LayerContext) -> dict[str, Any]:
    p = layer.params
    return {"bias": layer.read(p.bias, layer.weight().shape[0])} if p.hasBias else {}


def _inner_product(layer: LayerContext) -> None:
    p, rank = layer.params, layer.rank()
    if p.int8DynamicQuantize:
        raise layer.refuse("int8DynamicQuantize")
    constants: dict[str, Any] = {"weight": layer.weight(), **_biased(layer)}
    if rank <= 3:
        layer.emit("linear", **constants)
        return
    _needs_rank(layer)
    rows = layer.shape()[0]
    flat = layer.emit("reshape", part="flat", shape=[rows, -1])
    made = layer.emit("linear", {"x": flat}, part="product", **constants)
    layer.emit("reshape", {"x": made}, shape=[rows, int(p.outputChannels), 1, 1])


def _batched_matmul(layer: LayerContext) -> None:
    p = layer.params
    if p.int8DynamicQuantize:
        raise layer.refuse("int8DynamicQuantize")
    if len(layer.inputs) == 1:
        layer.emit("linear", weight=layer.weight(), **_biased(layer))
        return
    if min(len(layer.shape(name)) for name in layer.inputs) < 2:
        raise layer.refuse("a vector as an input")
    x, y = layer.inputs
    layer.emit("matmul", {"x": x, "y": y}, transpose_x=bool(p.transposeA), transpose_y=bool(p.transposeB))


def _embedding(layer: LayerContext) -> None:
    """embeddingND: (.., 1) -> (.., size); embedding: (rows, 1, 1, 1) -> (rows, size, 1, 1)."""
    p = layer.params
    flat = layer.kind == "embedding"
    if flat:
        _needs_rank(layer)
    x = layer.emit("reshape", part="rows", shape=[layer.shape()[0], 1]) if flat else layer.x
    weight = np.ascontiguousarray(layer.weight().T)
    if p.hasBias:
        weight = weight + layer.read(p.bias, weight.shape[1])
    if not flat:
        layer.emit("embedding", {"x": x}, weight=weight)
        return
    made = layer.emit("embedding", {"x": x}, part="vectors", weight=weight)
    layer.emit("reshape", {"x": made}, shape=[layer.shape()[0], weight.shape[1], 1, 1])


def _batchnorm(layer: LayerContext) -> None:
    p = layer.params
    _needs_rank(layer)
    epsilon = float(p.epsilon) or 1e-5
    scale: dict[str, Any] = {"gamma": layer.read(p.gamma, p.channels), "beta": layer.read(p.beta, p.channels)}
    scale["epsilon"] = epsilon
    if not p.computeMeanVar:
        mean, variance = layer.read(p.mean, p.channels), layer.read(p.variance, p.channels)
        layer.emit("batch_norm", mean=mean, variance=variance, **scale)
    elif p.instanceNormalization:
        layer.emit("instance_norm", **scale)
    else:
        raise layer.refuse("a mean over the batch")


def _pooling(layer: LayerContext) -> None:
    p = layer.params
    if p.globalPooling:
        kind = {_MAX: "reduce_max", _AVERAGE: "reduce_mean", _L2: "reduce_l2_norm"}[p.type]
        layer.emit(kind, axes=[-2, -1], keep_dims=True)
        return
    _needs_rank(layer)
    kernel, strides = [int(size) for size in p.kernelSize] or [3, 3], [int(size) for size in p.stride] or [1, 1]
    constants: dict[str, Any] = {"kernel_sizes": kernel, "strides": strides}
    which = p.WhichOneof("PoolingPaddingType") or "valid"
    if which == "includeLastPixel":
        if any(step > size for step, size in zip(strides, kernel, strict=True)):
            raise layer.refuse("includeLastPixel with a stride beyond the kernel")
        height, width = [int(size) for size in p.includeLastPixel.paddingAmounts] or [0, 0]
        constants |= {"pad_type": "custom", "pad": [height, height, width, width], "ceil_mode": True}
    else:
        constants |= _padding(p, which)
    if p.type == _AVERAGE:
        constants["exclude_padding_from_average"] = bool(p.avgPoolExcludePadding)
    layer.emit({_MAX: "max_pool", _AVERAGE: "avg_pool", _L2: "l2_pool"}[p.type], **constants)


def _pad(layer: LayerContext) -> None:
    p, kind = layer.params, layer.params.WhichOneof("PaddingType") or "constant"
    modes = {"constant": "constant", "reflection": "reflect", "replication": "replicate"}
    layer.emit("pad", pad=_borders(p.paddingAmounts), mode=modes[kind], constant_val=float(p.constant.value))


def _constant_pad(layer: LayerContext) -> None:
    p = layer.params
    if len(layer.inputs) > 1 or p.padToGivenOutputSizeMode:
        raise layer.refuse("padding that is computed")
    layer.emit("pad", pad=[int(size) for size in p.padAmounts], mode="constant", constant_val=float(p.value))


def _layer_norm(layer: LayerContext) -> None:
    p = layer.params
    shape = [int(size) for size in p.normalizedShape]
    scale: dict[str, Any] = {"gamma": layer.read(p.gamma, *shape), "beta": layer.read(p.beta, *shape)}
    layer.emit("layer_norm", axes=list(range(-len(shape), 0)), epsilon=float(p.eps) or 1e-5, **scale)


def _mean_variance(layer: LayerContext) -> None:
    p = layer.params
    axes = [-3, -2, -1] if p.acrossChannels else [-2, -1]
    if p.normalizeVariance:
        layer.emit("layer_norm", axes=axes, epsilon=float(p.epsilon) or 1e-6)
    else:
        mean = layer.emit("reduce_mean", part="mean", axes=axes, keep_dims=True)
        layer.emit("sub", {"x": layer.x, "y": mean})


def _local_response(layer: LayerContext) -> None:
    p = layer.params
    _needs_rank(layer)
    layer.emit(
        "local_response_norm", size=int(p.localSize), alpha=float(p.alpha), beta=float(p.beta), k=float(p.k) or 1.0
    )


def _upsample(layer: LayerContext) -> None:
    p = layer.params
    scales = [float(size) for size in (p.fractionalScalingFactor or p.scalingFactor)] or [1.0, 1.0]
    constants: dict[str, Any] = {"scale_factor_height": scales[0], "scale_factor_width": scales[1]}
    default, aligned = 0, 1  # UpsampleLayerParams.LinearUpsampleMode
    if p.mode == 0:
        _needs_rank(layer)
        layer.emit("upsample_nearest_neighbor", **constants)
    elif p.linearUpsampleMode == default:
        height, width = (int(size * scale) for size, scale in zip(layer.shape()[-2:], scales, strict=True))
        layer.emit("resize_bilinear", target_size_height=height, target_size_width=width, sampling_mode="DEFAULT")
    else:
        layer.emit("upsample_bilinear", align_corners=p.linearUpsampleMode == aligned, **constants)


def _resize(layer: LayerContext) -> None:
    p = layer.params
    modes = {0: "STRICT_ALIGN_CORNERS", 1: "ALIGN_CORNERS", 2: "DEFAULT"}  # SamplingMode.Method
    if p.mode.samplingMethod not in modes:
        raise layer.refuse("ROI_ALIGN_MODE")
    height, width = [int(size) for size in p.targetSize] or [1, 1]
    mode = modes[p.mode.samplingMethod]
    layer.emit("resize_bilinear", target_size_height=height, target_size_width=width, sampling_mode=mode)


LAYERS: dict[str, LayerFunction] = {
    "convolution": _convolution,
    "innerProduct": _inner_product,
    "batchedMatmul": _batched_matmul,
    "embedding": _embedding,
    "embeddingND": _embedding,
    "batchnorm": _batchnorm,
    "pooling": _pooling,
    "padding": _pad,
    "constantPad": _constant_pad,
    "layerNormalization": _layer_norm,
    "mvn": _mean_variance,
    "l2normalize": lambda layer: layer.emit("l2_norm", epsilon=float(layer.params.epsilon) or 1e-6),
    "lrn": _local_response,
    "upsample": _upsample,
    "resizeBilinear": _resize,
}
