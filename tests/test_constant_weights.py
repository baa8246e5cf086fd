"""Weights that a network computes, and products with parameters: quantized as weights of layers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm, weight_norm

from mobconv.model import fidelity
from mobconv.model.sources.in_memory import load


class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class Gained(nn.Module):
    """A linear layer with a learned gain for each output."""

    def __init__(self):
        super().__init__()
        self.v, self.g = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.rand(5, 1))

    def forward(self, x):
        return F.linear(x, self.v * self.g)


class Product(nn.Module):
    def __init__(self, equation):
        super().__init__()
        self.equation, self.w = equation, nn.Parameter(torch.randn(6, 5))

    def forward(self, x):
        return torch.einsum(self.equation, x, self.w) if self.equation else x @ self.w


class Heads(nn.Module):
    """An output projection over heads, as vision transformers in JAX's layout have it."""

    def __init__(self, equation, shape):
        super().__init__()
        self.equation, self.w = equation, nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return torch.einsum(self.equation, x, self.w)


class Conv1D(nn.Module):
    """The linear layer of GPT-2: weight (in, out)."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return torch.addmm(self.b, x.view(-1, 6), self.w).view(*x.shape[:-1], 5)


class Tied(nn.Module):
    """A head that shares the weight of an embedding."""

    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(9, 4)

    def forward(self, t):
        return self.e(t) @ self.e.weight.t()


@pytest.mark.parametrize(
    ("module", "shape", "sites"),
    [
        (nn.Sequential(Standardised(3, 4, 3), nn.BatchNorm2d(4)), (1, 3, 8, 8), {"0.weight": (4, 3, 3, 3)}),
        (Gained(), (1, 6), {"v": (5, 6)}),
        (Product(""), (1, 6), {"w": (5, 6)}),
        (Product(""), (1, 3, 6), {"w": (5, 6)}),
        (Product("ni,io->no"), (1, 6), {"w": (5, 6)}),
        (Product("nti,io->not"), (1, 3, 6), {"w": (5, 6)}),
        (Heads("bhd,hdo->bo", (2, 3, 5)), (1, 2, 3), {"w": (5, 6)}),
        (Heads("bthd,hdo->bto", (2, 3, 5)), (1, 4, 2, 3), {"w": (5, 6)}),
        (Heads("bti,ihd->bhtd", (6, 2, 3)), (1, 4, 6), {"w": (6, 6)}),
        (Conv1D(), (1, 4, 6), {"w": (5, 6)}),
        (nn.Sequential(weight_norm(nn.Conv1d(6, 5, 3)), nn.ReLU()), (1, 6, 8), {"0.weight": (5, 6, 3)}),
        (spectral_norm(nn.Linear(6, 5)), (1, 6), {"weight": (5, 6)}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_it_is_a_weight_of_a_layer(module, shape, sites):
    checkpoint = load(module.eval(), torch.zeros(shape))
    program = checkpoint.trace()
    assert {name: site.shape for name, site in program.sites.items()} == sites
    assert program.unquantized() == ""
    for samples in (1, 3):
        inputs = fidelity.random_inputs(checkpoint.example, samples)
        assert fidelity.departure(program.run(inputs), checkpoint.run(inputs)) < fidelity.CLOSE


def test_a_shared_weight_of_the_same_layout_is_stored_once():
    program = load(Tied(), torch.zeros(1, 5, dtype=torch.long)).trace()
    assert list(program.sites) == ["e.weight"]


class ByHead(nn.Module):
    """Each head has a matrix of its own: no single linear layer."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 3, 5))

    def forward(self, x):
        return torch.einsum("bhd,hdo->bho", x, self.w)


def test_what_stays_float_is_said_with_its_reader():
    program = load(ByHead(), torch.zeros(1, 2, 3)).trace()
    assert program.sites == {}
    assert program.unquantized() == (
        "100 % of the parameters stay float, because no layer reads them as its weight: w (read by aten.einsum of "
        '`return torch.einsum("bhd,hdo->bho", x, self.w)`)'
    )


def test_a_networks_input_is_no_weight():
    """A product of two inputs of the network, and of a parameter on the left, stay as they are."""

    class Left(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 3))

        def forward(self, x):
            return self.w @ x @ x.transpose(1, 2)

    checkpoint = load(Left(), torch.zeros(1, 3, 5))
    program = checkpoint.trace()
    assert program.sites == {} and "w (read by aten.matmul" in program.unquantized()
    inputs = fidelity.random_inputs(checkpoint.example, 2)
    assert np.allclose(program.run(inputs)["logits"], checkpoint.run(inputs)["logits"], atol=1e-5)


class PositionBias(nn.Module):
    """A bias computed from a table of offsets by a small network with an operation in place, as in Swin V2."""

    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, 8), nn.ReLU(inplace=True), nn.Linear(8, 6, bias=False))
        self.layer = nn.Linear(6, 6)
        self.register_buffer("table", torch.randn(5, 2))

    def forward(self, x):
        return self.layer(x) + torch.sigmoid(self.mlp(self.table))


def test_layers_of_a_constant_are_computed_once_and_go():
    torch.manual_seed(0)
    traced = load(PositionBias().eval(), torch.zeros(1, 5, 6)).trace()
    assert list(traced.sites) == ["layer.weight"]
    assert not [node for node in traced.module.graph.nodes if "relu" in str(node.target)]
