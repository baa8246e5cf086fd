"""Files as training scripts leave them: every wrapper and prefix loads the trained tensors, or says why it does not."""

import argparse
import pathlib
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import export
from torch import nn

from mobconv.errors import InputError, UsageError
from mobconv.model import checkpoint, state_dict
from mobconv.model.checkpoint import Options

SHAPE = (1, 3, 8, 8)
OPTIONS = {"factory": "user_nets:tiny", "input_shape": SHAPE}
TINY = ("--model", "user_nets:tiny", "--input-shape", "1,3,8,8")


@pytest.fixture
def module(cli):
    import user_nets

    torch.manual_seed(0)
    return user_nets.tiny().eval()


def behind(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def averaged(state):
    return {name: value * 2 if value.is_floating_point() else value.clone() for name, value in state.items()}


def lightning(state):
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": []}],
        "state_dict": {**behind("model.", state), "criterion.weight": torch.ones(5)},
    }


# content of a file around a state dict -> words of its notes
FILES = {
    "compiled": (lambda state: behind("_orig_mod.", state), ["took '_orig_mod' out of the names"]),
    "compiled inside": (
        lambda state: {name.replace("0.", "0._orig_mod.", 1): value for name, value in state.items()},
        ["took '_orig_mod' out"],
    ),
    "any prefix": (lambda state: behind("student.net.", state), ["took the prefix 'student.net.' off every name"]),
    "lightning": (lightning, ["under 'state_dict'", "prefix 'model.'", "left out", "criterion.weight"]),
    "averaged model": (
        lambda state: {"n_averaged": torch.tensor(3), **behind("module.", state)},
        ["prefix 'module.'", "left out, as the network has no such tensors: n_averaged"],
    ),
    "loss beside": (lambda state: {**state, "criterion.weight": torch.ones(5)}, ["left out", "criterion.weight"]),
    "counters of thop": (lambda state: {**state, "0.total_ops": torch.zeros(1)}, ["0.total_ops"]),
    "params": (lambda state: {"params": state, "params_ema": averaged(state)}, ["'params'", "also has 'params_ema'"]),
    "ema": (
        lambda state: {"state_dict": state, "state_dict_ema": averaged(state), "arch": "net"},
        ["under 'state_dict'", "also has 'state_dict_ema': the setting `key` chooses, such as state_dict_ema"],
    ),
    "ema by prefix": (
        lambda state: {"state_dict": {**behind("net.", state), **behind("ema_net.module.", averaged(state))}},
        ["prefix 'net.'", "also has 'state_dict.ema_net.module'"],
    ),
    "weights": (lambda state: {"weights": state, "best_acc": 91.0}, ["under 'weights'"]),
    "a key of one's own": (lambda state: {"best": torch.tensor(1), "my_net": state}, ["under 'my_net'"]),
    "namespace": (lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)}, ["under 'model'"]),
    "settings": (
        lambda state: {
            "model": state,
            "best": np.float64(0.9),
            "out": pathlib.PurePosixPath("runs"),
            "more": types.SimpleNamespace(a=1),
        },
        ["under 'model'"],
    ),
    "bfloat16": (
        lambda state: {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()},
        ["weights of bfloat16 are computed in float32"],
    ),
    "only averaged": (lambda state: {"model_ema": state}, ["under 'model_ema'"]),
    "momentum beside": (lambda state: {"momentum": averaged(state), "my_net": state}, ["under 'my_net'"]),
    "two networks": (
        lambda state: {"net_d": {"a.weight": torch.zeros(3)}, "net_g": state},
        ["took the state dict under 'net_g'"],
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        "mmengine.logging.history_buffer.HistoryBuffer",
        "omegaconf.dictconfig.DictConfig",
        "yacs.config.CfgNode",
        "easydict.EasyDict",
        "lightning.fabric.utilities.data.AttributeDict",
    ],
)
def test_settings_and_logs_of_packages_that_are_not_here(name, module, cli, monkeypatch):
    """Nothing is imported for them, and nothing of them is called."""
    place, _, kind = name.rpartition(".")
    parts = place.split(".")
    for count in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:count]), types.ModuleType(".".join(parts[:count])))
    base = dict if kind in ("CfgNode", "EasyDict", "AttributeDict") else object
    settings_class = type(kind, (base,), {"__module__": place})
    setattr(sys.modules[place], kind, settings_class)
    value = settings_class()
    if base is dict:
        value["lr"] = 0.1
    value.history, value.method = np.arange(3.0), value.__repr__
    torch.save({"state_dict": module.state_dict(), "meta": value}, "net.pth")
    for count in range(1, len(parts) + 1):
        monkeypatch.delitem(sys.modules, ".".join(parts[:count]))
    same(checkpoint.load("net.pth", Options(**OPTIONS)), module.state_dict())


def same(loaded, state, tolerance=0.0):
    for name, value in loaded.module.state_dict().items():
        assert torch.allclose(value, state[name].to(value.dtype), rtol=0, atol=tolerance), name


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("trusted", [False, True])
def test_every_wrapper_loads_and_is_said(kind, trusted, module, cli):
    wrap, words = FILES[kind]
    torch.save(wrap(module.state_dict()), "net.pth")
    loaded = checkpoint.load("net.pth", Options(**OPTIONS, trust_pickle=trusted))
    same(loaded, module.state_dict(), tolerance=4e-3 if kind == "bfloat16" else 0.0)
    text = "\n".join(loaded.notes)
    assert [word for word in words if word not in text] == [], text
    assert all(value.dtype == torch.float32 for value in loaded.module.parameters())


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("params", "params_ema"),
        ("ema", "state_dict_ema"),
        ("ema by prefix", "ema_net.module"),
        ("ema by prefix", "state_dict.ema_net.module"),
    ],
)
def test_a_key_chooses_the_average(kind, key, module, cli):
    torch.save(FILES[kind][0](module.state_dict()), "net.pth")
    same(checkpoint.load("net.pth", Options(**OPTIONS, key=key)), averaged(module.state_dict()))
    code, _, err = cli(*export("net.pth", *TINY, "--key", key))
    assert code == 0, err


def test_a_key_chooses_in_safetensors_too(module, cli):
    state = module.state_dict()
    save_file({**behind("model.", state), **behind("model_ema.", averaged(state))}, "net.safetensors")
    same(checkpoint.load("net.safetensors", Options(**OPTIONS)), state)
    same(checkpoint.load("net.safetensors", Options(**OPTIONS, key="model_ema")), averaged(state))


def test_an_unknown_key(module, cli):
    torch.save(FILES["ema"][0](module.state_dict()), "net.pth")
    words = ("net.pth: no state under --key model_ema", "state_dict_ema")
    cli.refuses(2, *words, arguments=export("net.pth", *TINY, "--key", "model_ema"))


def test_a_key_of_another_kind_of_file(module, cli):
    torch.export.save(torch.export.export(module, (torch.zeros(SHAPE),)), "net.pt2")
    cli.refuses(2, "--key ema has no meaning for it", ".pt2", arguments=export("net.pt2", "--key", "ema"))
    cli.refuses(2, "--weights a.pt has no meaning", arguments=export("net.pt2", "--weights", "a.pt"))


@pytest.mark.parametrize("content", ["prefixes", "keys"])
def test_two_that_fit_are_not_guessed(content, module, cli):
    state, other = module.state_dict(), averaged(module.state_dict())
    both = {**behind("a.", state), **behind("b.", other)} if content == "prefixes" else {"a": state, "b": other}
    torch.save(both, "net.pth")
    cli.refuses(2, "several states that fit user_nets:tiny: 'a', 'b'", "--key a", arguments=export("net.pth", *TINY))
    same(checkpoint.load("net.pth", Options(**OPTIONS, key="b")), other)


def test_an_average_does_not_stand_in_for_weights_that_do_not_fit(module, cli):
    state = module.state_dict()
    torch.save({"state_dict": {"0.weight": state["0.weight"]}, "state_dict_ema": averaged(state)}, "net.pth")
    words = ("'state_dict' does not fit user_nets:tiny", "5.weight", "'state_dict_ema' fits: --key state_dict_ema")
    cli.refuses(3, *words, arguments=export("net.pth", *TINY))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {"5.scale": torch.ones(3)}, "1 not in the architecture:\n    5.scale"),
        (lambda state: {"5.weight": state["5.weight"].to(torch.int8)}, "5.weight of int8, expected float32"),
        (lambda state: {"5.weight": state["5.weight"].to(torch.complex64)}, "5.weight of complex64"),
        (lambda state: {"1.num_batches_tracked": torch.tensor(0.5)}, "1.num_batches_tracked of float32"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_tensors_that_mean_something_else(change, words, prefix, module, cli):
    state = module.state_dict()
    torch.save(behind(prefix, {**state, **change(state)}), "net.pth")
    cli.refuses(3, "does not fit user_nets:tiny", words, arguments=export("net.pth", *TINY))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight


def test_one_tensor_of_two_names():
    module = Tied()
    state = {name: torch.full_like(value, 2) for name, value in module.state_dict().items()}
    one = {name: value for name, value in state.items() if name != "second.weight"}  # as safetensors keeps them
    assert state_dict.fill(module, one, "net", "Tied") == []
    assert bool((module.second.weight == 2).all())
    with pytest.raises(InputError, match=r"first\.weight and second\.weight are one tensor in the network, and differ"):
        state_dict.fill(module, {**state, "second.weight": state["second.weight"] + 1}, "net", "Tied")


class TestLightning:
    def save(self, cli, **hyper_parameters):
        import user_nets

        torch.manual_seed(0)
        module = user_nets.tiny(classes=5)
        content = lightning(module.state_dict()) | {"hyper_parameters": hyper_parameters}
        torch.save(content, "net.ckpt")
        return module.state_dict()

    @pytest.mark.parametrize("wrap", [dict, lambda values: argparse.Namespace(**values)])
    def test_hyper_parameters_are_arguments(self, wrap, cli):
        state = self.save(cli)
        content = torch.load("net.ckpt", weights_only=True)
        torch.save(content | {"hyper_parameters": wrap({"classes": 5, "lr": 0.1})}, "net.ckpt")
        loaded = checkpoint.load("net.ckpt", Options(**OPTIONS))
        same(loaded, state)
        assert "arguments of user_nets:tiny from the file's hyper_parameters: classes=5" in loaded.notes

    def test_the_users_arguments_win(self, cli):
        self.save(cli, classes=4)
        same(checkpoint.load("net.ckpt", Options(**OPTIONS, arguments={"classes": 5})), self.save(cli, classes=4))

    @pytest.mark.parametrize("value", ["/etc/passwd", "https://a/b.pt", "a b", ["../x"], {"a": "x/y"}, b"5"])
    def test_a_path_is_not_an_argument(self, value, cli):
        """A factory may open what its argument names: a file does not choose it."""
        self.save(cli, classes=value)
        with pytest.raises(InputError, match="expected"):
            checkpoint.load("net.ckpt", Options(**OPTIONS))


class TestWholeModules:
    def save(self, content):
        torch.save(content, "net.pt")
        return {"input_shape": SHAPE, "trust_pickle": True}

    def test_under_a_key(self, module, cli):
        options = self.save({"epoch": -1, "model": module, "ema": None})
        loaded = checkpoint.load("net.pt", Options(**options))
        same(loaded, module.state_dict())
        assert loaded.notes == ["the file contains the whole module under 'model'"]
        cli.refuses(3, "wants to run code", "--trust-pickle", arguments=export("net.pt", "--input-shape", "1,3,8,8"))

    def test_the_average_by_key(self, module, cli):
        import copy

        other = copy.deepcopy(module).half()
        other.load_state_dict(averaged(module.state_dict()))
        options = self.save({"model": module, "ema": other})
        loaded = checkpoint.load("net.pt", Options(**options))
        same(loaded, module.state_dict())
        assert "the file also has 'ema': the setting `key` chooses, such as ema" in loaded.notes
        same(checkpoint.load("net.pt", Options(**options, key="ema")), averaged(module.state_dict()), tolerance=1e-3)
        with pytest.raises(UsageError, match="no state under key='emma'; it has model, ema"):
            checkpoint.load("net.pt", Options(**options, key="emma"))

    def test_only_the_average(self, module, cli):
        options = self.save({"model": None, "ema": module})
        loaded = checkpoint.load("net.pt", Options(**options))
        same(loaded, module.state_dict())
        assert loaded.notes == ["the file contains the whole module under 'ema'"]

    def test_its_code_lies_beside_it(self, cli):
        folder = cli.folder / "runs"
        folder.mkdir()
        (folder / "beside_nets.py").write_text((cli.folder / "user_nets.py").read_text() + "class Net(nn.ReLU): pass\n")
        script = "import torch, beside_nets; torch.save(beside_nets.Net(), 'net.pt')"
        import subprocess
        import sys

        subprocess.run([sys.executable, "-c", script], cwd=folder, check=True)
        options = Options(input_shape=SHAPE, trust_pickle=True)
        assert type(checkpoint.load(folder / "net.pt", options).module).__name__ == "Net"

    def test_of_a_script(self, cli):
        import subprocess
        import sys

        script = "import torch\nclass Net(torch.nn.ReLU): pass\ntorch.save(Net(), 'net.pt')"
        subprocess.run([sys.executable, "-c", script], cwd=cli.folder, check=True)
        words = ("defined in the script that saved the file", "--model package.module:Class")
        cli.refuses(3, *words, arguments=export("net.pt", "--input-shape", "1,3,8,8", "--trust-pickle"))


def net():
    """Parts of equal shapes, so that names alone say which is which."""
    return nn.ModuleDict({name: nn.Linear(2, 2) for name in ("a", "b", "ab")})


PART = st.sampled_from(["a", "b", "ab", "model", "module", "_orig_mod", "ema", "net", "x"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(PART, max_size=3), min_size=1, max_size=3), st.data())
def test_any_prefixes_load_the_named_tensors_or_none(prefixes, data):
    """Every copy of the weights has its own number: those of one copy are loaded, all of them, each under its name."""
    names = list(net().state_dict())
    content = {}
    for number, prefix in enumerate(prefixes):
        for position, name in enumerate(names):
            if data.draw(st.integers(0, 11)) or (number == 0 and len(prefixes) == 1):
                value = torch.full(net().state_dict()[name].shape, 100.0 * number + position)
                content[".".join([*prefix, name])] = value
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    try:
        notes = state_dict.fill(module, content, "net.pt", "net")
    except (InputError, UsageError):
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
        return
    state = module.state_dict()
    starts = {key[: -len(names[0])] for key in content if key.endswith(names[0])}
    origins = [
        start
        for start in starts
        if all(start + name in content and torch.equal(content[start + name], state[name]) for name in names)
    ]
    assert origins, (content, state)
    # what was not loaded is said
    assert len(content) == len(names) or notes
    if all(start for start in origins):
        assert any("prefix" in note or "_orig_mod" in note for note in notes)
