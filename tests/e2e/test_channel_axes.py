"""Groups of 16 channels on every kind of layer, also where channels run along another axis than the first."""

import numpy as np
import pytest
import torch
from torch import nn

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.evaluate.output_error import output_error
from mobconv.model.trace import trace
from mobconv.pipeline import templates
from mobconv.pipeline.quantized import quantize_model
from mobconv.pipeline.reference import reference
from mobconv.schemes import Cell, Compute

SCHEMES = [
    "w4-linear-oc16",
    "w3-linear-oc16",
    "w3-symmetric-oc16",
    "w2-kmeans-oc16",
    "w1-linear-oc16",
    "w7-kmeans-oc16",
]
NATIVE = ["w3-linear@native", "w4-symmetric-oc16@native", "w6-linear-oc16@native"]


class Layers(nn.Module):
    """24, 40 and 20 channels: all with a shorter group at the end. Those of the transposed one lie along axis 1."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, padding=1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.up = nn.ConvTranspose2d(24, 40, 2, stride=2)
        self.point = nn.Conv2d(40, 40, 1)
        self.head = nn.Linear(40, 20)

    def forward(self, image):
        x = torch.relu(self.depthwise(torch.relu(self.stem(image))))
        x = torch.relu(self.point(torch.relu(self.up(x))))
        return self.head(x.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """The traced network and the folder of its templates."""
    torch.manual_seed(3)
    module = Layers().eval()
    with torch.no_grad():
        for weight in module.parameters():  # channels of unlike ranges: a scale in the wrong place is a loss
            weight.mul_(torch.rand(weight.shape[0]).reshape(-1, *[1] * (weight.ndim - 1)) * 3 + 0.2)
        module.up.weight *= torch.rand(40).reshape(1, -1, 1, 1) * 3 + 0.2
    return trace(module, {"image": np.zeros((1, 3, 8, 8), np.float32)}), tmp_path_factory.mktemp("layers")


def test_a_weight_has_its_channels_along_axis_1(layers):
    program, _ = layers
    assert {name: site.axis for name, site in program.sites.items()} == {
        "stem.weight": 0,
        "depthwise.weight": 0,
        "up.weight": 1,
        "point.weight": 0,
        "head.weight": 0,
    }


@pytest.mark.parametrize("name", [*SCHEMES, *NATIVE])
@pytest.mark.parametrize("backend", ["onnx", "tflite", "coreml"])
def test_the_file_computes_the_reference(layers, backend, name, tmp_path):
    program, folder = layers
    cell, writer = Cell.parse(f"{backend}/{name}"), backends.get(backend)
    model = quantize_model(program, cell.scheme)
    template = templates.template(writer, Entry(program), Compute.FP32, folder)
    path = tmp_path / f"layers.{writer.suffix}"
    writer.encode(template, model, cell, path)
    image = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    expected = reference(program, model, cell.scheme).run({"image": image})
    runner = writer.open(path, threads=1)
    try:
        found = runner.run({runner.inputs[0].name: image})
    finally:
        runner.close()
    assert list(found) == list(expected) and len(expected) == 1
    near = output_error(found, expected)
    assert near.max_error <= 1e-4 and (
        near.snr_db is None or near.snr_db >= 80
    )  # as for every cell, see test_conversion
