"""A program that takes pixels as a phone has them, 0 to 255: its normalisation becomes its first operations.

They compute (pixel - shift) / scale in fp32 with the very numbers of `Preprocessing`, so that no converter's own
idea of scale and bias stands between the two (a scale for all channels, as an image input of Core ML has, cannot
say a deviation for each).
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from mobconv.data.preprocessing import Layout, Preprocessing, raw
from mobconv.errors import InputError
from mobconv.model.trace import ADDED

if TYPE_CHECKING:
    from mobconv.model.trace import Program

# What an artifact's input may be: pixels of 0 to 255 as floats, or as bytes, or the network's own tensor. An image
# input of Core ML is of bytes to the caller either way.
INPUTS = ("image", "image-uint8", "tensor")

SHIFT, SCALE, ORDER, LEAST = (f"{ADDED}{name}" for name in ("shift", "scale", "order", "least"))


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


class _Styled(Protocol):
    """As much of a backend as matters here."""

    image: Literal["nchw", "nhwc", "native"]


def entrance(
    program: Program, preprocessing: Preprocessing | None, labels: tuple[str, ...], backend: _Styled, kind: str
) -> tuple[Program, Preprocessing | None]:
    """The program as a backend converts it for an input of a kind in INPUTS, and what its callers then do.

    A network that takes no images keeps its tensors.
    """
    if kind == "tensor" or preprocessing is None or not is_image(program, preprocessing):
        return program, preprocessing
    style = getattr(backend, "image", "nchw")  # backends of others may be older than this
    if style == "native":
        made = taking_pixels(program, preprocessing, native_colour=True, labels=labels)
        return made, expects(preprocessing, "nchw", made.image)
    whole = kind == "image-uint8"
    layout: Layout = "nhwc" if whole or style == "nhwc" else "nchw"
    dtype = "uint8" if whole else "float32"
    made = taking_pixels(program, preprocessing, layout, dtype, labels=labels, apart=style == "nhwc")
    return made, expects(preprocessing, layout)


def scaled_by_coremltools(
    program: Program, preprocessing: Preprocessing, labels: tuple[str, ...], scale: float, bias: tuple[float, ...]
) -> tuple[Program, Preprocessing]:
    """The program for coremltools to put behind its own ImageType, and what callers of the file do: nothing.

    The file then sees scale * pixel + bias, whatever the network wants.
    """
    if not is_image(program, preprocessing) or len(bias) != preprocessing.channels:
        raise InputError(f"image_type has a bias for {len(bias)} channels: the network does not take such images")
    made = replace(program, image=preprocessing.colour, labels=tuple(labels), scaled=(scale, bias))
    return made, expects(preprocessing, "nchw", preprocessing.colour)


def as_scaled(program: Program) -> Program:
    """What a file computes that has an ImageType of coremltools' in front; any other program is its own."""
    if program.scaled is None:
        return program
    scale, bias = program.scaled
    seen = Preprocessing(tuple(-value / scale for value in bias), (1 / scale,) * len(bias), (0.0, 255.0))
    return taking_pixels(program, seen)


def expects(preprocessing: Preprocessing, layout: Layout, colour: str = "rgb") -> Preprocessing:
    """What is left to do for the caller of a program from `taking_pixels`."""
    bare = raw("bgr" if colour == "bgr" else "rgb", preprocessing.channels)
    held = preprocessing
    return replace(bare, layout=layout, size=held.size, resize=held.resize, interpolation=held.interpolation)


def taking_pixels(
    program: Program,
    preprocessing: Preprocessing,
    layout: Layout = "nchw",
    dtype: str = "float32",
    native_colour: bool = False,
    labels: tuple[str, ...] = (),
    apart: bool = False,
) -> Program:
    """The same program on RGB pixels (N, C, H, W) or (N, H, W, C), 0 to 255, of `dtype` float32 or uint8.

    native_colour: where the network wants BGR, take BGR, as an image input of Core ML can say; else the channels
    are turned around in the program. apart: keep a converter from multiplying one scale for all channels into the
    first layer's weights, as litert-torch does: behind it stands a maximum with the least float, which changes nothing.
    Raises InputError for a network that takes no such images.
    """
    import torch

    if not is_image(program, preprocessing):
        shapes = ", ".join(str(tuple(value.shape)) for value in program.example.values())
        raise InputError(
            f"the network takes {shapes}, and its preprocessing has {preprocessing.channels} channels: no images of "
            "(N, channels, height, width); export it with --input tensor"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = copy.deepcopy(program.module)
    name, example = next(iter(program.example.items()))
    shift, scale = (torch.from_numpy(part).view(1, -1, 1, 1) for part in preprocessing.constants())
    module.register_buffer(SHIFT, shift)
    module.register_buffer(SCALE, scale)
    turned = preprocessing.colour == "bgr" and not native_colour
    graph, aten = module.graph, torch.ops.aten
    pixels = next(node for node in graph.nodes if node.op == "placeholder")
    first = pixels.next
    with graph.inserting_before(first):
        x = pixels
        if dtype == "uint8":
            x = graph.call_function(aten.to.dtype, (x, torch.float32))
        if layout == "nhwc":
            x = graph.call_function(aten.permute.default, (x, [0, 3, 1, 2]))
        if turned:
            module.register_buffer(ORDER, torch.arange(preprocessing.channels).flip(0))
            x = graph.call_function(aten.index_select.default, (x, 1, graph.get_attr(ORDER)))
        x = graph.call_function(aten.sub.Tensor, (x, graph.get_attr(SHIFT)))
        normalised = graph.call_function(aten.div.Tensor, (x, graph.get_attr(SCALE)))
        if apart and bool((scale == scale.flatten()[0]).all()):
            module.register_buffer(LEAST, torch.full((1, 1, 1, 1), torch.finfo(torch.float32).min))
            normalised = graph.call_function(aten.maximum.default, (normalised, graph.get_attr(LEAST)))
    made = set()
    node = normalised
    while node is not pixels:
        made.add(node)
        node = node.prev
    pixels.replace_all_uses_with(normalised, delete_user_cb=lambda user: user not in made)
    graph.lint()
    module.recompile()
    shape = example.shape if layout == "nchw" else tuple(example.shape[axis] for axis in (0, 2, 3, 1))
    colour = preprocessing.colour if native_colour else "rgb"
    return replace(program, module=module, example={name: np.zeros(shape, dtype)}, image=colour, labels=tuple(labels))
