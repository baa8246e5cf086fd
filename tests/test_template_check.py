"""A file that departs from its network is refused with the operation and the true cause; fp16 is a remark."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mobconv
from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.errors import BackendError
from mobconv.model.trace import trace
from mobconv.pipeline import templates
from mobconv.schemes import Compute


class Converter:
    """A backend whose converter gets an operation wrong, or stops."""

    def __init__(self, name, wrong):
        self._backend, self._wrong = backends.get(name), wrong

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def convert(self, program, compute, directory, options=None):
        self._backend.convert(self._wrong(program), compute, directory, options)


def exchanged(before, after):
    """Convert one operator as another."""

    def wrong(program):
        import copy

        module = copy.deepcopy(program.module)
        for node in module.graph.nodes:
            if str(node.target) == before:
                node.target = after
        module.recompile()
        return replace(program, module=module)

    return wrong


def negated(name):
    """Convert with another number in a parameter that is not quantized."""

    def wrong(program):
        values = program.floats()
        return program.with_values({name: -values[name]}) if name in values else program

    return wrong


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(64, 5)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (exchanged("aten.silu.default", torch.ops.aten.relu.default), r"aten\.silu in 1 \(SiLU\)"),
        pytest.param(
            *(exchanged("aten.sigmoid.default", torch.ops.aten.tanh.default), r"aten\.sigmoid in 3 \(Sigmoid\)"),
            marks=pytest.mark.slow,
        ),
        pytest.param(negated("2.bias"), r"aten\.conv2d in 2 \(Conv2d\)", marks=pytest.mark.slow),
        (negated("5.bias"), r"aten\.linear in 5 \(Linear\)"),
    ],
)
def test_the_operation_that_a_converter_gets_wrong_is_named(wrong, place, tmp_path):
    program = trace(network(), {"image": np.zeros((1, 3, 8, 8), np.float32)})
    message = rf"the converter to onnx gets an operation wrong: its file departs from the network at {place} \(outputs"
    with pytest.raises(BackendError, match=message):
        templates.template(Converter("onnx", wrong), Entry(program), Compute.FP32, tmp_path)
    assert list((tmp_path / templates.FOLDER).iterdir()) == []


def test_a_dump_of_a_vendor_is_one_line(tmp_path):
    def wrong(program):
        raise KeyError("loc(fused)\n" + "%0 = tfl.conv\n" * 1000)

    program = trace(network(), {"image": np.zeros((1, 3, 8, 8), np.float32)})
    with pytest.raises(BackendError, match="cannot convert this network: KeyError: ") as caught:
        templates.template(Converter("onnx", wrong), Entry(program), Compute.FP32, tmp_path)
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


class Overflowing(nn.Module):
    """Features above 65,504, and scores of everyday size."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
        with torch.no_grad():
            self.b.weight.mul_(1e6)

    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)) / 1e5)


class Squared(nn.Module):
    """A difference of large numbers, which fp16 rounds to nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.a = nn.Linear(6, 6)

    def forward(self, x):
        y = self.a(x)
        return (y + 2048.0) - 2048.0


@pytest.mark.parametrize(
    ("module", "shape", "note"),
    [
        (Overflowing(), (1, 3, 8, 8), "fp16 ends at 65,504, and aten.conv2d in b (Conv2d) computes up to"),
        (Squared(), (1, 6), "computing in fp16 changes outputs by"),
    ],
)
def test_a_loss_to_fp16_is_a_remark(module, shape, note, tmp_path):
    (row,) = mobconv.export(
        module, torch.zeros(shape), to="coreml", scheme="w8-symmetric", compute="fp16", out=tmp_path
    )
    assert note in row.note and "compute it in fp32 (`@fp32`)" in row.note
    (full,) = mobconv.export(module, torch.zeros(shape), to="coreml", scheme="w8-symmetric", out=tmp_path)
    assert "fp16" not in full.note


@pytest.mark.parametrize("scheme", ["w4-linear", "w8-symmetric", "w1-symmetric"])
def test_a_dead_channel_is_zero_in_fp16_with_a_remark(scheme, tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)).eval()
    with torch.no_grad():
        net[0].weight[1] = 1e-10
    example = torch.zeros(1, 3, 8, 8)
    (row,) = mobconv.export(net, example, to="coreml", scheme=scheme, compute="fp16", out=tmp_path / "fp16")
    assert "channels below the smallest fp16 number are stored as zero: 0.weight" in row.note
    (full,) = mobconv.export(net, example, to="coreml", scheme=scheme, out=tmp_path / "fp32")
    outputs = []
    for each in (row, full):
        with mobconv.open(each.path) as artifact:
            x = np.random.default_rng(0).normal(size=example.shape).astype(np.float32)
            outputs.append(artifact.run({artifact.inputs[0].name: x})["logits"])
    # fp16 keeps 11 bits; sums of 27 and 36 products
    assert np.abs(outputs[0] - outputs[1]).max() < 36 * 2.0**-11 * np.abs(outputs[1]).max()
