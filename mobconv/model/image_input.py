"""Programs that take pixels as a phone has them, 0 to 255: normalisation becomes the first operations of the network.

They compute (pixel - shift) / scale in fp32 with the very numbers of `Preprocessing`. A converter's own scale and bias
would come between the two: Core ML's image input, for one, has a single scale for all channels, and networks have a
standard deviation for each.

What a backend makes of a program that takes pixels is its own: see `Backend.image_entry` in mobconv/backends/base.py.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mobconv.data.preprocessing import Layout, Preprocessing, raw
from mobconv.errors import InputError, setting
from mobconv.model.program import ADDED

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from mobconv.model.program import Program

# Kinds of an artifact's input: pixels of 0 to 255 as floats or as bytes, or the network's own tensor. A format with an
# image type of its own takes bytes from its caller under either of the first two.
INPUTS = ("image", "image-uint8", "tensor")

SHIFT, SCALE, ORDER = (f"{ADDED}{name}" for name in ("shift", "scale", "order"))

Behind = Callable[["GraphModule", Any, Any], Any]
"""(module, node of the normalised pixels, its scale as a tensor) -> the node that the network reads in its place."""


def is_image(program: Program, preprocessing: Preprocessing | None) -> bool:
    """Whether a program takes one image of the channels that its preprocessing has, (N, C, H, W)."""
    shapes = [value.shape for value in program.example.values()]
    return (
        preprocessing is not None
        and preprocessing.layout == "nchw"
        and len(shapes) == 1
        and len(shapes[0]) == 4
        and shapes[0][1] == preprocessing.channels
    )


def caller_preprocessing(preprocessing: Preprocessing, layout: Layout, colour: str = "rgb") -> Preprocessing:
    """What callers of a program from `taking_pixels` still do: resize, crop, and order axes and channels."""
    bare = raw("bgr" if colour == "bgr" else "rgb", preprocessing.channels)
    return replace(
        bare,
        layout=layout,
        size=preprocessing.size,
        resize=preprocessing.resize,
        interpolation=preprocessing.interpolation,
    )


def taking_pixels(
    program: Program,
    preprocessing: Preprocessing,
    layout: Layout = "nchw",
    dtype: str = "float32",
    native_colour: bool = False,
    labels: tuple[str, ...] = (),
    behind: Behind | None = None,
) -> Program:
    """The same program on pixels of 0 to 255, (N, C, H, W) or (N, H, W, C), of `dtype` float32 or uint8.

    native_colour: take BGR where the network wants BGR; else pixels are RGB and the program reverses the channels.
    behind: puts further operations behind the normalisation, for a converter that would undo it otherwise.
    Raises InputError for a network that takes no such images.
    """
    import torch

    if not is_image(program, preprocessing):
        shapes = ", ".join(str(tuple(value.shape)) for value in program.example.values())
        raise InputError(
            f"the network takes {shapes}, and its preprocessing has {preprocessing.channels} channels: these are not "
            f"images of (N, channels, height, width); export it with {setting('input', 'tensor')}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = copy.deepcopy(program.module)
    name, example = next(iter(program.example.items()))
    shift, scale = (torch.from_numpy(part).view(1, -1, 1, 1) for part in preprocessing.constants())
    module.register_buffer(SHIFT, shift)
    module.register_buffer(SCALE, scale)
    graph, aten = module.graph, torch.ops.aten
    pixels = next(node for node in graph.nodes if node.op == "placeholder")
    first = pixels.next
    with graph.inserting_before(first):
        x = pixels
        if dtype == "uint8":
            x = graph.call_function(aten.to.dtype, (x, torch.float32))
        if layout == "nhwc":
            x = graph.call_function(aten.permute.default, (x, [0, 3, 1, 2]))
        if preprocessing.order != sorted(preprocessing.order) and not native_colour:
            module.register_buffer(ORDER, torch.tensor(preprocessing.order))
            x = graph.call_function(aten.index_select.default, (x, 1, graph.get_attr(ORDER)))
        x = graph.call_function(aten.sub.Tensor, (x, graph.get_attr(SHIFT)))
        normalised = graph.call_function(aten.div.Tensor, (x, graph.get_attr(SCALE)))
        if behind is not None:
            normalised = behind(module, normalised, scale)
    added = set()
    node = normalised
    while node is not pixels:
        added.add(node)
        node = node.prev
    pixels.replace_all_uses_with(normalised, delete_user_cb=lambda user: user not in added)
    graph.lint()
    module.recompile()
    shape = example.shape if layout == "nchw" else tuple(example.shape[axis] for axis in (0, 2, 3, 1))
    colour = colour_space(preprocessing, native_colour)
    return replace(program, module=module, example={name: np.zeros(shape, dtype)}, image=colour, labels=tuple(labels))


def colour_space(preprocessing: Preprocessing, native_colour: bool) -> str:
    """The colour space of a file's image: 'gray', 'rgb' or 'bgr'; 'other' for a number of channels that has none.

    native_colour: the file takes BGR where the network does.
    """
    if preprocessing.channels == 3:
        return preprocessing.colour if native_colour else "rgb"
    return "gray" if preprocessing.channels == 1 else "other"
