"""Entries of formats whose images are plain tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobconv.backends.base import Entry
from mobconv.data.preprocessing import Layout, Preprocessing
from mobconv.model import image_input

if TYPE_CHECKING:
    from mobconv.model.program import Program


def pixel_entry(
    program: Program,
    preprocessing: Preprocessing | None,
    labels: tuple[str, ...],
    kind: str,
    layout: Layout = "nchw",
    behind: image_input.Behind | None = None,
) -> Entry:
    """`Backend.image_entry` of a format that knows tensors alone.

    layout: of images as floats; bytes (`image-uint8`) are always (N, height, width, channels), as cameras and decoders
    have them. behind: see `image_input.taking_pixels`. A network that takes no images, or does not say how their pixels
    are normalised, keeps its own tensors.
    """
    if kind == "tensor" or preprocessing is None or not image_input.is_image(program, preprocessing):
        return Entry(program, preprocessing)
    as_bytes = kind == "image-uint8"
    order: Layout = "nhwc" if as_bytes else layout
    dtype = "uint8" if as_bytes else "float32"
    pixels = image_input.taking_pixels(program, preprocessing, order, dtype, labels=labels, behind=behind)
    return Entry(pixels, image_input.caller_preprocessing(preprocessing, order))
