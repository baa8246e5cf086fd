"""How pixels go into an artifact: what its caller must do, by the file's own word or by the user's.

An artifact of ours says it in its record, a Core ML image input in its type, a TFLite file in its metadata. A
file that says nothing, which is most that others made, needs to be told.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Runner, TensorSpec
from mobconv.backends.size_audit import record_of
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Colour, Layout, Preprocessing, raw
from mobconv.errors import InputError, UsageError
from mobconv.evaluate.inference import Feed

_ASSUMED = "the checkpoint: the file does not say, and is taken to want the same"


@dataclass(frozen=True)
class Expected:
    """What a file takes.

    preprocessing  what its caller does to RGB pixels, in the layout that the file has
    source         who says so: 'the command line', 'its record', 'its image input', 'its metadata' or another
    assumed        nobody says so: it is what the network wants
    """

    preprocessing: Preprocessing
    source: str
    assumed: bool = False


def expected(
    runner: Runner,
    artifact: Path,
    told: Preprocessing | None = None,
    otherwise: Preprocessing | None = None,
    option: str = "--preprocessing",
) -> Expected:
    """What the file takes: as told, else as it says itself, else `otherwise` (a checkpoint's).

    option: how `told` was told. Raises InputError for a file of several inputs, and for one that takes no images;
    UsageError where nobody says, and where a file that mobconv wrote normalises inside and is told to be fed anything
    but pixels as they are.
    """
    spec = _input(runner, artifact)
    own = _recorded(runner, artifact)
    found: tuple[Preprocessing, str] | None = None
    if told is not None:
        if own is not None and own.untouched and not told.untouched:
            raise UsageError(
                f"{artifact} normalises inside: by its record it takes {in_words(own)}, and {option} would normalise "
                f"them a second time ({in_words(told)}). Leave {option} out, or say {_instead(own, told)}"
            )
        found = told, "the command line"
    elif own is not None:
        found = own, "its record"
    elif spec.mean and spec.std:
        channels = 1 if spec.colour == "gray" else 3
        mean, std = (_each(values, channels) for values in (spec.mean, spec.std))
        found = Preprocessing(mean, std, (0.0, 255.0)), "its metadata"
    elif spec.colour:
        found = raw("bgr" if spec.colour == "bgr" else "rgb", 1 if spec.colour == "gray" else 3), "its image input"
    elif otherwise is not None:
        found = otherwise, _ASSUMED
    if found is None:
        raise UsageError(
            f"{artifact} does not say how pixels are normalised; "
            """add --preprocessing '{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}' with the network's own """
            "figures, or --preprocessing raw where the file takes pixels of 0 to 255"
        )
    preprocessing, source = found
    if preprocessing.channels == 1 and len(spec.shape) == 4 and 3 in (lengths := (spec.shape[1], spec.shape[3])):
        preprocessing = preprocessing if 1 in lengths else preprocessing.for_channels(3)
    held = replace(preprocessing, layout=layout_of(spec, preprocessing.channels, artifact))
    return Expected(held, source, source == _ASSUMED)


def inside(assumed: Preprocessing) -> list[Preprocessing]:
    """What a file may take that says nothing and normalises inside: pixels of 0 to 255, or of 0 to 1."""
    none, one = (0.0,) * assumed.channels, (1.0,) * assumed.channels
    orders: dict[Colour, None] = dict.fromkeys(("rgb", assumed.colour))
    found = [
        replace(assumed, mean=none, std=one, range=(0.0, high), colour=colour)
        for high in (255.0, 1.0)
        for colour in orders
    ]
    return [each for each in found if each != assumed]


def option(takes: Preprocessing) -> str:
    """As --takes has it, to paste; sizes left out."""
    plain = Preprocessing(takes.mean, takes.std, takes.range, takes.colour)
    return "raw" if plain == raw() else f"'{json.dumps(plain.to_json())}'"


def _recorded(runner: Runner, artifact: Path) -> Preprocessing | None:
    """What callers of a file of ours do, by its record; None in other files. Raises InputError for a damaged one."""
    record = record_of(runner.record, artifact)
    if not ("input" in record or "preprocessing" in record):
        return None
    held = record.get("input", record.get("preprocessing"))
    if not isinstance(held, Mapping):
        raise InputError(f"{artifact}: its mobconv record is damaged: {held!r} is no preprocessing")
    return Preprocessing.from_json(held)


def _instead(own: Preprocessing, told: Preprocessing) -> str:
    """What to say of a file that takes pixels as they are, resized as `told`."""
    if told.size is None:
        return "`raw`"
    sized = replace(own, layout="nchw", size=told.size, resize=told.resize, interpolation=told.interpolation)
    return f"'{json.dumps(sized.to_json())}'"


def feed(expected: Preprocessing, spec: TensorSpec) -> Feed:
    """Pixels (N, H, W, C) uint8 -> the file's input, in its layout and type, quantized where it is."""

    def made(pixels: NDArray[np.uint8]) -> NDArray[Any]:
        values = expected(pixels)
        return typed(values, spec)

    return made


def typed(values: NDArray[np.float32], spec: TensorSpec) -> NDArray[Any]:
    """Numbers as the type of an input holds them: rounded to integers where it is one, by its scale if it has one."""
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return np.ascontiguousarray(values, dtype)
    if spec.quantization is not None:
        scale, zero = spec.quantization
        values = values / np.float32(scale) + np.float32(zero)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def layout_of(spec: TensorSpec, channels: int, artifact: Path) -> Layout:
    """Where the channels stand in the input's shape. Raises InputError for what takes no such images."""
    if len(spec.shape) == 4:
        if spec.shape[1] == channels or spec.shape[1] < 1 <= spec.shape[2] != channels:
            return "nchw"
        if spec.shape[3] == channels:
            return "nhwc"
    raise InputError(
        f"{artifact} takes inputs of shape {tuple(spec.shape)}; {'RGB ' if channels == 3 else ''}images go in with "
        f"{channels} channels, (N, {channels}, height, width) or (N, height, width, {channels})"
    )


def check_shape(pixels: NDArray[np.uint8], source: str, expected: Preprocessing, spec: TensorSpec, what: str) -> None:
    """Raise InputError when images are not of the size that the file takes. A length below 1 stands for any."""
    wanted = spec.shape[2:] if expected.layout == "nchw" else spec.shape[1:3]
    got = pixels.shape[1:3]
    if pixels.shape[3] != expected.channels:
        raise InputError(f"{source}: images have {pixels.shape[3]} channels and {what} takes {expected.channels}")
    if any(0 < length != has for length, has in zip(wanted, got, strict=True)):
        how = json.dumps(replace(expected, layout="nchw", size=(wanted[0], wanted[1])).to_json())
        raise InputError(
            f"{source}: images are {got[1]}x{got[0]} but {what} takes {wanted[1]}x{wanted[0]}; resize them first, or "
            f"have it done: --preprocessing '{how}'"
        )


def told(takes: Preprocessing, spec: TensorSpec) -> str:
    """What a file takes, in words."""
    order = "N, " + ("C, H, W" if takes.layout == "nchw" else "H, W, C")
    kind = f"{'an image' if spec.colour and not spec.mean else spec.dtype}, {takes.colour.upper()} ({order})"
    return f"{kind}, {in_words(takes)}"


def in_words(takes: Preprocessing) -> str:
    """What is done to the values of pixels, in words."""
    text = f"pixels of {takes.range[0]:g} to {takes.range[1]:g}"
    if takes.mean == (0.0,) * takes.channels and takes.std == (1.0,) * takes.channels:
        return text
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (takes.mean, takes.std))
    return f"{text} less mean [{mean}], over std [{std}]"


def _each(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * channels if len(values) == 1 else values


def _input(runner: Runner, artifact: Path) -> TensorSpec:
    if len(runner.inputs) != 1 or len(runner.outputs) != 1:
        counts = f"{len(runner.inputs)} inputs and {len(runner.outputs)} outputs"
        raise InputError(f"{artifact} has {counts}; evaluation needs a classifier with one of each")
    return runner.inputs[0]


def check_network_shape(images: Images, shape: tuple[int, ...], what: str) -> None:
    """Raise InputError when images are not of the size that a network of input (N, 3, H, W) takes.

    A length below 1 stands for any.
    """
    if len(shape) != 4 or (shape[1] > 0 and shape[1] != images.pixels.shape[3]):
        raise InputError(f"{what} takes inputs of shape {tuple(shape)}; images go in as RGB, (N, 3, height, width)")
    if any(0 < wanted != got for wanted, got in zip(shape[2:], images.pixels.shape[1:3], strict=True)):
        height, width = images.pixels.shape[1:3]
        raise InputError(
            f"{images.source}: images are {width}x{height} but {what} takes {shape[3]}x{shape[2]}. "
            f"Resize them first, or say how: `size: [{shape[2]}, {shape[3]}]` in its preprocessing"
        )
