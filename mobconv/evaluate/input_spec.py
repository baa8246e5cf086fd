"""Input specification: what the caller of an artifact does to pixels, by the file's own metadata or the user's word.

An artifact of ours says it in its record, a Core ML image input in its type, a TFLite file in its metadata. Most files
of other tools say nothing: there the user has to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import TensorSpec
from mobconv.data.arrays import Arrays
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Colour, Layout, Preprocessing, raw
from mobconv.errors import InputError, UsageError, setting
from mobconv.evaluate.inference import Feed, single

_ASSUMED = "the checkpoint: the file does not say, and is assumed to want the same"


@dataclass(frozen=True)
class Expected:
    """What a file's caller does to pixels.

    preprocessing  of RGB pixels, in the layout of the file's input
    source         where that is stated: 'the command line', 'its record', 'its image input', 'its metadata' ...
    assumed        it is stated nowhere: this is what the network wants
    """

    preprocessing: Preprocessing
    source: str
    assumed: bool = False


def expected(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    record: Mapping[str, Any],
    artifact: Path,
    stated: Preprocessing | None = None,
    otherwise: Preprocessing | None = None,
    option: str = "preprocessing",
) -> Expected:
    """What the file's caller does: as stated by the user, else as the file says, else `otherwise` (a checkpoint's).

    inputs, outputs, record: of the file at `artifact`; option: the setting that `stated` came from. Raises InputError
    for a file of several inputs, and for one that takes no images; UsageError where nothing states it, and
    where a file of ours that normalises inside would be fed anything but raw pixels.
    """
    spec = single(inputs, str(artifact), "input")
    recorded = _recorded(record, artifact)
    if stated is not None:
        if recorded is not None and recorded.untouched and not stated.untouched:
            raise UsageError(
                f"{artifact} normalises inside: by its record it takes {in_words(recorded)}, and {setting(option)} "
                f"would normalise them a second time ({in_words(stated)}). Leave {setting(option)} out, or say "
                f"{_instead(recorded, stated)}"
            )
        preprocessing, source = stated, "the command line"
    elif recorded is not None:
        preprocessing, source = recorded, "its record"
    elif spec.mean and spec.std:
        channels = 1 if spec.colour == "gray" else 3
        mean, std = (values * channels if len(values) == 1 else values for values in (spec.mean, spec.std))
        preprocessing, source = Preprocessing(mean, std, (0.0, 255.0)), "its metadata"
    elif spec.colour:
        preprocessing = raw("bgr" if spec.colour == "bgr" else "rgb", 1 if spec.colour == "gray" else 3)
        source = "its image input"
    elif otherwise is not None:
        preprocessing, source = otherwise, _ASSUMED
    else:
        example = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
        raise UsageError(
            f"{artifact} does not say how pixels are normalised; add {setting('preprocessing', example)} with the "
            f"network's own figures, or {setting('preprocessing', 'raw')} where the file takes pixels of 0 to 255"
        )
    if (preprocessing.channels == 1 or preprocessing.untouched) and len(spec.shape) == 4:
        lengths = (spec.shape[1], spec.shape[3])
        if preprocessing.channels not in lengths:
            preprocessing = preprocessing.for_channels(next((n for n in (3, 1, 4) if n in lengths), 3))
    layout = layout_of(spec, preprocessing.channels, artifact)
    return Expected(replace(preprocessing, layout=layout), source, source == _ASSUMED)


def normalising_inside(assumed: Preprocessing) -> list[Preprocessing]:
    """What the caller of a file does that says nothing and normalises inside: pixels of 0 to 255, or of 0 to 1."""
    none, one = (0.0,) * assumed.channels, (1.0,) * assumed.channels
    orders: dict[Colour, None] = dict.fromkeys(("rgb", assumed.colour))
    candidates = [
        replace(assumed, mean=none, std=one, range=(0.0, high), colour=colour)
        for high in (255.0, 1.0)
        for colour in orders
    ]
    return [candidate for candidate in candidates if candidate != assumed]


def option(preprocessing: Preprocessing) -> str:
    """A preprocessing as the command line takes it, to paste; sizes left out."""
    plain = Preprocessing(preprocessing.mean, preprocessing.std, preprocessing.range, preprocessing.colour)
    return "raw" if plain == raw(channels=plain.channels) else f"'{json.dumps(plain.to_json())}'"


def _recorded(record: Mapping[str, Any], artifact: Path) -> Preprocessing | None:
    """What callers of a file of ours do, by its record; None in other files. Raises InputError for a damaged one."""
    if not ("input" in record or "preprocessing" in record):
        return None
    values = record.get("input", record.get("preprocessing"))
    if not isinstance(values, Mapping):
        raise InputError(f"{artifact}: its mobconv record is damaged: preprocessing is {values!r}, not an object")
    return Preprocessing.from_json(values)


def _instead(recorded: Preprocessing, stated: Preprocessing) -> str:
    """What to say of a file that takes raw pixels, resized as `stated`."""
    if stated.size is None:
        return "`raw`"
    sized = replace(recorded, layout="nchw", size=stated.size, resize=stated.resize, interpolation=stated.interpolation)
    return f"'{json.dumps(sized.to_json())}'"


def image_feed(preprocessing: Preprocessing, spec: TensorSpec) -> Feed:
    """Pixels (N, H, W, C) uint8 -> the input of a file by its name, in its layout and type, quantized where it is."""

    def feed(pixels: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {spec.name: typed(preprocessing(pixels), spec)}

    return feed


def array_feed(specs: Sequence[TensorSpec], names: Sequence[str], where: str) -> Feed:
    """Arrays (n, ...) by the names of a network's inputs -> inputs of its file, each in its type.

    Inputs of one name belong together; a single one may have any name. Raises InputError where a name is missing.
    """
    by_name = {spec.name: spec.name for spec in specs}
    if len(specs) == len(names) == 1:
        by_name = {specs[0].name: names[0]}
    if missing := [name for name in by_name.values() if name not in names]:
        raise InputError(f"{where} takes {', '.join(by_name)}, and the data has {', '.join(names)}: no {missing[0]!r}")

    def feed(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return {spec.name: _exact(arrays[by_name[spec.name]], spec, where) for spec in specs}

    return feed


def _exact(values: NDArray[Any], spec: TensorSpec, where: str) -> NDArray[Any]:
    """Numbers in the dtype of an input, none of them changed. Raises InputError for one that the dtype cannot hold."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind not in "iu" or spec.quantization is not None:
        return np.array(typed(values, spec))  # a copy: those of a file are read-only, which PyTorch warns of
    limits = np.iinfo(dtype)
    whole = values if values.dtype.kind in "biu" else np.rint(values)
    if whole.size and (whole.min() < limits.min or whole.max() > limits.max or not np.array_equal(whole, values)):
        raise InputError(
            f"{where}: input {spec.name!r} takes {spec.dtype}, and the data has values that are not whole numbers of "
            f"{limits.min} to {limits.max}"
        )
    return np.array(whole, dtype, order="C")


def check_arrays(data: Arrays, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise InputError where arrays have other shapes than a network's or a file's inputs, by the names of `data`.

    The first length is the batch; a length below 1 stands for any.
    """
    for name, values in data.inputs.items():
        shape = shapes.get(name)
        if shape is None:
            raise InputError(
                f"{data.source}: array {name!r} is not an input of {where}, which takes {', '.join(shapes)}"
            )
        wanted, has = shape[1:], values.shape[1:]
        if len(wanted) != len(has) or any(0 < one != other for one, other in zip(wanted, has, strict=True)):
            raise InputError(
                f"{data.source}: samples of {name!r} have shape {has}, and {where} takes {tuple(wanted)}"
                + (
                    "; arrays go in as they are, and bytes (N, height, width, channels) as images"
                    if len(wanted) == len(has) == 3
                    else ""
                )
            )


def typed(values: NDArray[np.float32], spec: TensorSpec) -> NDArray[Any]:
    """Numbers in the dtype of an input: for integers quantized by its scale, if it has one, and rounded."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return np.ascontiguousarray(values, dtype)
    if spec.quantization is not None:
        scale, zero_point = spec.quantization
        values = values / np.float32(scale) + np.float32(zero_point)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def layout_of(spec: TensorSpec, channels: int, artifact: Path) -> Layout:
    """Position of the channels in the input's shape. Raises InputError for an input that is not an image."""
    if len(spec.shape) == 4:
        if spec.shape[1] == channels or spec.shape[1] < 1 <= spec.shape[2] != channels:
            return "nchw"
        if spec.shape[3] == channels:
            return "nhwc"
    raise InputError(
        f"{artifact} takes inputs of shape {tuple(spec.shape)}; {_colours(channels)} images go in with "
        f"{channels} channels, (N, {channels}, height, width) or (N, height, width, {channels})"
    )


def check_image_size(data: Images, preprocessing: Preprocessing, spec: TensorSpec, artifact: str) -> None:
    """Raise InputError when images do not have the size that a file takes. A length below 1 stands for any."""
    wanted = spec.shape[2:] if preprocessing.layout == "nchw" else spec.shape[1:3]
    height, width, channels = data.pixels.shape[1:4]
    if channels != preprocessing.channels:
        raise InputError(
            f"{data.source}: images have {channels} channels and {artifact} takes {preprocessing.channels}"
        )
    if any(0 < length != has for length, has in zip(wanted, (height, width), strict=True)):
        sized = replace(preprocessing, layout="nchw", size=(wanted[0], wanted[1])).to_json()
        raise InputError(
            f"{data.source}: images are {width}x{height} but {artifact} takes {wanted[1]}x{wanted[0]}; resize them "
            f"first, or let mobconv do it: {setting('preprocessing', sized)}"
        )


def check_network_input(data: Images, shape: tuple[int, ...], network: str) -> None:
    """Raise InputError when images do not have the size of a network's input (N, C, H, W).

    A length below 1 stands for any.
    """
    channels = data.pixels.shape[3]
    if len(shape) != 4 or (shape[1] > 0 and shape[1] != channels):
        raise InputError(
            f"{network} takes inputs of shape {tuple(shape)}; {_colours(channels)} images go in as (N, {channels}, "
            "height, width)"
        )
    height, width = data.pixels.shape[1:3]
    if any(0 < wanted != length for wanted, length in zip(shape[2:], (height, width), strict=True)):
        raise InputError(
            f"{data.source}: images are {width}x{height} but {network} takes {shape[3]}x{shape[2]}. "
            f"Resize them first, or say how: `size: [{shape[2]}, {shape[3]}]` in its preprocessing"
        )


def described(preprocessing: Preprocessing, spec: TensorSpec) -> str:
    """What a file takes, in words."""
    order = "N, " + ("C, H, W" if preprocessing.layout == "nchw" else "H, W, C")
    kind = "an image" if spec.colour and not spec.mean else spec.dtype
    colours = preprocessing.colour.upper() if preprocessing.channels == 3 else _colours(preprocessing.channels)
    return f"{kind}, {colours} ({order}), {in_words(preprocessing)}"


def _colours(channels: int) -> str:
    """The colours of images, in a word or two."""
    return {1: "gray", 3: "RGB"}.get(channels, f"{channels}-channel")


def in_words(preprocessing: Preprocessing) -> str:
    """What happens to the values of pixels, in words."""
    low, high = preprocessing.range
    text = f"pixels of {low:g} to {high:g}"
    zero, one = (0.0,) * preprocessing.channels, (1.0,) * preprocessing.channels
    if preprocessing.mean == zero and preprocessing.std == one:
        return text
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    return f"{text} less mean [{mean}], over std [{std}]"
