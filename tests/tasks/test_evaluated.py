"""`evaluate` and the Python API on files of several inputs and outputs, of integers, and without labels."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import mobconv
from mobconv.errors import UsageError
from mobconv.model.sources.in_memory import load as in_memory


class Two(nn.Module):
    """An image, int64 tokens and settings -> a dict in an order that is not the alphabet's, one output an integer."""

    def __init__(self):
        super().__init__()
        self.c, self.e, self.fc = nn.Conv2d(3, 6, 3, 2, 1), nn.Embedding(20, 6), nn.Linear(4, 6)
        self.score, self.box = nn.Linear(6, 5), nn.Linear(6, 4)

    def forward(self, picture, tokens, settings):
        x = torch.relu(self.c(picture)).mean((2, 3)) + self.e(tokens).mean(1) + torch.relu(self.fc(settings))
        return {"scores": self.score(x), "boxes": self.box(x), "best": self.score(x).argmax(1)}


RNG = np.random.default_rng(0)
FED = {
    "picture": RNG.normal(size=(24, 3, 8, 20)).astype(np.float32),
    "tokens": RNG.integers(0, 20, (24, 7)),
    "settings": RNG.normal(size=(24, 4)).astype(np.float32),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The network, its outputs, and a folder with two files of it and its data."""
    folder = tmp_path_factory.mktemp("two")
    torch.manual_seed(0)
    net = Two().eval()
    with torch.inference_mode():
        wanted = {name: value.numpy() for name, value in net(*map(torch.from_numpy, FED.values())).items()}
    example = {name: value[:1] for name, value in FED.items()}
    mobconv.export(net, example, to="onnx,coreml", scheme="fp32", out=folder)
    np.savez(folder / "set.npz", **FED, label=wanted["best"])
    return net, wanted, folder


FILES = ["onnx/fp32.onnx", "coreml/fp32.mlpackage"]


@pytest.mark.parametrize("file", FILES)
def test_outputs_have_the_modules_order_and_names(made, file):
    _, wanted, folder = made
    with mobconv.open(folder / file) as artifact:
        assert [spec.name for spec in artifact.outputs] == [*wanted] == ["scores", "boxes", "best"]
        found = mobconv.evaluate(folder / file, str(folder / "set.npz"))
    assert found.score == 100 and found.samples == 24 and found.metrics["F1"] == 100
    assert found.input is None and "tokens int" in found.input_text


@pytest.mark.parametrize("file", FILES)
def test_fidelity_is_of_all_outputs(made, file):
    net, _, folder = made
    checkpoint = in_memory(net, {name: value[:1] for name, value in FED.items()}, None, ())
    found = mobconv.evaluate(folder / file, str(folder / "set.npz"), task="fidelity", checkpoint=checkpoint)
    assert found.metric.name == "error" and found.score < 0.01 and found.metrics["SNR"] > 90
    assert found.metrics["agreement"] == 100 and found.further["SNR"].unit == "dB"


def test_fidelity_needs_the_float_network(made):
    folder = made[2]
    with pytest.raises(UsageError, match=r"checkpoint='net.safetensors'"):
        mobconv.evaluate(folder / FILES[0], str(folder / "set.npz"), task="fidelity")


def test_tokens_beyond_the_type_are_refused(made, cli):
    folder = made[2]
    np.savez("far.npz", **FED | {"tokens": FED["tokens"] + (1 << 40)}, label=made[1]["best"])
    code, out, err = cli("evaluate", folder / FILES[1], "--data", "far.npz")
    assert code == 3 and out == "" and "input 'tokens' takes int32" in err


def test_the_command_line(made, cli):
    folder = made[2]
    code, out, err = cli("evaluate", folder / FILES[0], "--data", folder / "set.npz", "--metric", "f1", "--json")
    found = json.loads(out)
    assert code == 0 and err == ""
    assert found["metric"]["name"] == "F1" and found["score"] == 100 and found["metrics"]["top-1"] == 100
    (cli.folder / "mine.py").write_text("def half(outputs, targets):\n    return [0.5] * len(targets)\n")
    arguments = ["evaluate", folder / FILES[0], "--data", folder / "set.npz", "--metric", "mine:half"]
    code, _, err = cli(*arguments)
    assert code == 2 and "--higher-is-better" in err
    code, out, _ = cli(*arguments, "--higher-is-better")
    assert code == 0 and "  half     0.5000  of 24 samples\n  top-1    100.00 %\n" in out
    code, _, err = cli("evaluate", folder / FILES[0], "--data", folder / "set.npz", "--task", "regresion")
    assert code == 2 and "did you mean 'regression'" in err
