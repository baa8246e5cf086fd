"""Networks of PyTorch Image Models by name: `timm:NAME`.

https://huggingface.co/docs/timm. `timm.create_model` builds the network, `timm.data.resolve_model_data_config` says
what images it takes. Weights are the library's own for the name, or the file that the setting `weights` names.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mobconv.errors import InputError
from mobconv.model import library
from mobconv.model.checkpoint import Checkpoint, Fingerprint, Options

if TYPE_CHECKING:
    import torch

KIND = "a network of timm by name"
SETTINGS = ("key", "weights")
_PREFIX = "timm:"
_PLACES = ("url", "hf_hub_id", "file", "state_dict")  # where a configuration says that weights are


def accepts(reference: str) -> bool:
    """Whether a reference begins with `timm:`."""
    return reference.startswith(_PREFIX) and len(reference) > len(_PREFIX)


def fingerprint(reference: str, options: Options) -> Fingerprint:
    """Hash the name and the user's file of weights."""
    return library.fingerprint(reference, options, "timm")


def load(reference: str, options: Options) -> Checkpoint:
    """Build and fill the network. See checkpoint.Source for errors."""
    name = reference.removeprefix(_PREFIX)

    def build(ready: bool) -> torch.nn.Module:
        import timm

        module: torch.nn.Module = timm.create_model(name, pretrained=ready, **options.arguments)
        config = getattr(module, "pretrained_cfg", {})
        if ready and not any(config.get(place) for place in _PLACES):
            raise InputError(f"timm has no weights for {name}")
        classes = options.arguments.get("num_classes")
        if ready and classes not in (None, config.get("num_classes")):
            raise InputError(f"its weights are for {config.get('num_classes')} classes, not {classes}")
        return module

    return library.load(reference, options, "timm", build, _statements)


def _statements(module: torch.nn.Module, ready: bool) -> dict[str, Any]:
    """What timm says of a network: shape, preprocessing of evaluation, names of classes.

    Its steps (timm/data/transforms_factory.py): the shorter side, or in the mode `squash` both, are resized to
    size / crop_pct; then the middle is cut out.
    """
    import timm

    config = timm.data.resolve_model_data_config(module)
    channels, height, width = (int(length) for length in config["input_size"])
    share, mode = float(config.get("crop_pct") or 0.875), config.get("crop_mode") or "center"
    sides = [math.floor(length / share) for length in (height, width)]
    stated: dict[str, Any] = {"input_shape": [1, channels, height, width]}
    if mode == "squash" or (mode == "center" and height == width):
        stated["preprocessing"] = {
            "mean": list(config["mean"]),
            "std": list(config["std"]),
            "size": [height, width],
            "resize": sides if mode == "squash" else sides[0],
            "interpolation": config.get("interpolation") or "bilinear",
        }
    if ready:
        stated["labels"] = _labels(module)
    return stated


def _labels(module: torch.nn.Module) -> list[str]:
    """Names of the classes of the library's own weights; [] where it has none."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config = getattr(module, "pretrained_cfg", {})
    names = config.get("label_names")
    if not names:
        subset = infer_imagenet_subset(module)
        names = ImageNetInfo(subset).label_descriptions() if subset else []
    return library.unique([str(name) for name in names]) if len(names) == config.get("num_classes") else []
