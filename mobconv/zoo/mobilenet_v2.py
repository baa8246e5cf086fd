"""MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381), table 2, its strides a parameter."""

from __future__ import annotations

from torch import Tensor, nn

# (expansion t, channels c, blocks n): table 2 of the paper. Its strides s stand in STRIDES.
_STAGES = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))

# Stride of the stem, then of the first block of each stage.
STRIDES = (2, 1, 2, 2, 2, 1, 2, 1)


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


class MobileNetV2(nn.Module):
    """Images (N, 3, H, W) in, logits (N, classes) out."""

    def __init__(self, classes: int, width: float, strides: tuple[int, ...]) -> None:
        super().__init__()
        if classes < 1 or width <= 0:
            raise ValueError(f"classes must be at least 1 and width above 0, not {classes} and {width}")
        cin = _scaled(32, width)
        layers: list[nn.Module] = [*_conv_norm(3, cin, 3, strides[0]), nn.ReLU6()]
        for (expansion, channels, blocks), stride in zip(_STAGES, strides[1:], strict=True):
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


def mobilenet_v2(classes: int = 10, width: float = 1.0) -> MobileNetV2:
    """Build the paper's network with random weights. At width 1 and 10 classes: 2,236,682 parameters."""
    return MobileNetV2(classes, width, STRIDES)


__all__ = ["STRIDES", "MobileNetV2", "mobilenet_v2"]
