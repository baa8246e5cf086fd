"""What goes in is what was trained: programs that depart from their module, and modules that no file repeats."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mobconv.errors import InputError
from mobconv.model import fidelity
from mobconv.model.sources.in_memory import load


def lively(module):
    """Give batch norms statistics and factors that show when they are folded wrongly."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_var is not None:
            part.running_var.uniform_(0.3, 2.3)
            part.running_mean.normal_()
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    return module.eval()


class TokenNorm(nn.Module):
    """Batch norm over tokens, axis 1, behind a linear layer over features."""

    def __init__(self, tokens, hidden):
        super().__init__()
        self.fc, self.bn = nn.Linear(12, hidden), nn.BatchNorm1d(tokens)

    def forward(self, x):
        return self.bn(self.fc(x))


class Transposed(nn.Module):
    """The weight of a layer is read transposed by another, with a batch norm between them."""

    def __init__(self):
        super().__init__()
        self.fc, self.bn = nn.Linear(20, 7), nn.BatchNorm1d(7)

    def forward(self, x):
        return F.linear(torch.relu(self.bn(self.fc(x))), self.fc.weight.t())


class AlsoMean(nn.Module):
    """A convolution's weight is also averaged."""

    def __init__(self):
        super().__init__()
        self.c, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn(self.c(x)) * self.c.weight.mean()


class OneSample(nn.Module):
    """A convolution of one sample without a batch: channels are axis 0, and axis 1 has as many entries."""

    def __init__(self):
        super().__init__()
        self.c, self.bn = nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6)

    def forward(self, x):
        return self.bn(self.c(x[0])[:, :6])[None]


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (TokenNorm(8, 8), (1, 8, 12)),
        (TokenNorm(6, 8), (1, 6, 12)),
        (Transposed(), (1, 20)),
        (AlsoMean(), (1, 3, 8, 8)),
        (OneSample(), (1, 3, 6)),
        (nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 5), nn.BatchNorm1d(5)), (1, 6)),
        (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (1, 4, 5, 5)),
        (nn.AvgPool2d(3, 2, 1, divisor_override=5), (1, 3, 8, 7)),
    ],
)
def test_norms_are_folded_only_where_that_changes_nothing(module, shape):
    checkpoint = load(lively(module), torch.zeros(shape))
    program = checkpoint.trace()  # raises where it departs
    inputs = fidelity.random_inputs(checkpoint.example, seed=7)
    assert fidelity.departure(program.run(inputs), checkpoint.run(inputs)) < fidelity.CLOSE


def folded_away(module, shape):
    program = load(lively(module), torch.zeros(shape)).trace()
    return not any("batch_norm" in str(node.target) for node in program.module.graph.nodes)


def test_norms_are_still_folded():
    assert folded_away(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), (1, 3, 8, 8))
    assert folded_away(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5)), (1, 6))
    assert not folded_away(TokenNorm(8, 8), (1, 8, 12))


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        return F.dropout(self.c(x), 0.5)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(x + torch.rand_like(x))


class Calls(nn.Module):
    """It counts its calls."""

    def __init__(self):
        super().__init__()
        self.fc, self.calls = nn.Linear(6, 4), 0

    def forward(self, x):
        self.calls += 1
        return self.fc(x) * self.calls


@pytest.mark.parametrize(
    ("module", "shape", "cause"),
    [
        (Dropping(), (1, 3, 8, 8), r"aten\.dropout of `return F\.dropout\(self\.c\(x\), 0\.5\)` is active"),
        (nn.Sequential(nn.Linear(6, 4), nn.RReLU()), (1, 6), None),
        (Noisy(), (1, 6), r"aten\.rand_like of `return self\.fc"),
        (Calls(), (1, 6), "something random"),
    ],
)
def test_a_network_that_changes_from_run_to_run_is_refused(module, shape, cause):
    checkpoint = load(module, torch.zeros(shape))
    if cause is None:  # RReLU is fixed in eval mode
        checkpoint.trace()
        return
    with pytest.raises(InputError, match=f"two runs of the network on one input differ: {cause}"):
        checkpoint.trace()
    with pytest.raises(InputError, match="two runs"):
        checkpoint.run(fidelity.random_inputs(checkpoint.example))


class Centred(nn.Module):
    """It takes the mean over the batch off."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(x) + x.std(dim=0, correction=0).sum()


@pytest.mark.parametrize(
    ("module", "shape", "operation"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)),
            (1, 3, 8, 8),
            r"aten\.batch_norm in 1 \(BatchNorm2d\)",
        ),
        (Centred(), (1, 6), "an operation over the whole batch"),
    ],
)
def test_a_network_that_mixes_its_batch_is_run_one_by_one(module, shape, operation):
    checkpoint = load(module, torch.zeros(shape))
    program = checkpoint.trace()
    (note,) = program.notes
    assert "mixes the samples of a batch" in note and re.search(operation, note)
    inputs = fidelity.random_inputs(checkpoint.example, 5)
    alone = [checkpoint._run({name: value[i : i + 1] for name, value in inputs.items()})["logits"] for i in range(5)]
    for run in (checkpoint.run, program.run):
        assert np.allclose(run(inputs)["logits"], np.concatenate(alone), atol=1e-6)


class FixedBatch(nn.Module):
    """The batch is a constant of its graph."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 4)

    def forward(self, x):
        return self.fc(x.reshape(1, 12))


def test_a_network_of_a_fixed_batch():
    checkpoint = load(FixedBatch(), torch.zeros(1, 3, 4))
    assert checkpoint.behaviour == fidelity.Behaviour(1)
    inputs = fidelity.random_inputs(checkpoint.example, 3)
    assert checkpoint.run(inputs)["logits"].shape == (3, 4)
    assert fidelity.departure(checkpoint.trace().run(inputs), checkpoint.run(inputs)) < fidelity.CLOSE


@pytest.mark.parametrize("batch", [None, "b"])
def test_a_saved_program_of_a_fixed_and_of_an_open_batch(tmp_path, batch):
    import mobconv

    net = lively(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)))
    shapes = None if batch is None else ({0: torch.export.Dim(batch, min=1, max=64)},)
    exported = torch.export.export(net, (torch.zeros(1 if batch is None else 2, 3, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(exported, tmp_path / "net.pt2")
    checkpoint = mobconv.load(tmp_path / "net.pt2")
    assert ["specialised" in note for note in checkpoint.notes] == ([] if batch is None else [True])
    inputs = fidelity.random_inputs(checkpoint.example, 3)
    with torch.no_grad():
        expected = {"logits": net(torch.from_numpy(inputs["image"])).numpy()}
    for run in (checkpoint.run, checkpoint.trace().run):
        assert fidelity.departure(run(inputs), expected) < fidelity.CLOSE


class Unfaithful(nn.Module):
    """It computes something else while it is traced."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), Doubling()

    def forward(self, x):
        return self.second(self.first(x))


class Doubling(nn.Module):
    def forward(self, x):
        return x * (2 if torch.compiler.is_exporting() else 3)


def test_a_program_that_departs_from_its_module_is_refused():
    with pytest.raises(InputError, match=r"it departs at aten\.mul in second \(Doubling\)"):
        load(Unfaithful(), torch.zeros(1, 6)).trace()


@pytest.mark.parametrize(
    ("outputs", "expected", "difference"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([1.0, np.inf], [1.0, -np.inf], np.inf),
        ([1.0], [1.0, 2.0], np.inf),
    ],
)
def test_departure_counts_nan(outputs, expected, difference):
    found = fidelity.departure({"a": np.array(outputs)}, {"a": np.array(expected)})
    assert found == difference


def test_infinity_in_a_mask_is_no_damage_and_nan_is():
    class Masked(nn.Module):
        def __init__(self, value):
            super().__init__()
            self.fc = nn.Linear(4, 4)
            self.register_buffer("mask", torch.triu(torch.full((4, 4), value), 1))

        def forward(self, x):
            return (self.fc(x) + self.mask).softmax(-1)

    load(Masked(-float("inf")), torch.zeros(1, 4, 4)).trace()
    with pytest.raises(InputError, match="NaN or infinity in mask"):
        load(Masked(float("nan")), torch.zeros(1, 4, 4))


def test_parts_with_the_name_of_a_keyword():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleDict({"class": nn.Linear(4, 3), "lambda": nn.Linear(4, 2)})

        def forward(self, x):
            return self.heads["class"](x), self.heads["lambda"](x)

    assert list(load(Heads(), torch.zeros(1, 4)).trace().sites) == ["heads.class_.weight", "heads.lambda_.weight"]


def test_rounding_that_changes_outputs_in_one_direction_alone_is_rounding_too():
    """A network that its own rounding changes by 1e-4: a program that differs by as much is not another one."""
    example = {"x": np.ones((1, 64), np.float32)}
    draws = [fidelity.random_inputs(example, seed=seed)["x"].astype(np.float64) for seed in range(3)]

    def module(inputs):
        below = min((np.minimum(inputs["x"] - draw, 0) for draw in draws), key=lambda each: np.abs(each).sum())
        return {"y": np.float32(1 + 100 * below.sum(keepdims=True))}

    def checked(factor):
        fidelity.check(module, lambda inputs: {"y": module(inputs)["y"] * factor}, example, 1, lambda _: "here", "net")

    checked(np.float32(1 + 1e-4))
    with pytest.raises(InputError, match="departs at here"):
        checked(np.float32(1 + 1e-2))
