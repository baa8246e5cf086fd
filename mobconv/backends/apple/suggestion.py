"""The call of coremltools to paste, with the network's normalisation in it."""

from __future__ import annotations

from mobconv.backends.base import TensorSpec
from mobconv.backends.suggestion import number, wrapper
from mobconv.data.preprocessing import Preprocessing


def suggested_fix(spec: TensorSpec, network: Preprocessing, caller: Preprocessing) -> str:
    """`Backend.suggested_fix`: an ImageType where one scale for all channels is enough, else a wrapped model."""
    if spec.colour and len(set(network.std)) == 1:
        return _image_type(spec, network)
    shape = tuple(spec.shape)
    return wrapper(network, caller) + (
        "ct.convert(\n    torch.export.export(Normalised(model).eval(), (torch.zeros"
        f'{shape},)),\n    inputs=[ct.ImageType(name="{spec.name}", shape={shape}, '
        f"color_layout=ct.colorlayout.{_layout(caller)})],\n)  # scale and bias stay at 1 and 0"
    )


def _layout(preprocessing: Preprocessing) -> str:
    """The name of a colour space in coremltools."""
    return "GRAYSCALE" if preprocessing.channels == 1 else preprocessing.colour.upper()


def _image_type(spec: TensorSpec, network: Preprocessing) -> str:
    """An ImageType with scale * pixel + bias equal to (pixel on the network's range - mean) / std."""
    low, high = network.range
    unit = (high - low) / network.std[0]
    bias = [round((low - mean) / std, 6) for mean, std in zip(network.mean, network.std, strict=True)]
    return (
        f'ct.ImageType(\n    name="{spec.name}",\n    shape={tuple(spec.shape)},\n    scale={number(unit)} / 255,\n'
        f"    bias={bias},\n    color_layout=ct.colorlayout.{_layout(network)},\n)"
    )
