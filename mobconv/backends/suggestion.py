"""Python that normalises pixels, as text to paste: inside the model for a converter, or in front of a file."""

from __future__ import annotations

from collections.abc import Sequence

from mobconv.data.preprocessing import Preprocessing, turned


def wrapper(network: Preprocessing, caller: Preprocessing) -> str:
    """A class `Normalised` around a PyTorch model: takes pixels as `caller` hands them over, normalises as `network`.

    It has a mean and a standard deviation for each channel, which no converter's own arguments have.
    """
    channels = network.channels
    pixels = "pixels"
    if caller.layout == "nhwc":
        pixels += ".permute(0, 3, 1, 2)"
    if caller.colour != network.colour and channels > 2:
        pixels += ".flip(1)" if channels == 3 else f"[:, {turned(channels)}]"
    value = f"({on_range(pixels, network)} - self.mean) / self.std"
    return (
        "class Normalised(torch.nn.Module):\n"
        "    def __init__(self, model):\n"
        "        super().__init__()\n"
        "        self.model = model\n"
        f'        self.register_buffer("mean", torch.tensor({listed(network.mean)}).view(1, {channels}, 1, 1))\n'
        f'        self.register_buffer("std", torch.tensor({listed(network.std)}).view(1, {channels}, 1, 1))\n\n'
        "    def forward(self, pixels):\n"
        f"        return self.model({value})\n\n"
    )


def caller_code(network: Preprocessing, caller: Preprocessing) -> str:
    """Numpy that turns pixels (N, height, width, channels) into the network's own tensor, in front of a file."""
    order = ""
    if network.colour == "bgr" and network.channels > 2:
        order = "[..., ::-1]" if network.channels == 3 else f"[..., {network.order}]"
    turn = ".transpose(0, 3, 1, 2)" if caller.layout == "nchw" else ""
    x = f"pixels{order}.astype(np.float32)"
    kind = "uint8, RGB" if network.channels == 3 else "uint8"
    return (
        f"x = ({on_range(x, network)} - np.float32({listed(network.mean)})) / np.float32({listed(network.std)})\n"
        f"x = np.ascontiguousarray(x{turn})  # pixels: (N, height, width, {network.channels}) {kind}"
    )


def on_range(x: str, network: Preprocessing) -> str:
    """An expression of pixels of 0 to 255 -> the same on the range that mean and std are for."""
    low, high = network.range
    if (low, high) == (0.0, 255.0):
        return x
    scaled = f"{x} / 255" if high - low == 1 else f"{x} * {number(high - low)} / 255"
    return scaled if low == 0 else f"{scaled} + {number(low)}" if low > 0 else f"{scaled} - {number(-low)}"


def listed(values: Sequence[float]) -> str:
    """Numbers as a Python list."""
    return "[" + ", ".join(number(value) for value in values) + "]"


def number(value: float) -> str:
    """A number as a Python float of at most seven digits."""
    text = f"{value:.7g}"
    return text if "." in text or "e" in text else f"{text}.0"
