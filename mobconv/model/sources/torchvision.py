"""Networks of torchvision by name: `torchvision:NAME`.

https://pytorch.org/vision/stable/models.html. `torchvision.models.get_model` builds the network; `get_model_weights`
says what images it takes and what its classes are. Weights are the library's default ones for the name, or the file
that the setting `weights` names.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from mobconv.model import library
from mobconv.model.checkpoint import Checkpoint, Fingerprint, Options

if TYPE_CHECKING:
    import torch

KIND = "a network of torchvision by name"
SETTINGS = ("key", "weights")
_PREFIX = "torchvision:"


def accepts(reference: str) -> bool:
    """Whether a reference begins with `torchvision:`."""
    return reference.startswith(_PREFIX) and len(reference) > len(_PREFIX)


def fingerprint(reference: str, options: Options) -> Fingerprint:
    """Hash the name and the user's file of weights."""
    return library.fingerprint(reference, options, "torchvision")


def load(reference: str, options: Options) -> Checkpoint:
    """Build and fill the network. See checkpoint.Source for errors."""
    name = reference.removeprefix(_PREFIX)

    def build(ready: bool) -> torch.nn.Module:
        from torchvision import models

        settings: dict[str, Any] = {"weights": "DEFAULT" if ready else None}
        if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
            settings["weights_backbone"] = None  # else fetched, though the network's own weights replace them
        module: torch.nn.Module = models.get_model(name, **(settings | options.arguments))
        return module

    def statements(module: torch.nn.Module, ready: bool) -> dict[str, Any]:
        from torchvision import models

        return _statements(models.get_model_weights(name).DEFAULT, ready)

    return library.load(reference, options, "torchvision", build, statements)


def _statements(weights: Any, ready: bool) -> dict[str, Any]:
    """What torchvision says of its default weights: shape, preprocessing, and, where they are taken, the classes."""
    stated: dict[str, Any] = {}
    preset = weights.transforms()
    crop, resize = (getattr(preset, name, None) for name in ("crop_size", "resize_size"))
    if crop and resize and len(resize) == 1:  # of classification; others take images of any size
        size = [int(crop[0]), int(crop[-1])]
        interpolation = getattr(preset.interpolation, "value", preset.interpolation)
        stated["input_shape"] = [1, len(preset.mean), *size]
        stated["preprocessing"] = {
            "mean": list(preset.mean),
            "std": list(preset.std),
            "size": size,
            "resize": int(resize[0]),
            "interpolation": str(interpolation),
        }
        if ready:
            stated["labels"] = library.unique([str(name) for name in weights.meta.get("categories", ())])
    return stated
