"""Operations that move, cut and join values. Imported only when a network is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from mobconv.backends.apple.call import Call, Function

Tensor = torch.Tensor


def _reshape(call: Call) -> Any:
    x, sizes = call.get("x"), call.widened(call.ints("shape"))
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(sizes)])


def _expand_dims(call: Call) -> Any:
    x = call.get("x")
    x = x if isinstance(x, Tensor) else torch.tensor(x)
    axes = call.ints("axes")
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _squeeze(call: Call) -> Any:
    x, axes = call.get("x"), call.ints("axes", None)
    if axes is None:
        axes = [axis for axis, size in enumerate(call.shape("x")) if size == 1]
    return x.squeeze([axis % x.dim() for axis in axes])


def _slice_by_index(call: Call) -> Any:
    x = call.get("x")
    count, declared = x.dim(), call.shape("x")
    begin, end, strides = call.ints("begin"), call.ints("end"), call.ints("stride", [1] * count)
    open_begin, open_end, single = (call.flags(key, count) for key in ("begin_mask", "end_mask", "squeeze_mask"))
    for axis in range(count):
        size, step = x.shape[axis], strides[axis]
        if single[axis]:
            index = begin[axis] % size
            x = x.narrow(axis, index, 1)
            continue
        if axis == 0 and size != declared[0] and end[0] == declared[0]:
            end = [size, *end[1:]]  # an end at the declared batch means all samples
        first, last = begin[axis], end[axis]
        cut = slice(None if open_begin[axis] else first, None if open_end[axis] else last, step)
        low, high, step = cut.indices(size)
        index_list = torch.arange(low, high, step) if (high - low) * step > 0 else torch.arange(0)
        x = x.narrow(axis, low, high - low) if step == 1 and high >= low else x.index_select(axis, index_list)
    return x.squeeze([axis for axis in range(count) if single[axis]]) if any(single) else x


def _slice_by_size(call: Call) -> Any:
    x, begin = call.get("x"), call.ints("begin")
    for axis, size in enumerate(call.widened(call.ints("size"))):
        x = x.narrow(axis, begin[axis], x.shape[axis] - begin[axis] if size == -1 else size)
    return x


def _concat(call: Call) -> Any:
    values = [v if isinstance(v, Tensor) else torch.tensor([v]) for v in call.all("values")]
    axis = int(call.get("axis")) % values[0].dim()
    if call.get("interleave", False):
        raise call.refuse("interleave")
    if axis and call.rows != call.batch:
        # a constant beside values of a larger batch, such as the class token of a transformer
        rows = max(value.shape[0] for value in values)
        values = [
            v.expand(rows, *v.shape[1:]) if v.shape[0] == 1 and name in call.fixed else v
            for v, name in zip(values, call.operation.inputs["values"], strict=True)
        ]
    return torch.cat(values, axis)


def _split(call: Call) -> Any:
    x, axis = call.get("x"), int(call.get("axis"))
    sizes = call.ints("split_sizes", None) or x.shape[axis] // int(call.get("num_splits"))
    return torch.split(x, sizes, axis)


def _stack(call: Call) -> Any:
    return torch.stack(
        [v if isinstance(v, Tensor) else torch.tensor(v) for v in call.all("values")], int(call.get("axis"))
    )


def _pad(call: Call) -> Any:
    x, flat, mode = call.get("x"), call.ints("pad"), call.get("mode", "constant")
    pads = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
    if mode == "constant":
        return F.pad(x, [v for pair in reversed(pads) for v in pair], value=call.get("constant_val", 0.0))
    first = x.dim() - len(pads)
    for axis, (before, after) in enumerate(pads, first):
        size = x.shape[axis]
        at = torch.arange(-before, size + after)
        if mode == "reflect":
            at = at.abs()
            at = torch.where(at >= size, 2 * (size - 1) - at, at)
        elif mode == "replicate":
            at = at.clamp(0, size - 1)
        else:
            raise call.refuse(f"mode {mode}")
        x = x.index_select(axis, at) if before or after else x
    return x


def _index(values: Any, size: int) -> Tensor:
    at = values.long() if isinstance(values, Tensor) else torch.tensor(int(values))
    return torch.where(at < 0, at + size, at)


def _gather(call: Call) -> Any:
    x = call.get("x")
    if call.get("batch_dims", 0):
        raise call.refuse("batch_dims")
    axis = int(call.get("axis", 0)) % x.dim()
    at = _index(call.get("indices"), x.shape[axis])
    rows = x.index_select(axis, at.reshape(-1))
    return rows.reshape(*x.shape[:axis], *at.shape, *x.shape[axis + 1 :])


def _gather_along_axis(call: Call) -> Any:
    x = call.get("x")
    axis = int(call.get("axis", 0)) % x.dim()
    return torch.gather(x, axis, _index(call.get("indices"), x.shape[axis]))


def _gather_nd(call: Call) -> Any:
    x, at = call.get("x"), call.get("indices").long()
    if call.get("batch_dims", 0):
        raise call.refuse("batch_dims")
    return x[tuple(_index(at[..., i], x.shape[i]) for i in range(at.shape[-1]))]


def _flatten2d(call: Call) -> Any:
    x, axis = call.get("x"), int(call.get("axis", 1)) % (call.get("x").dim() + 1)
    rows = 1
    for size in x.shape[:axis]:
        rows *= size
    return x.reshape(rows, -1)


def _fill(call: Call) -> Any:
    return torch.full(call.ints("shape"), call.get("value", 0.0))


def _range(call: Call) -> Any:
    return torch.arange(call.get("start"), call.get("end"), call.get("step"))


def _one_hot(call: Call) -> Any:
    count = int(call.get("one_hot_vector_size"))
    on, off, axis = call.get("on_value", 1), call.get("off_value", 0), int(call.get("axis", -1))
    hot = F.one_hot(_index(call.get("indices"), count), count)
    return torch.where(hot.movedim(-1, axis) == 1, torch.tensor(on), torch.tensor(off))


def _reverse(call: Call) -> Any:
    x = call.get("x")
    return x.flip(call.ints("axes", list(range(x.dim()))))


def _topk(call: Call) -> Any:
    x, k, axis = call.get("x"), int(call.get("k", 1)), int(call.get("axis", -1))
    largest = torch.topk(x, k, axis, largest=not call.get("ascending", False))
    return (largest.values, largest.indices)[: len(call.operation.outputs)]


def _argsort(call: Call) -> Any:
    return call.get("x").argsort(
        dim=int(call.get("axis", -1)), descending=not call.get("ascending", False), stable=True
    )


def _band_part(call: Call) -> Any:
    x, lower, upper = call.get("x"), int(call.get("lower", -1)), int(call.get("upper", -1))
    x = x if lower < 0 else x.triu(-lower)
    return x if upper < 0 else x.tril(upper)


def _depth_to_space(call: Call) -> Any:
    x, b = call.get("x"), int(call.get("block_size"))
    n, c, h, w = x.shape
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(call: Call) -> Any:
    x, b = call.get("x"), int(call.get("block_size"))
    n, c, h, w = x.shape
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


def _crop(call: Call) -> Any:
    x, (top, bottom), (start, end) = call.get("x"), call.ints("crop_height"), call.ints("crop_width")
    return x[..., top : x.shape[-2] - bottom, start : x.shape[-1] - end]


OPS: dict[str, Function] = {
    "reshape": _reshape,
    "transpose": lambda call: call.get("x").permute(call.ints("perm")),
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "concat": _concat,
    "split": _split,
    "stack": _stack,
    "tile": lambda call: call.get("x").tile(call.ints("reps")),
    "pad": _pad,
    "gather": _gather,
    "gather_along_axis": _gather_along_axis,
    "gather_nd": _gather_nd,
    "flatten2d": _flatten2d,
    "shape": lambda call: torch.tensor(call.get("x").shape),
    "fill": _fill,
    "fill_like": lambda call: torch.full(call.get("ref_tensor").shape, call.get("value", 0.0)),
    "range_1d": _range,
    "one_hot": _one_hot,
    "reverse": _reverse,
    "topk": _topk,
    "argsort": _argsort,
    "band_part": _band_part,
    "pixel_shuffle": lambda call: F.pixel_shuffle(call.get("x"), int(call.get("upscale_factor"))),
    "pixel_unshuffle": lambda call: F.pixel_unshuffle(call.get("x"), int(call.get("downscale_factor"))),
    "depth_to_space": _depth_to_space,
    "space_to_depth": _space_to_depth,
    "crop": _crop,
}
