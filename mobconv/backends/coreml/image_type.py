"""coremltools' own ImageType with the scale and bias of a recipe: what a conversion script's figures do to pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mobconv.backends.base import Entry
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError
from mobconv.model import image_input

if TYPE_CHECKING:
    from mobconv.model.program import Program


def entry(
    program: Program, preprocessing: Preprocessing | None, labels: tuple[str, ...], options: Mapping[str, Any]
) -> Entry:
    """The untouched program behind an ImageType, whose callers hand over pixels as they are.

    The file computes the program on scale * pixel + bias, not with the network's own normalisation.
    options: as `options.checked` returns them. Raises InputError for a network that takes no images of that many
    channels.
    """
    scale, bias = options["image_type"]["scale"], options["image_type"]["bias"]
    if preprocessing is None or not image_input.is_image(program, preprocessing) or len(bias) != preprocessing.channels:
        raise InputError(f"image_type has a bias for {len(bias)} channels: the network does not take such images")
    # (pixel - mean) / std with mean = -bias / scale and std = 1 / scale
    equal = Preprocessing(tuple(-value / scale for value in bias), (1 / scale,) * len(bias), (0.0, 255.0))
    return Entry(
        replace(program, image=image_input.colour_space(preprocessing, True), labels=tuple(labels)),
        image_input.caller_preprocessing(preprocessing, "nchw", preprocessing.colour),
        options,
        image_input.taking_pixels(program, equal),
    )


def converter_inputs(program: Program, options: Mapping[str, Any] | None) -> list[Any] | None:
    """The argument `inputs` of coremltools.convert: an ImageType with the options' figures; None for traced inputs."""
    from mobconv.backends.apple.vendor import coremltools

    if not options:
        return None
    ct, image_type = coremltools(), options["image_type"]
    shape = next(iter(program.example.values())).shape
    layout = getattr(ct.colorlayout, {"gray": "GRAYSCALE"}.get(program.image, program.image.upper()))
    return [ct.ImageType(shape=shape, scale=image_type["scale"], bias=list(image_type["bias"]), color_layout=layout)]
