"""TorchScript archives: read with trust, and the same network as the module that they were made from."""

import zipfile

import numpy as np
import pytest
import torch
from support import CHECKPOINT, rewrite

from mobconv.errors import InputError
from mobconv.model import checkpoint
from mobconv.pipeline.quantized import quantize_model
from mobconv.schemes import Scheme

SHAPE = ("--input-shape", "1,3,32,32")


def export(path, *more):
    return ["export", path, "--to", "onnx", "--scheme", "fp32", "-o", "out", *more]


@pytest.fixture(scope="module")
def original():
    return checkpoint.load(CHECKPOINT)


def archive(module, how, path):
    made = torch.jit.script(module) if how == "script" else torch.jit.trace(module, torch.zeros(1, 3, 32, 32))
    torch.jit.save(made, path)
    return checkpoint.load(path, checkpoint.Options(input_shape=(1, 3, 32, 32), trust_pickle=True))


@pytest.mark.parametrize("how", ["script", "trace"])
def test_the_same_network_as_its_module(original, how, tmp_path):
    found = archive(original.module, how, tmp_path / "net.pt")
    assert found.notes == ["a TorchScript archive"]
    images = np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)
    assert np.array_equal(found.run({"image": images})["logits"], original.run({"image": images})["logits"])
    program, expected = found.trace(), original.trace()
    assert list(program.sites) == list(expected.sites)
    feeds = {"image": images[:1]}
    (mine,), (theirs,) = program.run(feeds).values(), expected.run(feeds).values()
    # the same folded weights; batch norm stood in another form, so that sums may round otherwise
    assert np.abs(mine - theirs).max() <= 1e-5 * np.abs(theirs).max()
    weights, others = (quantize_model(each, Scheme.parse("w4-kmeans")).weights for each in (program, expected))
    for name, weight in weights.items():
        assert np.array_equal(weight.codes, others[name].codes), name
        assert np.array_equal(weight.table, others[name].table), name


def test_without_trust_it_is_refused(cli, original):
    torch.jit.save(torch.jit.script(original.module), "net.pt")
    cli.refuses(3, "TorchScript", "--trust-pickle", "state_dict()", arguments=export("net.pt", *SHAPE))


@pytest.mark.slow
def test_with_trust_it_is_exported_with_a_warning(cli, original):
    torch.jit.save(torch.jit.script(original.module), "net.pt")
    code, _, err = cli(*export("net.pt", *SHAPE, "--trust-pickle"))
    assert code == 0 and "warning: --trust-pickle" in err and "a TorchScript archive" in err
    assert (cli.folder / "out/onnx/fp32.onnx").exists()
    assert "non_strict" not in err


def test_training_mode_is_noticed(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).train()
    with pytest.raises(InputError, match="training mode"):
        archive(module, "trace", tmp_path / "net.pt")
    archive(module, "script", tmp_path / "net.pt")  # carries the flag, and is put into eval mode


class Loop(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() < 10):
            x = x + 1
        return x


def test_what_cannot_be_converted_says_so(tmp_path):
    with pytest.raises(InputError, match=r"cannot be converted.*model="):
        archive(Loop(), "script", tmp_path / "net.pt")


def test_damaged(cli, original):
    torch.jit.save(torch.jit.script(original.module), "net.pt")
    with zipfile.ZipFile("net.pt") as held:
        code = next(name for name in held.namelist() if "mobilenet" in name and name.endswith(".py"))
    rewrite("net.pt", "net.pt", {code: b"class Nothing(:"})
    cli.refuses(3, "net.pt", "refuses this archive", arguments=export("net.pt", *SHAPE, "--trust-pickle"))


class Recurrent(torch.nn.Module):
    """An LSTM whose state goes in and out."""

    def __init__(self):
        super().__init__()
        self.lstm, self.out = torch.nn.LSTM(4, 6, batch_first=True), torch.nn.Linear(6, 3)

    def forward(self, x, hidden, cell):
        y, (hidden, cell) = self.lstm(x, (hidden, cell))
        return self.out(y[:, -1]), hidden, cell


def test_several_inputs_go_in_from_python(cli):
    """An archive does not have the shapes of its inputs: it is refused with the way in, and that way works."""
    import mobconv

    torch.manual_seed(0)
    module = Recurrent().eval()
    example = torch.randn(1, 5, 4), torch.randn(1, 1, 6), torch.randn(1, 1, 6)
    torch.jit.trace(module, example).save("net.pt")
    words = "takes 3 inputs, x, hidden, cell", "mobconv.export(torch.jit.load(...), inputs)"
    cli.refuses(3, *words, arguments=export("net.pt", "--input-shape", "1,5,4", "--trust-pickle"))
    (row,) = mobconv.export(torch.jit.load("net.pt"), example, to="onnx", out="out")
    with torch.inference_mode():
        expected = [value.numpy() for value in module(*example)]
    with mobconv.open(row.path) as artifact:
        assert [spec.name for spec in artifact.inputs] == ["x", "hidden", "cell"]
        feeds = {spec.name: value.numpy() for spec, value in zip(artifact.inputs, example, strict=True)}
        outputs = artifact.run(feeds)
    for value, wanted in zip(outputs.values(), expected, strict=True):
        assert value.shape == wanted.shape and np.abs(value - wanted).max() < 1e-5
