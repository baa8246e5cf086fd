"""Image files, decoded: a few formats by name, the size looked at first, 8 bits a channel.

Pillow opens dozens of formats, one of which starts another program (EPS: Ghostscript). Here it may open those of
FORMATS. Pixels of 16 bits are scaled to 8; Pillow's own conversion would clip them to white.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # Pillow's names
_SUFFIXES = ".png .jpg .jpeg .jpe .jfif .webp .bmp .dib .gif .tif .tiff .ppm .pgm .pbm .pnm"
SUFFIXES = frozenset(_SUFFIXES.split())  # of files in FORMATS
MOST_PIXELS = 89_478_485  # of one image; Pillow's limit, a quarter of a gigabyte as RGB
MOST_BYTES = 1 << 28  # of one image's file
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's modes by number of channels
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")

Fit = Callable[["Image"], "Image"]
"""Resizes and crops an image, as `Preprocessing.fit`."""


def decode(content: bytes, channels: int = 3, fit: Fit | None = None) -> NDArray[np.uint8]:
    """Decode an image file: (height, width, channels) uint8.

    channels: 1 for gray, 3 for RGB, 4 for RGB and a fourth one. An image of another number is converted: colours to
    gray by their luminance (ITU-R 601-2), gray to three equal channels, and where the fourth is missing it is 255. The
    orientation that a camera wrote (EXIF) is applied. Of several frames the first is taken. Raises InputError with the
    reason for a file of no known format, a damaged or too large one, and for pixels of 32 bits.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if channels not in _MODES:
        raise InputError(f"image files have 1 to 4 channels, and the network takes {channels}")
    if len(content) > MOST_BYTES:
        raise InputError(f"a file of {len(content) >> 20} MB; an image may have {MOST_BYTES >> 20} MB")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of large images and damaged EXIF
        try:
            image: Image.Image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise InputError(f"too large: {error}".partition(",")[0]) from error
        except UnidentifiedImageError as error:
            raise InputError(f"not an image of {', '.join(FORMATS[:-1])} or {FORMATS[-1]}, or a damaged one") from error
        except Exception as error:  # Pillow raises several types for a damaged file
            raise InputError(_text(error)) from error
        if image.width * image.height > MOST_PIXELS:
            raise InputError(f"too large: {image.width}x{image.height} pixels, and {MOST_PIXELS} are the most")
        try:
            image.load()
            image = _of_mode(ImageOps.exif_transpose(image), image.format, channels)
            pixels = np.asarray(fit(image) if fit else image, np.uint8)
        except InputError:
            raise
        except Exception as error:  # as above, in its pixels
            raise InputError(_text(error)) from error
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _of_mode(image: Image, kind: str | None, channels: int) -> Image:
    """An image of a file of that kind (PNG, ...), with so many channels of 8 bits. Raises InputError for 32 bits."""
    import PIL.Image

    # Pillow opens gray files of 16 bits in the first modes, and PGM files in mode I
    if image.mode in _SIXTEEN_BITS or (image.mode == "I" and kind in ("PPM", "PNG")):
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = PIL.Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError(f"pixels of 32 bits (Pillow's mode {image.mode}); save it with 8 or 16 bits a channel")
    if len(image.getbands()) == channels and (channels != 3 or image.mode == "RGB") and image.mode not in ("P", "1"):
        return image
    return image.convert(_MODES[channels])


def _text(error: Exception) -> str:
    """The first line of an error of Pillow, or its name."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
