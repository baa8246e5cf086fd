"""FedMobileNetV2: MobileNetV2 with the strides of stem, second and third stage set to 1.

The variant keeps 32x32 images large enough for the later stages to see something: the stride
changes are those that a 2020 thesis on mobile models in federated learning made for CIFAR-10.
"""

from __future__ import annotations

from mobconv.zoo.mobilenet_v2 import MobileNetV2

_STRIDES = (1, 1, 1, 1, 2, 1, 2, 1)


def fed_mobilenet_v2(classes: int = 10, width: float = 1.0) -> MobileNetV2:
    """Build the network with random weights. At width 0.25 and 10 classes: 162,602 parameters."""
    return MobileNetV2(classes, width, _STRIDES)


__all__ = ["fed_mobilenet_v2"]
