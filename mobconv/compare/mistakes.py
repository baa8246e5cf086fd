"""Mistakes in preprocessing that people make, as functions: pixels -> what the network sees.

Every mistake is linear in the pixels: a factor and an offset for each channel, perhaps of other channels, or with axes
read in another order. So it can be undone as well: there are pixels for which a network with the mistake in front of it
sees the right values. The list is that of the converters' issue trackers: scale and bias of an image input, mean and
std in units of 0..255 or 0..1, OpenCV's BGR, ImageNet's constants by habit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobconv.data.preprocessing import IMAGENET, Preprocessing, turned

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Mistake:
    """A wrong preprocessing: the network sees factor * pixel + offset, for each channel.

    name     in a few words
    factor, offset  (channels,), by the channel as the network sees it
    turned   red and blue are swapped: the network's first channel sees the third of the pixels'
    axes     how the axes are mixed up, a key of `_AXES`; '' where they are right
    late     whether axes are mixed up after factor and offset, not before
    pair     whether it is two mistakes at once
    """

    name: str
    factor: Doubles
    offset: Doubles
    turned: bool = False
    axes: str = ""
    late: bool = False
    pair: bool = False

    def seen(self, pixels: NDArray[np.uint8] | Floats) -> Floats:
        """Pixels (N, H, W, C) -> the values that the network sees, (N, C, H, W)."""
        values = pixels.astype(np.float64)
        if not self.late:
            values = self._mix(values)
        values = values * self.factor + self.offset
        if self.late:
            values = self._mix(values)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)

    def undone(self, wanted: Floats) -> Floats:
        """Pixels (N, H, W, C), perhaps beyond 0 to 255, for which the network sees `wanted` (N, C, H, W)."""
        values = wanted.transpose(0, 2, 3, 1).astype(np.float64)
        if self.late:
            values = self._unmix(values)
        values = (values - self.offset) / self.factor
        if not self.late:
            values = self._unmix(values)
        return np.ascontiguousarray(values, np.float32)

    def same_as(self, other: Mistake) -> bool:
        """Whether both give the same values for all pixels."""
        mixed = (self.turned, self.axes) == (other.turned, other.axes)
        flat = all(_even(each.factor) and _even(each.offset) for each in (self, other))
        near = 1e-3 * float(np.abs(self.factor).max()) * 255
        return (
            mixed
            and (self.late == other.late or flat)
            and bool(np.allclose(self.factor, other.factor, rtol=1e-3))
            and bool(np.allclose(self.offset, other.offset, rtol=1e-3, atol=near))
        )

    def _mix(self, values: Doubles) -> Doubles:
        return _mixed(values[..., turned(values.shape[-1])] if self.turned else values, self.axes)

    def _unmix(self, values: Doubles) -> Doubles:
        back = _unmixed(values, self.axes)
        return back[..., turned(back.shape[-1])] if self.turned else back


def no_mistake(preprocessing: Preprocessing) -> Mistake:
    """The right preprocessing of RGB pixels, in the form of a mistake."""
    shift, scale = (part.astype(np.float64) for part in preprocessing.constants())
    return Mistake("as it should be", 1 / scale, -shift / scale, preprocessing.colour == "bgr")


def plausible_mistakes(preprocessing: Preprocessing) -> list[Mistake]:
    """Mistakes that differ from each other and from the right preprocessing, single ones before pairs.

    Those that are equal with these constants are one mistake with both names.
    """
    none = no_mistake(preprocessing)
    singles: list[Mistake] = []
    for mistake in _single(preprocessing, none):
        _add(singles, mistake, none)
    mistakes = list(singles)
    other = "BGR" if preprocessing.colour == "rgb" else "RGB"
    for mistake in singles:
        if not mistake.axes and mistake.turned == none.turned:
            both = f"{mistake.name}; and {other} channels"
            _add(mistakes, replace(mistake, name=both, turned=not none.turned, pair=True), none)
    return mistakes


def _add(mistakes: list[Mistake], mistake: Mistake, none: Mistake) -> None:
    """Add a mistake to the list, or its name to the mistake that is equal; none: the right preprocessing."""
    if mistake.turned != none.turned and len(mistake.factor) < 3:  # there are no colours to turn around
        return
    if mistake.same_as(none) or not np.all(np.isfinite(mistake.factor)) or np.any(mistake.factor == 0):
        return
    for place, known in enumerate(mistakes):
        if known.same_as(mistake):
            if mistake.name not in known.name:
                mistakes[place] = replace(known, name=f"{known.name} (or: {mistake.name})")
            return
    mistakes.append(mistake)


def _single(preprocessing: Preprocessing, none: Mistake) -> Iterator[Mistake]:
    """Single mistakes. With u = pixel / 255 on the network's range, the right value is (u - mean) / std."""
    low, high = preprocessing.range
    unit = (high - low) / 255
    mean, std = np.asarray(preprocessing.mean, np.float64), np.asarray(preprocessing.std, np.float64)
    one = np.ones_like(mean)
    other = "BGR" if preprocessing.colour == "rgb" else "RGB"
    colour = preprocessing.colour.upper()

    def linear(name: str, factor: Doubles, offset: Doubles) -> Mistake:
        return replace(none, name=name, factor=factor, offset=offset)

    yield linear("the sign of the bias is wrong: mean is added, not subtracted", unit / std, (low + mean) / std)
    yield replace(none, name=f"{other} channels where the network wants {colour}", turned=not none.turned)
    # channels turned around after normalising them rightly: the constants are turned around with them
    order = turned(len(none.factor))
    late = replace(none, turned=not none.turned, factor=none.factor[order], offset=none.offset[order])
    yield replace(late, name=f"{other} channels where the network wants {colour}, turned around after normalising")
    yield linear("pixels of 0 to 255 where mean and std are in units of 0 to 1", one / std, -mean / std)
    yield linear("pixels of 0 to 255, not normalised at all", one, 0 * one)
    yield linear("pixels of 0 to 1, mean and std missing", one / 255, 0 * one)
    yield linear("pixels of -1 to 1, not this network's mean and std", one / 127.5, -one)
    yield linear("mean missing", unit / std, low / std)
    yield linear("std missing", unit * one, low - mean)
    yield linear("mean and std applied twice", unit / std**2, ((low - mean) / std - mean) / std)
    yield linear(
        "divided by 255 twice, or mean and std in units of 0 to 255", unit / 255 / std, (low / 255 - mean) / std
    )
    yield linear(
        "ImageNet's mean and std, not this network's",
        1 / (255 * np.resize(IMAGENET[1], mean.shape)),
        -np.resize(IMAGENET[0], mean.shape) / np.resize(IMAGENET[1], mean.shape),
    )
    averages = {
        "their mean": std.mean(),
        "their geometric mean": np.exp(np.log(std).mean()),
        "the first": std[0],
        "the second": std[min(1, len(std) - 1)],
        "the last": std[-1],
    }
    for how, value in averages.items():
        yield linear(f"one std for all channels, {how}", unit / value * one, (low - mean) / value)
        mixed = f"one std for all channels, {how}, in the scale but not in the bias"
        yield linear(mixed, unit / value * one, (low - mean) / std)
    for axes, what in _AXES.items():
        for late_axes in (False, True) if axes != "hw" else (False,):  # swapped sides are the same before and after
            yield replace(
                none,
                name=what if late_axes or axes == "hw" else f"{what} before normalising",
                axes=axes,
                late=late_axes,
            )


def _even(values: Doubles) -> bool:
    return bool(np.allclose(values, values[0], rtol=1e-6))


_AXES = {
    "nhwc as nchw": "NHWC data read as NCHW",
    "nchw as nhwc": "NCHW data read as NHWC",
    "hw": "height and width swapped",
}


def _mixed(values: Doubles, axes: str) -> Doubles:
    """Values (N, H, W, C) -> the same values read in the wrong order of axes, (N, H, W, C)."""
    n, height, width, channels = values.shape
    if axes == "nhwc as nchw":
        return np.ascontiguousarray(values).reshape(n, channels, height, width).transpose(0, 2, 3, 1)
    if axes == "nchw as nhwc":
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2)).reshape(values.shape)
    return values.transpose(0, 2, 1, 3) if axes == "hw" and height == width else values


def _unmixed(values: Doubles, axes: str) -> Doubles:
    """The inverse of `_mixed`."""
    n, height, width, channels = values.shape
    if axes == "nhwc as nchw":
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2)).reshape(values.shape)
    if axes == "nchw as nhwc":
        return np.ascontiguousarray(values).reshape(n, channels, height, width).transpose(0, 2, 3, 1)
    return values.transpose(0, 2, 1, 3) if axes == "hw" and height == width else values
