"""`mobconv compare` and what goes into files, as users call them: what is printed, and every refusal."""

import json
import shlex

import numpy as np
import pytest
from support import CHECKPOINT, DATA

from mobconv.cli.app import run as run_command

FEW = ("--data", DATA, "--images", "200")
STEPS = ["float", "weights", "graph", "precision", "preprocessing"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A w4-kmeans ONNX file of the fixture, and one that takes bytes made with the sign of the bias wrong."""
    folder = tmp_path_factory.mktemp("exported")
    assert run_command(["export", str(CHECKPOINT), "--to", "onnx", "--scheme", "w4-kmeans", "-o", str(folder)]) == 0
    own = json.loads(_metadata())["preprocessing"]
    wrong = json.dumps({"mean": [-value for value in own["mean"]], "std": own["std"]})
    options = ["--preprocessing", wrong, "--input", "image-uint8", "--to", "onnx,tflite", "-o", str(folder / "wrong")]
    assert run_command(["export", str(CHECKPOINT), *options]) == 0
    return folder


def _metadata():
    from safetensors import safe_open

    with safe_open(CHECKPOINT, "np") as file:
        return file.metadata()["mobconv"]


def test_a_clean_file_loses_to_quantization_alone(cli, exported):
    code, out, err = cli("compare", CHECKPOINT, exported / "onnx" / "w4-kmeans.onnx", *FEW, "--json")
    assert code == 0, err
    comparison = json.loads(out)
    steps = {step["name"]: step for step in comparison["steps"]}
    assert list(steps) == STEPS
    losses = [steps[name]["loss"] for name in STEPS[1:]]
    assert sum(losses) == pytest.approx(comparison["total"]["loss"])
    assert losses[1:] == [0.0, 0.0, 0.0]
    assert steps["weights"]["interval"]["low"] <= losses[0] <= steps["weights"]["interval"]["high"]
    assert comparison["metric"]["name"] == "top-1" and comparison["metric"]["unit"] == "%"
    assert comparison["probe"] is None
    assert len(comparison["layers"]) == 53 and comparison["layer_images"] == 32
    assert comparison["layers"][0]["worst"] >= comparison["layers"][-1]["worst"]
    assert comparison["input_by"] == "its record"


def test_what_people_read(cli, exported):
    code, out, err = cli("compare", CHECKPOINT, exported / "onnx" / "w4-kmeans.onnx", *FEW, "--layers", "2")
    assert code == 0, err
    for words in ("float baseline, PyTorch", "its own preprocessing", "within noise", "scans", "quantization"):
        assert words in out
    assert out.count("features.") == 2
    assert "there is nothing to look for" in out
    assert "Traceback" not in err and "weights" in err  # the step that is being run is said on stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx/fp32.onnx", "tflite/fp32.tflite"])
def test_bytes_hold_no_undone_mistake_but_it_is_named(cli, exported, name):
    code, out, err = cli("compare", CHECKPOINT, exported / "wrong" / name, *FEW)
    assert code == 0, err
    assert "Preprocessing: the sign of the bias is wrong" in out
    assert "The file takes bytes" in out
    assert "The command that does it right (in a recipe: `preprocessing`):\n\n    mobconv export " in out
    code, out, _ = cli("compare", CHECKPOINT, exported / "wrong" / name, *FEW, "--json")
    probe = json.loads(out)["probe"]
    assert probe["restored_score"] is None
    assert probe["reference_score"] > probe["score"] + 50


@pytest.mark.slow
def test_the_corrected_command_makes_it_right(cli, exported):
    """As it is printed, with what said how the checkpoint is loaded."""
    shape = ("--input-shape", "1,3,32,32")
    _, out, _ = cli("compare", CHECKPOINT, exported / "wrong" / "onnx" / "fp32.onnx", *FEW, *shape, "--json")
    program, *arguments = shlex.split(json.loads(out)["probe"]["corrected_call"].replace("\\\n", ""))
    assert program == "mobconv" and arguments[:4] == ["export", str(CHECKPOINT), *shape]
    assert cli(*arguments)[0] == 0
    code, out, err = cli("evaluate", "mended/onnx/fp32.onnx", *FEW, "--json")
    assert code == 0 and json.loads(out)["score"] > 90, err
    assert "uint8" in cli("inspect", "mended/onnx/fp32.onnx")[1]


def test_evaluate_feeds_a_file_as_its_record_says(cli, exported):
    code, out, err = cli("evaluate", exported / "onnx" / "w4-kmeans.onnx", *FEW, "--json")
    assert code == 0, err
    assert json.loads(out)["input"]["range"] == [0.0, 255.0]
    assert json.loads(out)["score"] > 90


def test_inspect_says_what_a_file_expects(cli, exported):
    code, out, _ = cli("inspect", exported / "wrong" / "onnx" / "fp32.onnx")
    assert code == 0
    assert "uint8, RGB (N, H, W, C), pixels of 0 to 255, by its record" in out
    assert "0, 1, 2, 3, 4 .. 9 (10)" in out


def test_refusals(cli, exported, tmp_path):
    good = exported / "onnx" / "w4-kmeans.onnx"
    broken = tmp_path / "broken.onnx.txt"
    broken.write_bytes(good.read_bytes()[:1000])
    broken = broken.rename(tmp_path / "cut")  # .onnx files are what `refuses` takes for half-written output
    for code, words, arguments in (
        (3, ["no such file"], ["compare", CHECKPOINT, "nothing.onnx", *FEW]),
        (3, ["mobconv opens"], ["compare", CHECKPOINT, broken, *FEW]),
        (3, ["no such file"], ["compare", "nothing.pt", good, *FEW]),
        (3, ["no such file or folder"], ["compare", CHECKPOINT, good, "--data", "nowhere"]),
        (2, ["--takes", "JSON"], ["compare", CHECKPOINT, good, *FEW, "--takes", "{"]),
        (3, ["did you mean 'std'"], ["compare", CHECKPOINT, good, *FEW, "--takes", '{"mean": [0], "sdt": [1]}']),
        (2, ["did you mean 'tensor'"], ["export", CHECKPOINT, "--to", "onnx", "--input", "tensr"]),
    ):
        cli.refuses(code, *words, arguments=arguments)


def test_a_file_that_normalises_inside_is_not_fed_normalised_pixels(cli, exported):
    good, twice = exported / "onnx" / "w4-kmeans.onnx", '{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}'
    for command, option in ((["compare", CHECKPOINT], "--takes"), (["evaluate"], "--preprocessing")):
        words = (
            f"{good} normalises inside: by its record it takes pixels of 0 to 255",
            f"{option} would normalise them a second time",
            "pixels of 0 to 1 less mean [0.5, 0.5, 0.5]",
            f"Leave {option} out, or say `raw`",
        )
        cli.refuses(2, *words, arguments=[*command, good, *FEW, option, twice])
    codes = [cli("evaluate", good, *FEW, "--json", *more)[:2] for more in ((), ("--preprocessing", "raw"))]
    without, raw = (json.loads(out) for code, out in codes if code == 0)
    assert without["score"] == raw["score"] > 50


def test_a_damaged_file_and_one_of_another_network(cli, exported, tmp_path_factory):
    import torch

    folder = tmp_path_factory.mktemp("bad")
    cut = folder / "cut.onnx"
    cut.write_bytes((exported / "onnx" / "w4-kmeans.onnx").read_bytes()[:5000])
    code, out, err = cli("compare", CHECKPOINT, cut, *FEW)
    assert code == 3 and str(cut) in err and "Traceback" not in err and out == ""
    other = folder / "other.onnx"
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    torch.onnx.export(net, (torch.zeros(1, 3, 32, 32),), str(other), dynamo=True, external_data=False, verbose=False)
    code, out, err = cli("compare", CHECKPOINT, other, *FEW)
    assert code == 3 and "another" in err and "Traceback" not in err and out == ""


def test_labels_of_other_data(cli, exported, tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "pets" / name / "one.png")
    for command in (["compare", CHECKPOINT], ["evaluate"]):
        code, out, err = cli(*command, exported / "onnx" / "w4-kmeans.onnx", "--data", tmp_path / "pets")
        assert code == 3 and "'cat'" in err and "of other classes" in err and out == ""


def test_images_of_another_size_say_how_to_resize(cli, exported, tmp_path):
    from PIL import Image

    for name in "01":
        (tmp_path / "large" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / "large" / name / "one.png")
    evaluate = ["evaluate", exported / "onnx" / "w4-kmeans.onnx", "--data", tmp_path / "large"]
    code, _, err = cli(*evaluate)
    assert code == 3 and '"size": [32, 32]' in err
    sized = [*evaluate, "--preprocessing"]
    code, _, err = cli(*sized, '{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "size": [32, 32]}')
    raw = '{"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "range": [0.0, 255.0], "size": [32, 32]}'
    assert code == 2 and f"Leave --preprocessing out, or say '{raw}'" in err
    code, _, err = cli(*sized, raw)
    assert code == 0, err


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """ONNX files of the fixture made by torch.onnx.export, by what their wrapper does to its input."""
    import torch

    from mobconv.model.loading import load

    loaded, folder = load(CHECKPOINT), tmp_path_factory.mktemp("foreign")
    own = loaded.preprocessing
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (own.mean, own.std))
    made = {
        "raw": lambda x: (x / 255 - mean) / std,
        "unit": lambda x: (x - mean) / std,
        "sign": lambda x: (x / 255 + mean) / std,
        "odd": lambda x: (x / 255 - 0.3 * mean) / std / 1.7,
    }

    class Wrapped(torch.nn.Module):
        def __init__(self, does):
            super().__init__()
            self.module, self.does = loaded.module, does

        def forward(self, x):
            return self.module(self.does(x))

    def file(name):
        path = folder / f"{name}.onnx"
        if not path.exists():
            example = (torch.zeros(1, 3, 32, 32),)
            options = {"dynamo": True, "external_data": False, "verbose": False}
            torch.onnx.export(Wrapped(made[name]).eval(), example, str(path), **options)
        return path

    return file


TEXT = ("--data", DATA, "--images", "64", "--layers", "0")


def test_a_foreign_file_that_normalises_inside_is_no_loss(cli, foreign):
    code, out, err = cli("compare", CHECKPOINT, foreign("raw"), *TEXT)
    assert code == 0, err
    flat = " ".join(out.split())
    assert "by trial: the file does not say" in flat
    assert "No loss can be measured on these samples" in flat and "95 % interval" in flat
    inside = "the file normalises inside, though it does not say so: it takes pixels of 0 to 255. Say --takes raw."
    assert inside in flat
    assert "Nothing is named" not in flat and "does it right" not in flat


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raw", "unit"])
def test_an_input_found_by_trial_gives_what_the_same_input_stated_gives(cli, foreign, name):
    by_trial = json.loads(cli("compare", CHECKPOINT, foreign(name), *FEW, "--json")[1])
    inside = by_trial["normalises_inside"]
    (takes,) = shlex.split(inside["takes"])
    by_word = json.loads(cli("compare", CHECKPOINT, foreign(name), *FEW, "--json", "--takes", takes)[1])
    assert by_trial["steps"] == by_word["steps"] and by_trial["input"] == by_word["input"]
    assert inside["score_normalised_twice"] < by_trial["steps"][-1]["score"] - 30
    assert by_word["normalises_inside"] is None and by_word["input_by"] == "the command line"


@pytest.mark.slow
def test_a_mistake_inside_a_foreign_file_has_its_name(cli, foreign):
    code, out, err = cli("compare", CHECKPOINT, foreign("sign"), *TEXT, "--images", "32", "--json")
    assert code == 0, err
    comparison = json.loads(out)
    assert comparison["probe"]["named"].startswith("the sign of the bias is wrong")
    assert comparison["normalises_inside"]["takes"] == "raw" and comparison["input"]["range"] == [0.0, 255.0]
    assert comparison["probe"]["restored_score"] > comparison["probe"]["score"] + 50


@pytest.mark.slow
@pytest.mark.parametrize("stated", [False, True])
def test_a_file_that_looks_normalised_twice_has_advice_where_no_mistake_is_named(cli, foreign, stated):
    code, out, err = cli(
        "compare", CHECKPOINT, foreign("odd"), *TEXT, "--images", "16", *(("--takes", "raw") if stated else ())
    )
    assert code == 0 and "Nothing is named." in out, err
    assert ("the file may take pixels of 0 to 255. Try --takes raw." in out) is not stated


def test_a_baseline_that_only_guesses_is_said_and_no_mistake_of_the_files(cli, exported):
    wrong = ("--preprocessing", '{"mean": [5, 5, 5], "std": [0.1, 0.1, 0.1]}')
    code, out, err = cli("compare", CHECKPOINT, exported / "onnx" / "w4-kmeans.onnx", *TEXT, *wrong)
    assert code == 0, err
    assert "no more than guessing among 10 classes: mean and std" in err
    flat = " ".join(out.split())
    assert "The float baseline has a top-1 of " in flat and "no more than guessing among 10 classes" in flat
    assert "points better than the float network: " in flat and "won at preprocessing" in flat
    assert "Doubt the checkpoint's (--preprocessing)" in flat
    for words in ("that does it right", "mistake", "points lost", "there is nothing to look for"):
        assert words not in flat


def test_a_file_of_another_checkpoint_that_is_better(cli, exported, tmp_path):
    """The checkpoint's classifier under noise of four times its size; the file is made from the fixture itself."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(CHECKPOINT, "np") as file:
        values, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    noise = np.random.default_rng(0).normal(size=values["classifier.weight"].shape)
    values["classifier.weight"] += (4 * values["classifier.weight"].std() * noise).astype(np.float32)
    save_file(values, tmp_path / "other.safetensors", metadata)
    code, out, err = cli("compare", tmp_path / "other.safetensors", exported / "onnx" / "w4-kmeans.onnx", *TEXT)
    assert code == 0 and "was made from another checkpoint" in err
    first = out.index("The file was made from another checkpoint")
    assert first < out.index("points better than the float network") < out.index("Preprocessing:")
    assert "points lost" not in out


NETS = """
import torch
from torch import nn

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.mix, self.out = nn.Embedding(50, 8), nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 3)

    def forward(self, tokens):
        x = torch.relu(self.mix(self.table(tokens).transpose(1, 2)))
        return self.out(x.mean(2))

def signal():
    return nn.Sequential(nn.Conv1d(1, 4, 9, 4), nn.ReLU(), nn.Flatten(), nn.Linear(56, 3))
"""


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Networks of a signal and of whole numbers, in memory, and their data."""
    import importlib.util

    import torch

    folder = tmp_path_factory.mktemp("arrays")
    (folder / "array_nets.py").write_text(NETS)
    spec = importlib.util.spec_from_file_location("array_nets", folder / "array_nets.py")
    nets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(nets)
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    inputs = {
        "signal": generator.normal(size=(40, 1, 64)).astype(np.float32),
        "words": generator.integers(0, 50, (40, 7)),
    }
    modules = {"signal": nets.signal().eval(), "words": nets.Words().eval()}
    for name, values in inputs.items():
        with torch.inference_mode():
            target = modules[name](torch.from_numpy(values)).numpy()
        np.savez(folder / f"{name}.npz", x=values, target=target)
    return folder, modules, inputs


@pytest.mark.parametrize("kind", ["onnx", "tflite", pytest.param("coreml", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["signal", "words"])
def test_arrays_of_any_network(arrays, name, kind):
    """Steps and layers of networks that take no images; the loss is that of the weights, against PyTorch itself."""
    import mobconv
    from mobconv.model.sources.in_memory import load as in_memory
    from mobconv.report import losses

    folder, modules, inputs = arrays
    loaded = in_memory(modules[name], inputs[name][:1], None)
    (row,) = mobconv.export(loaded, to=kind, scheme="w4-linear", out=folder / name)
    comparison = mobconv.compare(loaded, row.path, str(folder / f"{name}.npz"), task="regression")
    steps = {step.name: step for step in comparison.steps}
    assert steps["float"].score < 1e-6 and steps["weights"].score > 1e-3
    for step in ("graph", "precision", "preprocessing"):
        assert steps[step].snr_db is None or steps[step].snr_db > 100
    with mobconv.open(row.path) as artifact:
        (output,) = artifact.run({artifact.inputs[0].name: inputs[name][:1].astype(artifact.inputs[0].dtype)}).values()
    assert np.abs(output - steps["preprocessing"].outputs[:1]).max() < 1e-4
    errors = comparison.layer_errors
    assert errors.skipped == () and len(errors.layers) == (2 if name == "signal" else 3)
    assert all(1e-3 < error.worst < 1 and error.graph < 1e-4 for error in errors.layers)
    assert all(error.worst < 1e-4 for error in errors.between)
    assert "the network's get" in " ".join(losses.verdict(comparison))


def test_what_arrays_do_not_go_with(arrays, cli):
    import torch

    import mobconv
    from mobconv.errors import InputError, UsageError

    folder, modules, inputs = arrays
    data = str(folder / "signal.npz")
    (row,) = mobconv.export(modules["signal"], inputs["signal"][:1], to="onnx", out=folder / "refused")
    loaded = mobconv.load(CHECKPOINT)
    with pytest.raises(InputError, match=r"shape"):
        mobconv.compare(loaded, row.path, data, task="regression")
    from mobconv.model.sources.in_memory import load as in_memory

    own = in_memory(modules["signal"], inputs["signal"][:1], None)
    with pytest.raises(UsageError, match=r"takes=.* is for images"):
        mobconv.compare(own, row.path, data, task="regression", takes=loaded.preprocessing)

    class Two(torch.nn.Module):
        def forward(self, a, b):
            return a @ b

    example = (torch.zeros(1, 2, 3), torch.zeros(1, 3, 2))
    (both,) = mobconv.export(Two().eval(), example, to="onnx", out=folder / "two")
    with pytest.raises(InputError, match=r"fp32\.onnx has 2 inputs.*`mobconv evaluate` with the checkpoint"):
        mobconv.compare(own, both.path, data, task="regression")
    # the network's own tensors, for a file that takes pixels: wrong figures without a word
    (pixels,) = mobconv.export(loaded, to="onnx", out=folder / "pixels")
    np.savez(folder / "own.npz", image=np.zeros((4, 3, 32, 32), np.float32), label=np.zeros(4, np.int64))
    code, _, err = cli("evaluate", pixels.path, "--data", folder / "own.npz")
    assert code == 3 and "takes pixels of 0 to 255 and normalises them inside" in err and "--input tensor" in err


def test_a_module_in_memory_is_loaded_with_an_example(arrays):
    """`load` makes a checkpoint of it, with a preprocessing as users write it; without an example that is said."""
    import torch

    import mobconv
    from mobconv.errors import UsageError

    folder = arrays[0]
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, 2), torch.nn.Flatten(), torch.nn.Linear(900, 10)).train()
    with pytest.raises(UsageError, match="settings are of files"):
        mobconv.load(net, torch.zeros(1, 3, 32, 32), input_shape=(1, 3, 32, 32))
    with pytest.raises(UsageError, match="is for a module in memory"):
        mobconv.load(CHECKPOINT, torch.zeros(1, 3, 32, 32))
    loaded = mobconv.load(net, torch.zeros(1, 3, 32, 32), preprocessing={"mean": 0.5, "std": 0.25}, labels="none")
    assert loaded.preprocessing.std == (0.25,) * 3 and "tensor" not in repr(loaded) and len(repr(loaded)) < 600
    (row,) = mobconv.export(loaded, to="onnx", out=folder / "memory")
    (same,) = mobconv.export(
        net, torch.zeros(1, 3, 32, 32), to="onnx", out=folder / "same", preprocessing={"mean": 0.5, "std": 0.25}
    )
    assert same.sha256 == row.sha256 and net.training
    with pytest.raises(UsageError, match=r"needs example=.*forward has input"):
        mobconv.compare(net, row.path, str(DATA))
    comparison = mobconv.compare(loaded, row.path, DATA, samples=20)
    assert comparison.steps[-1].agreement_float == 1 and comparison.wrong_input is False
