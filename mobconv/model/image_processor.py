"""The preprocessing of an image processor of Hugging Face transformers, from what `preprocessor_config.json` says.

https://huggingface.co/docs/transformers/main_classes/image_processor. Processors of some networks treat the same
settings in a way of their own (a `crop_pct`, a second normalisation), so the result is compared with the library's
own processor on two images, where that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError

_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_flip_channel_order", "do_convert_rgb")
# PIL.Image.Resampling, which the files name by number
_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_SIZES = ((90, 120), (131, 97))  # of the images that are compared, height and width: shorter and longer than most
_LEVELS = 1.01  # levels of 0 to 255: resizing rounds to whole ones


def preprocessing_of(config: Mapping[str, Any], channels: int) -> Preprocessing:
    """The preprocessing that an image processor's settings say; a step that they leave out is not done.

    channels: of the network's input. Raises InputError for steps that `Preprocessing` does not have, and for settings
    that make no sense.
    """
    other = [name for name, value in config.items() if name.startswith("do_") and value and name not in _STEPS]
    if other:
        raise InputError(f"a step of its own, {', '.join(other)}")
    try:
        return _preprocessing(config, channels)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"settings that make no sense ({type(error).__name__}: {error})") from error


def _preprocessing(config: Mapping[str, Any], channels: int) -> Preprocessing:
    mean, std = np.zeros(channels), np.ones(channels)
    low, high = 0.0, 255.0
    if config.get("do_rescale"):
        high = 255 * float(config.get("rescale_factor", 1 / 255))
        if config.get("rescale_offset") or config.get("offset"):  # to -1 to 1
            low, high = -1.0, high - 1
    if config.get("do_normalize") and config.get("image_mean") is not None:
        mean, std = (
            np.broadcast_to(np.asarray(config[name], float), (channels,)) for name in ("image_mean", "image_std")
        )
    if config.get("include_top"):  # of EfficientNet: divided once more
        std = std * np.asarray(config["image_std"], float)
    size, resize = _geometry(config)
    resample = config.get("resample")
    return Preprocessing(
        tuple(map(float, mean)),
        tuple(map(float, std)),
        (low, high),
        "bgr" if config.get("do_flip_channel_order") else "rgb",
        size=size,
        resize=resize,
        interpolation=_INTERPOLATIONS[int(2 if resample is None else resample)],  # type: ignore[arg-type]
    )


def _geometry(config: Mapping[str, Any]) -> tuple[tuple[int, int] | None, int | tuple[int, int] | None]:
    """(size of the crop, what is resized to before it: the shorter side, or both)."""
    size = config.get("size") if config.get("do_resize") else None
    crop = config.get("crop_size") if config.get("do_center_crop") else None
    cropped = None if crop is None else _sides(crop)
    if size is None:
        return cropped, None
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else None
    if edge is None:
        sides = _sides(size)
        return cropped or sides, sides
    edge, share = int(edge), config.get("crop_pct")
    if str(config.get("image_processor_type", "")).startswith("Levit"):
        edge = int(256 / 224 * edge)
    if isinstance(size, Mapping) and size.get("longest_edge"):
        raise InputError("images of any shape ('longest_edge')")
    if share and cropped is None:  # of ConvNeXt
        return (edge, edge), int(edge / float(share)) if edge < 384 else (edge, edge)
    if share:  # of PoolFormer
        edge = int(edge / float(share))
    return cropped, edge


def _sides(size: Any) -> tuple[int, int]:
    """Height and width of a size: a number, a pair or a mapping."""
    if isinstance(size, Mapping):
        return int(size["height"]), int(size["width"])
    if isinstance(size, int):
        return size, size
    height, width = size
    return int(height), int(width)


def differs(preprocessing: Preprocessing, processor: Callable[..., Any]) -> bool:
    """Whether the library's own processor gives other inputs, for two images of several shapes.

    Compared are values before mean and std are applied; raises what the processor raises.
    """
    from PIL.Image import fromarray

    generator = np.random.default_rng(0)
    for height, width in _SIZES:
        # squares of random colours: smooth inside, with edges that show where an image was cut
        squares = generator.integers(0, 256, (height // 8 + 1, width // 8 + 1, preprocessing.channels), np.uint8)
        pixels = squares.repeat(8, 0).repeat(8, 1)[:height, :width]
        image = fromarray(pixels[..., 0] if preprocessing.channels == 1 else pixels)
        theirs = np.asarray(processor(image, return_tensors="np")["pixel_values"], np.float32)
        fitted = np.asarray(preprocessing.fit(image))
        ours = preprocessing(fitted.reshape(1, *fitted.shape[:2], -1))
        if ours.shape != theirs.shape:
            return True
        _, scale = preprocessing.constants()
        levels = np.abs(ours - theirs) * scale.reshape(1, -1, 1, 1)
        if not float(levels.max()) <= _LEVELS:
            return True
    return False
