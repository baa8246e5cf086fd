"""Operations that litert-torch refuses, or converts into something else, written as operations that it converts right.

A rule is a function with the arguments of an ATen operator. It takes the operator's place in the graph and is traced
when the converter exports the module; where the converter has no trouble with the arguments, it calls the operator.

| operator                           | trouble                                          | written as                   |
|------------------------------------|--------------------------------------------------|------------------------------|
| avg_pool2d: divisor, padding or    | loops over windows                               | pad, pool, multiply          |
| ceil_mode that does not count      | (STABLEHLO_REDUCE_WINDOW)                        |                              |
| max_pool2d: dilation               | loops over windows                               | maxima of slices, by axis    |
| adaptive_max_pool2d                | refused                                          | max_pool2d, amax             |
| conv_transpose: padding            | most are refused; output padding is filled with  | the same without, cut        |
|                                    | zeros where values belong                        |                              |
| conv_transpose: dilation, stride   | refused                                          | zeros between inputs         |
| conv_transpose3d                   | a convolution that the runtime does not run      | conv3d, kernel reversed      |
| conv1d: same padding, even kernel  | refused                                          | pad, conv1d                  |
| col2im (fold)                      | a scatter that the runtime does not run          | moved axes, or a sum         |
| linear of four axes or more        | a product of wrong rank for an image of a pixel  | linear of two axes           |
| expand in front of arithmetic      | wrong shapes behind a sum                        | the arithmetic alone         |
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule


def rewrite(module: GraphModule, refused: bool) -> None:
    """Put rules in the places of operators, in the module itself.

    refused: the converter refused the graph, so that operators which it converts for some arguments only are rewritten
    for all; the others are always.
    """
    rules = {**_always(), **(_refused() if refused else {})}
    for node in module.graph.nodes:
        if node.op == "call_function" and str(node.target) in rules:
            node.target = rules[str(node.target)]
    if refused:
        _leave_out_expands(module)
    module.recompile()


def _leave_out_expands(module: GraphModule) -> None:
    """Let arithmetic broadcast by itself what the graph expands for it first."""
    for node in list(module.graph.nodes):
        if str(node.target) not in ("aten.expand.default", "aten.expand_as.default"):
            continue
        for user in list(node.users):
            shapes = [getattr(each.meta.get("val"), "shape", None) for each in (user, *user.all_input_nodes)]
            others = [shape for each, shape in zip(user.all_input_nodes, shapes[1:], strict=True) if each is not node]
            if str(user.target) in _ARITHMETIC and others and others[0] == shapes[0] is not None:
                user.replace_input_with(node, node.args[0])
        if not node.users:
            module.graph.erase_node(node)


_ARITHMETIC = {f"aten.{name}.Tensor" for name in ("add", "sub", "mul", "div")}


def _always() -> dict[str, Callable[..., Any]]:
    return {
        "aten.avg_pool2d.default": avg_pool2d,
        "aten.max_pool2d.default": max_pool2d,
        "aten.adaptive_max_pool2d.default": adaptive_max_pool2d,
        "aten.col2im.default": col2im,
        "aten.conv1d.padding": conv1d_same,
        "aten.conv_transpose1d.default": _transposed("conv_transpose1d", 1, False),
        "aten.conv_transpose2d.input": _transposed("conv_transpose2d", 2, False),
    }


def _refused() -> dict[str, Callable[..., Any]]:
    return {
        "aten.conv_transpose1d.default": _transposed("conv_transpose1d", 1, True),
        "aten.conv_transpose2d.input": _transposed("conv_transpose2d", 2, True),
        "aten.conv_transpose3d.input": _transposed("conv_transpose3d", 3, True),
        "aten.linear.default": linear,
    }


def avg_pool2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Average (.., C, H, W) over windows, as `torch.nn.functional.avg_pool2d`."""
    import torch

    kernel, pads = _each(kernel_size, 2), _each(padding, 2)
    steps = _each(stride, 2) if stride else kernel
    sizes = [int(size) for size in x.shape[-2:]]
    unpadded = not ceil_mode and (not any(pads) or pads == _same_pads(sizes, kernel, steps))
    if divisor_override is None and (count_include_pad or unpadded):
        return torch.ops.aten.avg_pool2d.default(  # type: ignore[no-any-return]
            x, kernel, steps, pads, ceil_mode, count_include_pad
        )
    lengths, counts, behind = [], [], []
    for size, k, s, p in zip(sizes, kernel, steps, pads, strict=True):
        length = _windows(size, k, s, p, ceil_mode)
        begins = [i * s - p for i in range(length)]
        if count_include_pad:
            counts.append([min(begin + k, size + p) - begin for begin in begins])
        else:
            counts.append([min(begin + k, size) - max(begin, 0) for begin in begins])
        lengths.append(length)
        behind.append(max((length - 1) * s + k - size - p, 0))
    padded = torch.nn.functional.pad(x, (pads[1], behind[1], pads[0], behind[0]))
    y = torch.ops.aten.avg_pool2d.default(padded, kernel, steps)[..., : lengths[0], : lengths[1]]
    if divisor_override is not None:
        return y * (kernel[0] * kernel[1] / divisor_override)  # type: ignore[no-any-return]
    factor = kernel[0] * kernel[1] / np.outer(counts[0], counts[1])
    if (factor == 1).all():
        return y  # type: ignore[no-any-return]
    return y * torch.from_numpy(factor.astype(np.float32))  # type: ignore[no-any-return]


def max_pool2d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    """Maximum of (.., C, H, W) over windows, as `torch.nn.functional.max_pool2d`."""
    import torch

    kernel, pads, spread = _each(kernel_size, 2), _each(padding, 2), _each(dilation, 2)
    steps = _each(stride, 2) if stride else kernel
    if spread == [1, 1]:
        return torch.ops.aten.max_pool2d.default(  # type: ignore[no-any-return]
            x, kernel, steps, pads, spread, ceil_mode
        )
    for axis, k, s, p, d in zip((-2, -1), kernel, steps, pads, spread, strict=True):
        size, reach = int(x.shape[axis]), d * (k - 1) + 1
        length = _windows(size, reach, s, p, ceil_mode)
        behind = max((length - 1) * s + reach - size - p, 0)
        edges = (p, behind) if axis == -1 else (0, 0, p, behind)
        padded = torch.nn.functional.pad(x, edges, value=torch.finfo(torch.float32).min)
        slices = [_sliced(padded, axis, i * d, (length - 1) * s + 1, s) for i in range(k)]
        x = slices[0]
        for other in slices[1:]:
            x = torch.maximum(x, other)
    return x


def adaptive_max_pool2d(x: Tensor, output_size: Sequence[int]) -> tuple[Tensor, None]:
    """Maximum of (.., C, H, W) over `output_size` windows; the positions of the maxima are not computed."""
    import torch

    sizes, wanted = [int(size) for size in x.shape[-2:]], _each(output_size, 2)
    if wanted == [1, 1]:
        return x.amax((-2, -1), keepdim=True), None
    if all(size % length == 0 for size, length in zip(sizes, wanted, strict=True)):
        return torch.nn.functional.max_pool2d(x, [sizes[0] // wanted[0], sizes[1] // wanted[1]]), None
    for axis, size, length in zip((-2, -1), sizes, wanted, strict=True):
        windows = [(i * size // length, -(-(i + 1) * size // length)) for i in range(length)]
        parts = [_sliced(x, axis, first, last - first, 1).amax(axis, keepdim=True) for first, last in windows]
        x = torch.cat(parts, axis)
    return x, None


def col2im(
    x: Tensor,
    output_size: Sequence[int],
    kernel_size: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Tensor:
    """Add the columns (N, C * kernel, windows) up to (N, C, *output_size), as `torch.nn.functional.fold`."""
    import torch

    size, kernel, spread, pads, steps = (
        _each(each, 2) for each in (output_size, kernel_size, dilation, padding, stride)
    )
    counts = [
        _windows(s, d * (k - 1) + 1, t, p, False)
        for s, k, d, p, t in zip(size, kernel, spread, pads, steps, strict=True)
    ]
    windows = x.reshape(int(x.shape[0]), -1, *kernel, *counts)
    if kernel == steps and spread == [1, 1] and pads == [0, 0]:
        y = windows.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
        return torch.nn.functional.pad(y, (0, size[1] - int(y.shape[3]), 0, size[0] - int(y.shape[2])))
    total = [s + 2 * p for s, p in zip(size, pads, strict=True)]
    parts = []
    for i, j in itertools.product(range(kernel[0]), range(kernel[1])):
        part = _with_zeros(_with_zeros(windows[:, :, i, j], 2, steps[0]), 3, steps[1])
        above, before = i * spread[0], j * spread[1]
        edges = (before, total[1] - before - int(part.shape[3]), above, total[0] - above - int(part.shape[2]))
        parts.append(torch.nn.functional.pad(part, edges))
    y = sum(parts[1:], parts[0])
    return y[..., pads[0] : pads[0] + size[0], pads[1] : pads[1] + size[1]]


def conv1d_same(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: str = "valid",
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> Tensor:
    """Convolve (N, C, L) as `torch.nn.functional.conv1d` with padding 'same' or 'valid'."""
    import torch

    total = int(dilation[0]) * (int(weight.shape[-1]) - 1) if padding == "same" else 0
    if total % 2:
        x = torch.nn.functional.pad(x, (total // 2, total - total // 2))
        total = 0
    return torch.nn.functional.conv1d(x, weight, bias, stride, total // 2, dilation, groups)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b, of (.., features)."""
    import torch

    if x.dim() <= 3:
        return torch.nn.functional.linear(x, weight, bias)
    return torch.nn.functional.linear(x.flatten(0, -2), weight, bias).reshape(*x.shape[:-1], -1)


def _transposed(name: str, rank: int, refused: bool) -> Callable[..., Any]:
    """The rule of a transposed convolution of `rank` axes."""

    def conv_transpose(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Sequence[int] = (1,),
        padding: Sequence[int] = (0,),
        output_padding: Sequence[int] = (0,),
        groups: int = 1,
        dilation: Sequence[int] = (1,),
    ) -> Tensor:
        import torch

        convolve = getattr(torch.nn.functional, name)
        steps, pads, extra, spread = (_each(each, rank) for each in (stride, padding, output_padding, dilation))
        filled = any(p and e for p, e in zip(pads, extra, strict=True))
        if not filled and not refused:
            return convolve(  # type: ignore[no-any-return]
                x, weight, bias, stride, padding, output_padding, groups, dilation
            )
        lengths = [
            (int(size) - 1) * s - 2 * p + d * (int(k) - 1) + e + 1
            for size, s, p, d, k, e in zip(x.shape[2:], steps, pads, spread, weight.shape[2:], extra, strict=True)
        ]
        if rank == 3 or any(d > 1 for d in spread):
            for axis, s in enumerate(steps, 2):
                x = _with_zeros(x, axis, s)
            steps = [1] * rank
        if rank == 3:
            y = _backwards(x, weight, groups, spread)
        else:
            y = convolve(x, weight, None, steps, 0, 0, groups, spread)
        behind: list[int] = []
        for axis, (p, length) in enumerate(zip(pads, lengths, strict=True), 2):
            y = _sliced(y, axis, p, length, 1)
            behind = [0, length - int(y.shape[axis]), *behind]
        if any(behind):
            y = torch.nn.functional.pad(y, behind)
        return y if bias is None else y + bias.reshape(-1, *[1] * rank)

    return conv_transpose


def _backwards(x: Tensor, weight: Tensor, groups: int, dilation: Sequence[int]) -> Tensor:
    """A transposed convolution of stride 1 in three axes, as a convolution with the kernel reversed."""
    import torch

    edges = [d * (int(k) - 1) for d, k in zip(dilation, weight.shape[2:], strict=True) for _ in range(2)]
    kernel = weight.flip((2, 3, 4)).reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    padded = torch.nn.functional.pad(x, edges[::-1])
    return torch.nn.functional.conv3d(padded, kernel, None, 1, 0, dilation, groups)


def _with_zeros(x: Tensor, axis: int, step: int) -> Tensor:
    """Put step - 1 zeros between the elements of an axis."""
    import torch

    if step == 1:
        return x
    shape = [int(length) for length in x.shape]
    # four axes: the converter pads five at most
    apart = x.reshape(-1, shape[axis], 1, math.prod(shape[axis + 1 :]))
    filled = torch.nn.functional.pad(apart, (0, 0, 0, step - 1))
    y = filled.reshape(*shape[:axis], shape[axis] * step, *shape[axis + 1 :])
    return _sliced(y, axis, 0, (shape[axis] - 1) * step + 1, 1)


def _sliced(x: Tensor, axis: int, first: int, length: int, step: int) -> Tensor:
    """Every `step`-th element of [first, first + length) of an axis."""
    import torch

    return torch.ops.aten.slice.Tensor(x, axis, first, first + length, step)  # type: ignore[no-any-return]


def _windows(size: int, reach: int, step: int, pad: int, ceil: bool) -> int:
    """How many windows an axis has; with `ceil` the last may end outside, but not begin in the padding behind."""
    span = size + 2 * pad - reach
    count = (-(-span // step) if ceil else span // step) + 1
    return count - 1 if ceil and (count - 1) * step >= size + pad else count


def _same_pads(sizes: list[int], kernel: list[int], steps: list[int]) -> list[int]:
    """The padding of either side that makes ceil(size / step) windows; -1 where both sides cannot have the same."""
    pads = []
    for size, k, s in zip(sizes, kernel, steps, strict=True):
        total = max((-(-size // s) - 1) * s + k - size, 0)
        pads.append(-1 if total % 2 else total // 2)
    return pads


def _each(values: Sequence[int] | int, rank: int) -> list[int]:
    """An argument that is one number or one for each axis -> one for each axis."""
    numbers = [int(values)] if isinstance(values, int) else [int(value) for value in values]
    return numbers * rank if len(numbers) == 1 else numbers
