"""Preprocessing: from pixels to the tensor that a network was trained on.

Training, the float baseline, the reference and every artifact use the same object, so that no two of them can disagree.
Pixels are 0 to 255: RGB, one channel of gray, or RGB and a fourth one. They are mapped onto `range`, and the network
sees (x - mean) / std.

The same object describes the input of an artifact: one that normalises pixels itself takes raw ones (`raw`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = Literal["rgb", "bgr"]
Layout = Literal["nchw", "nhwc"]
Interpolation = Literal["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"]
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean, std of most networks of torchvision and timm
_MOST_RESIZED = 1 << 28  # pixels of a resized image, before it is cropped


@dataclass(frozen=True)
class Preprocessing:
    """Steps from pixels to a network's input: resize, crop, order of channels, range, mean and std.

    mean, std      one value per channel (`for_channels`: one for all), in the order of `colour` and in the units of
                   `range`; std above 0
    range          what 0 and 255 are mapped onto
    colour         order of the channels that the network sees
    layout         order of the axes that the network sees
    size           (height, width) of a crop from the middle; None: images have their size already
    resize         length of the shorter side before that, or (height, width), which do not keep the proportions; None:
                   the shortest side that covers `size`
    interpolation  of the resizing (Pillow's, which widens its kernel where it shrinks: antialias)
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    range: tuple[float, float] = (0.0, 1.0)
    colour: Colour = "rgb"
    layout: Layout = "nchw"
    size: tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        values = (*self.mean, *self.std)
        if len(self.mean) != len(self.std) or not self.mean:
            raise InputError(f"mean and std must have one value per channel each, not {self.mean} and {self.std}")
        if not all(np.isfinite(values)) or min(self.std) <= 0:
            raise InputError(f"mean must be finite and std above 0, not {self.mean} and {self.std}")
        if len(self.range) != 2 or not all(np.isfinite(self.range)) or self.range[0] >= self.range[1]:
            raise InputError(f"range is two numbers, what 0 and 255 become, the first below the second: {self.range}")
        for name, kind in (("colour", Colour), ("layout", Layout), ("interpolation", Interpolation)):
            value = getattr(self, name)
            if value not in get_args(kind):
                choices = get_args(kind)
                raise InputError(f"{name} {value!r}: {' or '.join(choices)}{did_you_mean(value, choices)}")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise InputError(f"size is a height and a width in pixels, not {self.size}")
        sides = (self.resize,) * 2 if isinstance(self.resize, int) else self.resize
        needed = self.size or (1, 1)
        if isinstance(self.resize, int):  # the shorter side may become either
            needed = (max(needed),) * 2
        if sides is not None and (len(sides) != 2 or sides[0] < needed[0] or sides[1] < needed[1]):
            raise InputError(f"resize {self.resize} leaves images smaller than the size {self.size}")

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def untouched(self) -> bool:
        """Whether values of pixels, 0 to 255, stay the same; order of channels and size may change."""
        return self.range == (0.0, 255.0) and {*self.mean} == {0.0} and {*self.std} == {1.0}

    @property
    def order(self) -> list[int]:
        """The channel of the pixels that each channel of the network sees: of BGR the first three are turned around."""
        return turned(self.channels) if self.colour == "bgr" else list(range(self.channels))

    def for_channels(self, count: int) -> Preprocessing:
        """The same for images of another number of channels, where all channels share one mean and one std.

        Raises InputError where each channel has its own and there are not so many.
        """
        if count == self.channels:
            return self
        if len({*self.mean}) > 1 or len({*self.std}) > 1:
            raise InputError(f"mean and std are of {self.channels} channels, and the input has {count}")
        return replace(self, mean=self.mean[:1] * count, std=self.std[:1] * count)

    def constants(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(shift, scale), each (channels,): the network sees (pixel - shift) / scale."""
        low, high = self.range
        unit = np.float32(255) / np.float32(high - low)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (mean - np.float32(low)) * unit, std * unit

    def __call__(self, pixels: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Pixels (N, H, W, C), RGB where there are three, 0 to 255 -> input in `layout`, float32, contiguous."""
        if pixels.ndim != 4 or pixels.shape[3] != self.channels:
            raise InputError(
                f"expected images of shape (N, H, W, {self.channels}), got {pixels.shape}: "
                f"mean and std have {self.channels} channels"
            )
        shift, scale = self.constants()
        ordered = pixels[..., self.order] if self.colour == "bgr" else pixels
        normalised = (ordered.astype(np.float32) - shift) / scale
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2) if self.layout == "nchw" else normalised)

    def fit(self, image: Image) -> Image:
        """Resize and crop an image to `size`; unchanged where that is None. Raises InputError for far too long ones."""
        if self.size is None:
            return image
        from PIL.Image import Resampling

        height, width = self.size
        if isinstance(self.resize, tuple):
            wanted = self.resize[1], self.resize[0]
        elif self.resize:
            # the longer side is cut to whole pixels, as in torchvision and transformers
            short = min(image.width, image.height)
            wanted = image.width * self.resize // short, image.height * self.resize // short
        else:
            share = max(width / image.width, height / image.height)
            wanted = max(width, round(image.width * share)), max(height, round(image.height * share))
        if wanted[0] * wanted[1] > _MOST_RESIZED:
            raise InputError(f"{image.width}x{image.height} pixels would be resized to {wanted[0]}x{wanted[1]} first")
        if wanted != image.size:
            image = image.resize(wanted, getattr(Resampling, self.interpolation.upper()))
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    def to_json(self) -> dict[str, Any]:
        """mean and std, and the rest where it is not the default."""
        values: dict[str, Any] = {"mean": list(self.mean), "std": list(self.std)}
        plain = Preprocessing(self.mean, self.std)
        for name in ("range", "colour", "layout", "size", "resize", "interpolation"):
            value = getattr(self, name)
            if value != getattr(plain, name):
                values[name] = list(value) if isinstance(value, tuple) else value
        return values

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """From mean, std and optional fields; a bare number as mean or std applies to all channels.

        Raises InputError for a missing or unknown field, and for a value of another type.
        """
        unknown = [key for key in value if key not in cls.__dataclass_fields__]
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            near = did_you_mean(str(unknown[0]), cls.__dataclass_fields__)
            raise InputError(f"preprocessing has no {unknown[0]!r}{near}; it has {known}")
        fields: dict[str, Any] = dict(value)
        try:
            fields["mean"], fields["std"] = _for_each_channel(value["mean"], value["std"])
            if "range" in fields:
                fields["range"] = tuple(float(v) for v in value["range"])
            if fields.get("size") is not None:
                fields["size"] = tuple(int(v) for v in value["size"])
            if fields.get("resize") is not None:
                sides = value["resize"]
                fields["resize"] = tuple(int(v) for v in sides) if isinstance(sides, list | tuple) else int(sides)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"preprocessing needs numbers under 'mean' and 'std', a list with one a channel or one for all, got "
                f"{dict(value)!r}"
            ) from error
        preprocessing = cls(**fields)
        low, high = preprocessing.range
        if any(not low - 10 * (high - low) <= mean <= high + 10 * (high - low) for mean in preprocessing.mean):
            raise InputError(
                f"mean {list(preprocessing.mean)} is far outside of the range {low:g} to {high:g}, whose units mean "
                'and std are in; for constants in units of pixels say "range": [0, 255] as well'
            )
        return preprocessing


def _for_each_channel(mean: Any, std: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std as tuples of one length; a bare number is repeated. Raises TypeError, ValueError."""
    if any(isinstance(each, str | bool) for each in (mean, std)):
        raise TypeError("not a number")
    count = next((len(each) for each in (mean, std) if not isinstance(each, int | float)), 1)
    first, second = ([each] * count if isinstance(each, int | float) else each for each in (mean, std))
    return tuple(float(v) for v in first), tuple(float(v) for v in second)


def turned(channels: int) -> list[int]:
    """Positions of channels with the first three, RGB, turned around; fewer than three stay."""
    return [2, 1, 0, *range(3, channels)] if channels > 2 else list(range(channels))


def stated(value: Preprocessing | Mapping[str, Any] | str | None) -> Preprocessing | None:
    """A preprocessing as users state it: itself, its fields, or a name of NAMES; None for none.

    Raises InputError for an unknown name, and for fields that make no sense.
    """
    if isinstance(value, Mapping):
        return Preprocessing.from_json(value)
    return named(value) if isinstance(value, str) else value


def named(name: str) -> Preprocessing:
    """A preprocessing by its name: one of NAMES. Raises InputError for another one."""
    if name not in NAMES:
        raise InputError(f"no preprocessing has the name {name!r}: {', '.join(NAMES)}{did_you_mean(name, NAMES)}")
    return Preprocessing(*IMAGENET) if name == "imagenet" else raw()


NAMES = {
    "raw": "pixels of 0 to 255 as they are",
    "imagenet": "ImageNet's mean and std, as most networks of torchvision and timm have them",
}


def raw(colour: Colour = "rgb", channels: int = 3) -> Preprocessing:
    """Raw pixels, 0 to 255: nothing is done to their values."""
    return Preprocessing((0.0,) * channels, (1.0,) * channels, (0.0, 255.0), colour)
