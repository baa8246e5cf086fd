"""The corrected call to paste, once a mistake in preprocessing has a name: Python, or a command of mobconv's own."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobconv.backends.base import TensorSpec
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import UsageError
from mobconv.schemes import Cell, Compute


def corrected(backend: str, spec: TensorSpec, network: Preprocessing, takes: Preprocessing) -> str:
    """Python that does it right.

    network: the network's own preprocessing; takes: what the file's caller does. A caller that hands over pixels as
    they are leaves normalising to the file, so the file is to be made again; any other caller is told what to do.
    """
    if not takes.untouched:
        return _caller(network, takes)
    if spec.colour and backend.startswith("coreml") and len(set(network.std)) == 1:
        return _image_type(spec, network)
    return _wrapper(backend, spec, network, takes)


def exported_again(
    record: Mapping[str, Any], spec: TensorSpec, checkpoint: Path, network: Preprocessing, options: Sequence[str] = ()
) -> str:
    """The command that exports a file of ours as it should be; '' for a file that is not ours, or of a recipe whose
    `image_type` has coremltools scale pixels.

    record: the file's own; options: of the command line, that say how the checkpoint is loaded.
    """
    try:
        cell = Cell.parse(str(record["cell"]))
    except (KeyError, UsageError):  # of another maker, or a later mobconv
        return ""
    if "image_type" in record:
        return ""
    made = ["--to", cell.backend, "--scheme", cell.rest]
    if cell.backend == "coreml" and cell.compute is Compute.FP32:
        made += ["--compute", "fp32"]
    if spec.dtype == "uint8" and not cell.backend.startswith("coreml"):
        made += ["--input", "image-uint8"]
    lines = [
        ["mobconv", "export", str(checkpoint), *options],
        made,
        ["--preprocessing", json.dumps(network.to_json()), "-o", "mended"],
    ]
    return " \\\n    ".join(map(shlex.join, lines))


def _image_type(spec: TensorSpec, network: Preprocessing) -> str:
    """For Core ML, where one scale for all channels will do."""
    low, high = network.range
    unit = (high - low) / network.std[0]
    bias = [round((low - mean) / std, 6) for mean, std in zip(network.mean, network.std, strict=True)]
    return (
        f'ct.ImageType(\n    name="{spec.name}",\n    shape={tuple(spec.shape)},\n    scale={_short(unit)} / 255,\n'
        f"    bias={bias},\n    color_layout=ct.colorlayout.{network.colour.upper()},\n)"
    )


def _wrapper(backend: str, spec: TensorSpec, network: Preprocessing, takes: Preprocessing) -> str:
    """Normalising inside the model, a mean and a deviation for each channel; for every converter."""
    channels = network.channels
    steps = ["pixels"]
    if takes.layout == "nhwc":
        steps.append(".permute(0, 3, 1, 2)")
    if takes.colour != network.colour:
        steps.append(".flip(1)")
    x = "".join(steps)
    value = f"({_unit(x, network)} - self.mean) / self.std"
    shape = tuple(spec.shape)
    call = {
        "tflite": f"litert_torch.convert(Normalised(model).eval(), (torch.zeros{shape},))",
        "onnx": f"torch.onnx.export(Normalised(model).eval(), (torch.zeros{shape},), path, dynamo=True)",
    }.get(
        backend,
        "ct.convert(\n    torch.export.export(Normalised(model).eval(), (torch.zeros"
        f'{shape},)),\n    inputs=[ct.ImageType(name="{spec.name}", shape={shape}, '
        f"color_layout=ct.colorlayout.{takes.colour.upper()})],\n)  # scale and bias stay at 1 and 0",
    )
    return (
        "class Normalised(torch.nn.Module):\n"
        "    def __init__(self, model):\n"
        "        super().__init__()\n"
        "        self.model = model\n"
        f'        self.register_buffer("mean", torch.tensor({_list(network.mean)}).view(1, {channels}, 1, 1))\n'
        f'        self.register_buffer("std", torch.tensor({_list(network.std)}).view(1, {channels}, 1, 1))\n\n'
        "    def forward(self, pixels):\n"
        f"        return self.model({value})\n\n"
        f"{call}"
    )


def _caller(network: Preprocessing, takes: Preprocessing) -> str:
    """For whoever feeds a file that takes the network's own tensor."""
    order = "[..., ::-1]" if network.colour == "bgr" else ""
    turn = ".transpose(0, 3, 1, 2)" if takes.layout == "nchw" else ""
    x = f"pixels{order}.astype(np.float32)"
    return (
        f"x = ({_unit(x, network)} - np.float32({_list(network.mean)})) / np.float32({_list(network.std)})\n"
        f"x = np.ascontiguousarray(x{turn})  # pixels: (N, height, width, {network.channels}) uint8, RGB"
    )


def _unit(x: str, network: Preprocessing) -> str:
    """Pixels on the network's range, as Python."""
    low, high = network.range
    if (low, high) == (0.0, 255.0):
        return x
    scaled = f"{x} / 255" if high - low == 1 else f"{x} * {_short(high - low)} / 255"
    return scaled if low == 0 else f"{scaled} + {_short(low)}" if low > 0 else f"{scaled} - {_short(-low)}"


def _list(values: Sequence[float]) -> str:
    return "[" + ", ".join(_short(value) for value in values) + "]"


def _short(value: float) -> str:
    text = f"{value:.7g}"
    return text if "." in text or "e" in text else f"{text}.0"
