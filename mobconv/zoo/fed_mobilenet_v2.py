"""FedMobileNetV2: MobileNetV2 with the strides of stem, second and third stage set to 1.

The variant keeps 32x32 images large enough for the later stages to see something. Network:
Sandler et al. 2018 (MobileNetV2, https://arxiv.org/abs/1801.04381), table 2, with the stride
changes that a 2020 thesis on mobile models in federated learning made for CIFAR-10.
"""

from __future__ import annotations

from torch import Tensor, nn

# (expansion t, channels c, blocks n, stride s): table 2 of the paper, with the stride of the
# second and third stage at 1 in place of 2.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 1),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _scaled(channels: int, width: float) -> int:
    """Channels times width, to the nearest multiple of 8 and at least 90 % of the product."""
    product = channels * width
    rounded = max(8, int(product + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * product else rounded


def _conv_norm(cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
    ]


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, linear 1x1 projection; identity where shapes allow it."""

    def __init__(self, cin: int, cout: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = cin * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers += [*_conv_norm(cin, hidden, 1), nn.ReLU6()]
        layers += [*_conv_norm(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6()]
        layers += _conv_norm(hidden, cout, 1)
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class FedMobileNetV2(nn.Module):
    """Images (N, 3, H, W) in, logits (N, classes) out."""

    def __init__(self, classes: int = 10, width: float = 1.0) -> None:
        super().__init__()
        cin = _scaled(32, width)
        layers: list[nn.Module] = [*_conv_norm(3, cin, 3), nn.ReLU6()]
        for expansion, channels, blocks, stride in _STAGES:
            cout = _scaled(channels, width)
            for block in range(blocks):
                layers.append(InvertedResidual(cin, cout, stride if block == 0 else 1, expansion))
                cin = cout
        head = _scaled(1280, width)
        layers += [*_conv_norm(cin, head, 1), nn.ReLU6()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(head, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.features(x)
        logits: Tensor = self.classifier(y.mean(dim=(2, 3)))
        return logits


def fed_mobilenet_v2(classes: int = 10, width: float = 1.0) -> FedMobileNetV2:
    """Build the network with random weights. At width 0.25 and 10 classes: 162,602 parameters."""
    if classes < 1 or width <= 0:
        raise ValueError(f"classes must be at least 1 and width above 0, not {classes} and {width}")
    return FedMobileNetV2(classes, width)


__all__ = ["FedMobileNetV2", "fed_mobilenet_v2"]
