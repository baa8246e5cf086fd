"""Convolutions, products, pooling, normalisation and resizing. Imported only when a network is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from mobconv.backends.apple.call import Call, Function

Tensor = torch.Tensor
Pads = list[tuple[int, int]]

_CONV = (F.conv1d, F.conv2d, F.conv3d)
_CONV_TRANSPOSE = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
_MAX = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


def _pads(call: Call, sizes: Any, kernel: Any, strides: list[int], dilations: list[int]) -> Pads:
    """(before, after) of each spatial axis."""
    kind, count = call.get("pad_type", "valid"), len(kernel)
    if kind == "valid":
        return [(0, 0)] * count
    if kind == "custom":
        flat = call.ints("pad")
        return [(flat[2 * i], flat[2 * i + 1]) for i in range(count)]
    if kind not in ("same", "same_lower"):
        raise call.refuse(f"pad_type {kind}")
    pads = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        pads.append((small, large) if kind == "same" else (large, small))
    return pads


def _flat(pads: Pads) -> list[int]:
    """Padding in the order of F.pad: last axis first."""
    return [side for pair in reversed(pads) for side in pair]


def _even(pads: Pads) -> bool:
    return all(before == after for before, after in pads)


def _fits(pads: Pads, kernel: list[int]) -> bool:
    """Whether torch's own pooling can have this padding."""
    return _even(pads) and all(2 * before <= k for (before, _), k in zip(pads, kernel, strict=True))


def _conv(call: Call) -> Any:
    x, weight, bias = call.get("x"), call.get("weight"), call.get("bias", None)
    count = weight.dim() - 2
    strides, dilations = call.ints("strides", [1] * count), call.ints("dilations", [1] * count)
    pads = _pads(call, x.shape[2:], weight.shape[2:], strides, dilations)
    if not _even(pads):
        x, pads = F.pad(x, _flat(pads)), [(0, 0)] * count
    padding = [before for before, _ in pads]
    return _CONV[count - 1](x, weight, bias, strides, padding, dilations, int(call.get("groups", 1)))


def _conv_transpose(call: Call) -> Any:
    x, weight, bias = call.get("x"), call.get("weight"), call.get("bias", None)
    count = weight.dim() - 2
    strides, dilations = call.ints("strides", [1] * count), call.ints("dilations", [1] * count)
    full = _CONV_TRANSPOSE[count - 1](x, weight, None, strides, 0, 0, int(call.get("groups", 1)), dilations)
    wanted = call.ints("output_shape", None)
    if wanted is not None:
        wanted = wanted[-count:]
    kind = call.get("pad_type", "valid")
    if kind in ("same", "same_lower"):
        wanted = wanted or [size * s for size, s in zip(x.shape[2:], strides, strict=True)]
        totals = [max(have - want, 0) for have, want in zip(full.shape[2:], wanted, strict=True)]
        pads = [(t // 2, t - t // 2) if kind == "same" else (t - t // 2, t // 2) for t in totals]
    else:
        pads = _pads(call, x.shape[2:], weight.shape[2:], strides, dilations)
    for i, (before, after) in enumerate(pads):
        axis = i + 2
        length = full.shape[axis] - before - after if wanted is None else wanted[i]
        lack = before + length - full.shape[axis]
        if lack > 0:  # an output beyond the last input has only the bias there
            full = F.pad(full, [0, 0] * (full.dim() - axis - 1) + [0, lack])
        full = full.narrow(axis, before, length)
    return full if bias is None else full + bias.reshape(-1, *[1] * count)


def _linear(call: Call) -> Any:
    return F.linear(call.get("x"), call.get("weight"), call.get("bias", None))


def _matmul(call: Call) -> Any:
    x, y = call.get("x"), call.get("y")
    if call.get("transpose_x", False):
        x = x.transpose(-1, -2)
    if call.get("transpose_y", False):
        y = y.transpose(-1, -2)
    return torch.matmul(x, y)


def _attention(call: Call) -> Any:
    query, key, value = call.get("query"), call.get("key"), call.get("value")
    return F.scaled_dot_product_attention(query, key, value, attn_mask=call.get("attn_mask", None))


def _max_pool(call: Call) -> Any:
    x, kernel = call.get("x"), call.ints("kernel_sizes")
    strides = call.ints("strides", [1] * len(kernel))
    pads = _pads(call, x.shape[2:], kernel, strides, [1] * len(kernel))
    padding = [before for before, _ in pads]
    if not _fits(pads, kernel):
        x, padding = F.pad(x, _flat(pads), value=float("-inf")), [0] * len(kernel)
    return _MAX[len(kernel) - 1](x, kernel, strides, padding, 1, bool(call.get("ceil_mode", False)))


def _avg_pool(call: Call) -> Any:
    return _average(call, call.get("x"), bool(call.get("exclude_padding_from_average", False)))


def _average(call: Call, x: Tensor, exclude: bool) -> Any:
    kernel = call.ints("kernel_sizes")
    strides = call.ints("strides", [1] * len(kernel))
    pads = _pads(call, x.shape[2:], kernel, strides, [1] * len(kernel))
    ceil = bool(call.get("ceil_mode", False))
    if _fits(pads, kernel):
        padding = [before for before, _ in pads]
        if len(kernel) == 1:
            return F.avg_pool1d(x, kernel, strides, padding, ceil, not exclude)
        pool = F.avg_pool2d if len(kernel) == 2 else F.avg_pool3d
        return pool(x, kernel, strides, padding, ceil, not exclude)
    plain = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(kernel) - 1]
    result: Tensor = plain(F.pad(x, _flat(pads)), kernel, strides, 0, ceil)
    if exclude:
        result = result / plain(F.pad(torch.ones_like(x[:1, :1]), _flat(pads)), kernel, strides, 0, ceil)
    return result


def _l2_pool(call: Call) -> Any:
    area = 1
    for size in call.ints("kernel_sizes"):
        area *= size
    return (_average(call, call.get("x").square(), False) * area).sqrt()


def _batch_norm(call: Call) -> Any:
    mean, variance = call.get("mean"), call.get("variance")
    gamma, beta, epsilon = call.get("gamma", None), call.get("beta", None), call.get("epsilon", 1e-5)
    return F.batch_norm(call.get("x"), mean, variance, gamma, beta, False, 0.0, epsilon)


def _instance_norm(call: Call) -> Any:
    gamma, beta, epsilon = call.get("gamma", None), call.get("beta", None), call.get("epsilon", 1e-5)
    return F.instance_norm(call.get("x"), weight=gamma, bias=beta, eps=epsilon)


def _layer_norm(call: Call) -> Any:
    x, gamma, beta = call.get("x"), call.get("gamma", None), call.get("beta", None)
    axes = sorted(axis % x.dim() for axis in call.ints("axes", list(range(x.dim()))))
    epsilon = call.get("epsilon", 1e-5)
    if axes == list(range(x.dim() - len(axes), x.dim())):
        return F.layer_norm(x, [x.shape[axis] for axis in axes], gamma, beta, epsilon)
    centred = x - x.mean(axes, keepdim=True)
    x = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    view = [x.shape[axis] if axis in axes else 1 for axis in range(x.dim())]
    x = x if gamma is None else x * gamma.reshape(view)
    return x if beta is None else x + beta.reshape(view)


def _l2_norm(call: Call) -> Any:
    x = call.get("x")
    return x * torch.rsqrt(x.square().sum([-3, -2, -1], keepdim=True) + call.get("epsilon", 1e-6))


def _local_response_norm(call: Call) -> Any:
    alpha, beta, k = call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("k", 1.0)
    return F.local_response_norm(call.get("x"), int(call.get("size")), alpha, beta, k)


def _lines(x: Tensor, axis: int, at: Tensor) -> Tensor:
    """Linear interpolation of x along an axis at the coordinates `at`, clamped to it."""
    at = at.clamp(0, x.shape[axis] - 1)
    low = at.floor().long()
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    view = [-1 if i == axis else 1 for i in range(x.dim())]
    part = (at - low).reshape(view).to(x.dtype)
    return x.index_select(axis, low) * (1 - part) + x.index_select(axis, high) * part


def _upsample_bilinear(call: Call) -> Any:
    x, align = call.get("x"), bool(call.get("align_corners", True))
    scales = [float(call.get("scale_factor_height", 1)), float(call.get("scale_factor_width", 1))]
    for axis, scale in zip((-2 + x.dim(), -1 + x.dim()), scales, strict=True):
        size = x.shape[axis]
        count = int(size * scale)
        steps = torch.arange(count, dtype=torch.float64)
        if align:
            at = steps * ((size - 1) / max(count - 1, 1))
        elif call.get("half_pixel_centers", True):
            at = (steps + 0.5) / scale - 0.5
        else:
            at = steps / scale
        x = _lines(x, axis, at)
    return x


def _resize_bilinear(call: Call) -> Any:
    x, mode = call.get("x"), call.get("sampling_mode", "DEFAULT")
    targets = [int(call.get("target_size_height", 1)), int(call.get("target_size_width", 1))]
    for axis, count in zip((x.dim() - 2, x.dim() - 1), targets, strict=True):
        size = x.shape[axis]
        steps = torch.arange(count, dtype=torch.float64)
        if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS") and count > 1:
            at = steps * ((size - 1) / (count - 1))
        elif mode == "UNALIGN_CORNERS":
            at = (steps + 0.5) * (size / count) - 0.5
        elif mode == "DEFAULT" or (mode == "STRICT_ALIGN_CORNERS" and count == 1):
            at = steps * (size / count)
        else:
            raise call.refuse(f"sampling_mode {mode} to size {count}")
        x = _lines(x, axis, at)
    return x


def _nearest(call: Call) -> Any:
    x = call.get("x")
    if "target_size_height" in call.operation.inputs:
        size = (int(call.get("target_size_height")), int(call.get("target_size_width")))
    else:
        scales = (float(call.get("scale_factor_height", 1)), float(call.get("scale_factor_width", 1)))
        size = (int(x.shape[-2] * scales[0]), int(x.shape[-1] * scales[1]))
    return F.interpolate(x, size=size, mode="nearest")


OPS: dict[str, Function] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "matmul": _matmul,
    "einsum": lambda call: torch.einsum(call.get("equation").replace(" ", ""), *call.all("values")),
    "scaled_dot_product_attention": _attention,
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "l2_pool": _l2_pool,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "l2_norm": _l2_norm,
    "local_response_norm": _local_response_norm,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _nearest,
    "resize_bilinear": _resize_bilinear,
    "resize_nearest_neighbor": _nearest,
}
