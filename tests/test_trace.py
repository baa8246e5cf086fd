"""Folding changes no function, and the list of what is quantized is the one that DESIGN.md gives."""

import numpy as np
import pytest
import torch
from torch import nn

from mobconv.errors import InputError
from mobconv.model.trace import from_exported, trace


def randomised(module, seed=0):
    """Parameters and running statistics far from those of a fresh module."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(noise.abs() + 0.3 if name.endswith("running_var") else noise)
    return module.eval()


def traced(module, *shape):
    module = randomised(module)
    return module, trace(module, {"x": np.zeros(shape, np.float32)})


def same(module, program, *shape):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = module(torch.from_numpy(x)).detach().numpy()
    (found,) = program.run({"x": x}).values()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def norms(program):
    return [node for node in program.module.graph.nodes if "batch_norm" in str(node.target)]


# name -> module, input shape, channel axis of the weight
NETS = {
    "conv with bias": (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), (1, 3, 8, 8), 0),
    "conv without bias": (nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5)), (1, 3, 8, 8), 0),
    "no affine": (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=False)), (1, 3, 8, 8), 0),
    "large epsilon": (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, eps=0.5)), (1, 3, 8, 8), 0),
    "grouped": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (1, 4, 8, 8), 0),
    "depthwise": (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4)), (1, 4, 8, 8), 0),
    "same padding": (nn.Sequential(nn.Conv2d(3, 5, 3, padding="same"), nn.BatchNorm2d(5)), (1, 3, 8, 8), 0),
    "one dimension": (nn.Sequential(nn.Conv1d(3, 5, 3), nn.BatchNorm1d(5)), (1, 3, 9), 0),
    "three dimensions": (nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3)), (1, 2, 4, 4, 4), 0),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)), (1, 4, 5, 5), 1),
    "transposed, grouped": (
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)),
        (1, 4, 5, 5),
        1,
    ),
    "transposed, depthwise": (
        nn.Sequential(nn.ConvTranspose2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4)),
        (1, 4, 5, 5),
        1,
    ),
    "transposed, 1d": (nn.Sequential(nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d(6)), (1, 4, 5), 1),
    "linear": (nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5)), (1, 7), 0),
}


@pytest.mark.parametrize("name", NETS)
def test_batch_norm_is_folded(name):
    module, shape, axis = NETS[name]
    module, program = traced(module, *shape)
    assert norms(program) == []
    assert {site: found.axis for site, found in program.sites.items()} == {"0.weight": axis}
    assert program.sites["0.weight"].shape == tuple(module[0].weight.shape)
    same(module, program, *shape)
    same(module, program, 3, *shape[1:])


def test_the_users_module_is_left_alone():
    module = randomised(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trace(module, {"x": np.zeros((1, 3, 8, 8), np.float32)})
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_chain_of_blocks():
    block = [nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU6()]
    module = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), *block, nn.Flatten(), nn.Linear(6 * 16, 4))
    module, program = traced(module, 1, 3, 4, 4)
    assert norms(program) == [] and list(program.sites) == ["0.weight", "2.weight", "6.weight"]
    same(module, program, 2, 3, 4, 4)


class TwoNorms(nn.Module):
    """One convolution, used twice, each time with a batch norm of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.second(self.conv(self.first(self.conv(x))))


class Branches(nn.Module):
    """The convolution's output goes elsewhere too, so that it cannot take the batch norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class SharedBias(nn.Module):
    """Two convolutions with one bias: folding one must not move the other's."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.two.bias = self.one.bias

    def forward(self, x):
        return self.two(self.norm(self.one(x)))


@pytest.mark.parametrize(("module", "left"), [(TwoNorms(), 2), (Branches(), 1), (SharedBias(), 0)])
def test_what_others_use_is_not_folded_into(module, left):
    module, program = traced(module, 1, 3, 6, 6)
    assert len(norms(program)) == left
    same(module, program, 2, 3, 6, 6)


def test_norm_before_the_layer_stays():
    module, program = traced(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)), 1, 3, 6, 6)
    assert len(norms(program)) == 1
    same(module, program, 2, 3, 6, 6)


def test_the_native_form_of_an_exported_program():
    """torch.export's decomposition, as a `.pt2` may hold, has another op for batch norm."""
    module = randomised(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU()))
    exported = torch.export.export(module, (torch.zeros(1, 3, 8, 8),)).run_decompositions()
    program = from_exported(exported, {"x": np.zeros((1, 3, 8, 8), np.float32)})
    assert norms(program) == [] and list(program.sites) == ["0.weight"]
    same(module, program, 1, 3, 8, 8)


class Tied(nn.Module):
    """An embedding whose table is also the last layer's weight."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(self.table(x))


def test_a_shared_weight_is_listed_once():
    program = trace(randomised(Tied()), {"x": np.zeros((1, 4), np.int64)})
    (site,) = program.sites.values()
    assert site.shape == (11, 6) and site.axis == 0


def test_a_layer_used_twice_is_listed_once():
    layer = nn.Linear(4, 4)
    module, program = traced(nn.Sequential(layer, nn.ReLU(), layer), 1, 4)
    assert len(program.sites) == 1
    same(module, program, 3, 4)


def test_other_values():
    module, program = traced(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), 1, 4)
    weight = np.ones((3, 4), np.float32)
    other = program.with_values({"0.weight": weight})
    assert np.array_equal(other.floats()["0.weight"], weight)
    assert np.array_equal(program.floats()["0.weight"], module[0].weight.detach().numpy())
    assert other.sites == program.sites and other.outputs == program.outputs
    assert other.sha256() != program.sha256()
    same(module, other.with_values({"0.weight": program.floats()["0.weight"]}), 2, 4)
    with pytest.raises(KeyError):
        program.with_values({"9.weight": weight})


def test_floats_are_copies():
    _, program = traced(nn.Linear(4, 3), 1, 4)
    program.floats()["weight"][:] = 0
    assert program.floats()["weight"].any()


def test_the_hash_is_of_the_content():
    def fresh(**changes):
        return traced(nn.Linear(4, 3, **changes), 1, 4)[1]

    assert fresh().sha256() == fresh().sha256() != fresh(bias=False).sha256()


class Undecided(nn.Module):
    """Its path depends on the values of its input."""

    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


class Several(nn.Module):
    """Outputs by name, nested, as detectors and language models have them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        y = self.layer(x)
        return {"logits": y, "extra": (y * 2, [y + 1])}


def test_outputs_of_any_nesting():
    module, program = traced(Several(), 1, 4)
    assert program.outputs == ("logits", "extra_0", "extra_1_0")
    x = np.ones((2, 4), np.float32)
    expected = module.layer(torch.from_numpy(x)).detach().numpy()
    found = program.run({"x": x})
    for got, want in zip(found.values(), (expected, expected * 2, expected + 1), strict=True):
        assert np.array_equal(got, want)


def test_what_cannot_be_traced():
    with pytest.raises(InputError, match=r"cannot trace this module with inputs x \(1, 4\)"):
        traced(Undecided(), 1, 4)


class Looked(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 3)

    def forward(self, tokens, weights):
        return self.table(tokens) * weights


@pytest.mark.parametrize(("inputs", "words"), [(1, "takes 2 inputs, tokens, weights"), (2, "whole numbers.*float32")])
def test_inputs_of_another_number_or_type(inputs, words):
    """The message says what the module takes, and how such a network gets in."""
    example = {name: np.zeros((1, 4), np.float32) for name in ("tokens", "weights")[:inputs]}
    with pytest.raises(InputError, match=rf"{words}.*torch\.export\.save.*mobconv\.export"):
        trace(Looked(), example)
