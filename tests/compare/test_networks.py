"""Other networks: what cannot be folded, a layer used twice, transposed and grouped convolutions, attention."""

import contextlib
import io
import warnings

import numpy as np
import pytest
import torch
from conftest import FORMATS, Bench
from torch import nn
from torch.nn import functional

from mobconv.data.preprocessing import Preprocessing
from mobconv.model.sources.in_memory import load as in_memory


class Mixed(nn.Module):
    """The input is shifted inside; batch norm comes behind an activation; `shared` is used twice."""

    layers = ("a", "b", "up", "shared", "shared#2", "fc", "out")

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.first, self.second = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 16, 3, groups=4, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False)
        self.shared = nn.Conv2d(8, 8, 1)
        self.fc, self.out = nn.Linear(512, 32), nn.Linear(32, 10)

    def forward(self, x):
        y = self.first(torch.relu(self.a((x - 0.1) * 2)))
        y = torch.sigmoid(self.second(self.up(torch.relu(self.b(y)))))
        y = self.shared(torch.relu(self.shared(y)))
        return self.out(torch.relu(self.fc(functional.avg_pool2d(y, 4).flatten(1))))


class Attention(nn.Module):
    """A transformer's block with a factor for each channel behind a linear layer; its batch is part of the graph."""

    layers = ("patch", "q", "k", "v", "o", "f", "g", "head")

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.q, self.k, self.v, self.o = (nn.Linear(32, 32) for _ in range(4))
        self.norm = nn.LayerNorm(32)
        self.f, self.g, self.head = nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 10)
        self.factor = nn.Parameter(torch.rand(32) + 0.5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = self.norm(x)
        q, k, v = (each(y).reshape(len(x), 16, 4, 8).transpose(1, 2) for each in (self.q, self.k, self.v))
        y = (q @ k.transpose(-1, -2) / 3).softmax(-1) @ v
        x = x + self.o(y.transpose(1, 2).reshape(len(x), 16, 32))
        x = x + self.g(functional.gelu(self.f(self.norm(x)))) * self.factor
        return self.head(x.mean(1))


class InPlace(nn.Module):
    """Operations in place: a residual is added to a convolution's output, and an activation's result is not named."""

    layers = ("a", "b", "c", "out")

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 4), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.out = nn.Linear(8, 10)

    def forward(self, x):
        x = self.a(x)
        functional.relu(x, inplace=True)
        y = self.b(x)
        y += x
        y = functional.leaky_relu(self.c(y.relu_()), 0.3, inplace=True)
        return self.out(y.mean((2, 3)))


def bench_of(network, out, images):
    torch.manual_seed(0)
    module = network().eval()
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2)
    example = {"x": np.zeros((1, 3, 32, 32), np.float32)}
    return Bench(out, in_memory(module, example, Preprocessing((0.5,) * 3, (0.5,) * 3), ()), images=images)


@pytest.fixture(scope="module")
def benches(bench, tmp_path_factory):
    return {
        network: bench_of(network, tmp_path_factory.mktemp(network.__name__), bench.images)
        for network in (Mixed, Attention, InPlace)
    }


def check(bench, path, layers, quantized):
    waterfall = bench.waterfall(path, 16)
    assert [layer.use.name for layer in waterfall.alignment.layers] == list(layers)
    for step in waterfall.steps[1 + quantized :]:
        assert step.snr_db is None or step.snr_db > 80, (step.name, step.snr_db)
    errors = bench.layer_errors(waterfall.alignment, 8)
    assert errors.skipped == () and len(errors.layers) == len(layers)
    assert all(error.graph < 1e-3 for error in errors.layers)


@pytest.mark.parametrize(
    "name", [each if each == "onnx" else pytest.param(each, marks=pytest.mark.slow) for each in FORMATS]
)
@pytest.mark.parametrize("network", [Mixed, Attention])
def test_of_our_files(benches, network, name):
    bench = benches[network]
    check(bench, bench.file(f"{name}/w8-linear"), network.layers, True)


def test_of_operations_in_place(benches):
    """Values of the program are those at each operation, not what a later one leaves in the same memory."""
    bench = benches[InPlace]
    path = bench.file("onnx/fp32")
    check(bench, path, InPlace.layers, False)
    errors = bench.layer_errors(bench.align(path))
    assert all(error.worst < 1e-5 for error in [*errors.layers, *errors.between]), errors


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("network", [Mixed, Attention])
def test_of_torch_onnx_export(benches, network, dynamo):
    bench = benches[network]
    path = bench.out / f"{dynamo}.onnx"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(bench.checkpoint.module, bench.example, str(path), dynamo=dynamo, verbose=False)
    check(bench, path, network.layers, False)
