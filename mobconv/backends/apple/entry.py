"""The entry of a network in Core ML: an image type of its own, which the caller hands a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mobconv.backends.base import Entry
from mobconv.data.preprocessing import Preprocessing
from mobconv.model import image_input

if TYPE_CHECKING:
    from mobconv.model.program import Program


def image_entry(program: Program, preprocessing: Preprocessing | None, labels: tuple[str, ...], kind: str) -> Entry:
    """`Backend.image_entry`: pixels (1, channels, height, width) in the network's own order of colours.

    Core ML makes them of a picture in either kind of image, and puts the colours in the order that the file asks for.
    """
    if kind == "tensor" or preprocessing is None or not image_input.is_image(program, preprocessing):
        return Entry(program, preprocessing)
    native = preprocessing.channels == 3  # pixels of four channels are plain arrays in Core ML, RGB in front
    pixels = image_input.taking_pixels(program, preprocessing, native_colour=native, labels=labels)
    return Entry(pixels, image_input.caller_preprocessing(preprocessing, "nchw", pixels.image))
