"""The mistakes that people make between pixels and a network, as functions: what the network sees under each.

Every one is linear in the pixels, a factor and an offset for each channel, perhaps on other channels or with axes
read in another order; so it can be undone, too: which pixels make a network that is fed by mistake see what it should.
The list is that of converters' trackers: coremltools issues on ImageType's scale and bias, TFLite's mean and std in
units of 0..255 or 0..1, OpenCV's BGR, ImageNet's constants out of habit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mobconv.data.preprocessing import Preprocessing

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of most networks of torchvision and timm


@dataclass(frozen=True, eq=False)
class Mistake:
    """What a network sees in place of what it should: factor * pixel + offset, for each channel.

    name     in a few words
    factor, offset  (channels,), by the channel as the network sees it
    turned   the channels stand in the opposite order, so that the network's first sees the last of the pixels'
    axes     how the axes are mixed up; see _mixed
    late     whether axes are mixed up after factor and offset, not before
    pair     two mistakes at once
    """

    name: str
    factor: Doubles
    offset: Doubles
    turned: bool = False
    axes: str = ""
    late: bool = False
    pair: bool = False

    def seen(self, pixels: NDArray[np.uint8] | Floats) -> Floats:
        """Pixels (N, H, W, C) -> what the network sees, (N, C, H, W)."""
        values = pixels.astype(np.float64)
        if not self.late:
            values = self._mix(values)
        values = values * self.factor + self.offset
        if self.late:
            values = self._mix(values)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2), np.float32)

    def undone(self, wanted: Floats) -> Floats:
        """Pixels (N, H, W, C), perhaps beyond 0 to 255, under which the network sees `wanted` (N, C, H, W)."""
        values = wanted.transpose(0, 2, 3, 1).astype(np.float64)
        if self.late:
            values = self._unmix(values)
        values = (values - self.offset) / self.factor
        if not self.late:
            values = self._unmix(values)
        return np.ascontiguousarray(values, np.float32)

    def same_as(self, other: Mistake) -> bool:
        """Whether both always come to the same."""
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
        return _mixed(values[..., ::-1] if self.turned else values, self.axes)

    def _unmix(self, values: Doubles) -> Doubles:
        back = _unmixed(values, self.axes)
        return back[..., ::-1] if self.turned else back


def right(preprocessing: Preprocessing) -> Mistake:
    """No mistake: what the network should see of RGB pixels."""
    shift, scale = (part.astype(np.float64) for part in preprocessing.constants())
    return Mistake("as it should be", 1 / scale, -shift / scale, preprocessing.colour == "bgr")


def plausible(preprocessing: Preprocessing) -> list[Mistake]:
    """All that differ from each other and from no mistake at all, simple ones first.

    Those that come to the same with these constants are one, under both names.
    """
    none = right(preprocessing)
    singles: list[Mistake] = []
    for each in _single(preprocessing, none):
        _add(singles, each, none)
    found = list(singles)
    other = "BGR" if preprocessing.colour == "rgb" else "RGB"
    for each in singles:
        if not each.axes and each.turned == none.turned:
            both = f"{each.name}; and {other} channels"
            _add(found, replace(each, name=both, turned=not none.turned, pair=True), none)
    return found


def _add(found: list[Mistake], each: Mistake, none: Mistake) -> None:
    if each.same_as(none) or not np.all(np.isfinite(each.factor)) or np.any(each.factor == 0):
        return
    for place, known in enumerate(found):
        if known.same_as(each):
            if each.name not in known.name:
                found[place] = replace(known, name=f"{known.name} (or: {each.name})")
            return
    found.append(each)


def _single(preprocessing: Preprocessing, none: Mistake) -> Iterator[Mistake]:
    """One mistake each. In units: u = pixel / 255 on the network's range; it should see (u - mean) / std."""
    low, high = preprocessing.range
    unit = (high - low) / 255
    mean, std = np.asarray(preprocessing.mean, np.float64), np.asarray(preprocessing.std, np.float64)
    one = np.ones_like(mean)
    other = "BGR" if preprocessing.colour == "rgb" else "RGB"
    own = preprocessing.colour.upper()

    def linear(name: str, factor: Doubles, offset: Doubles) -> Mistake:
        return replace(none, name=name, factor=factor, offset=offset)

    yield linear("the sign of the bias is wrong: mean is added, not subtracted", unit / std, (low + mean) / std)
    yield replace(none, name=f"{other} channels where the network wants {own}", turned=not none.turned)
    # turned around after each was normalised as it should be: the constants are turned around with the channels
    late = replace(none, turned=not none.turned, factor=none.factor[::-1].copy(), offset=none.offset[::-1].copy())
    yield replace(late, name=f"{other} channels where the network wants {own}, turned around after normalising")
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
        for late_too in (False, True) if axes != "hw" else (False,):  # to swap the sides, it is all one
            yield replace(
                none, name=what if late_too or axes == "hw" else f"{what} before normalising", axes=axes, late=late_too
            )


def _even(values: Doubles) -> bool:
    return bool(np.allclose(values, values[0], rtol=1e-6))


_AXES = {
    "nhwc as nchw": "NHWC data read as NCHW",
    "nchw as nhwc": "NCHW data read as NHWC",
    "hw": "height and width swapped",
}


def _mixed(values: Doubles, axes: str) -> Doubles:
    """(N, H, W, C) as it should be -> as it is seen, in the same order of axes."""
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
