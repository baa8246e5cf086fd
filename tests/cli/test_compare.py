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
    told = ["--preprocessing", wrong, "--input", "image-uint8", "--to", "onnx,tflite", "-o", str(folder / "wrong")]
    assert run_command(["export", str(CHECKPOINT), *told]) == 0
    return folder


def _metadata():
    from safetensors import safe_open

    with safe_open(CHECKPOINT, "np") as held:
        return held.metadata()["mobconv"]


def test_a_clean_file_loses_to_quantization_alone(cli, exported):
    code, out, err = cli("compare", CHECKPOINT, exported / "onnx" / "w4-kmeans.onnx", *FEW, "--json")
    assert code == 0, err
    found = json.loads(out)
    steps = {step["name"]: step for step in found["steps"]}
    assert list(steps) == STEPS
    lost = [steps[name]["lost"] for name in STEPS[1:]]
    assert sum(lost) == pytest.approx(found["total"]["lost"])
    assert lost[1:] == [0.0, 0.0, 0.0]
    assert steps["weights"]["interval"]["low"] <= lost[0] <= steps["weights"]["interval"]["high"]
    assert found["probe"] is None
    assert len(found["layers"]) == 53 and found["layer_images"] == 32
    assert found["layers"][0]["worst"] >= found["layers"][-1]["worst"]
    assert found["input_by"] == "its record"


def test_what_people_read(cli, exported):
    code, out, err = cli("compare", CHECKPOINT, exported / "onnx" / "w4-kmeans.onnx", *FEW, "--layers", "2")
    assert code == 0, err
    for words in ("float baseline, PyTorch", "its own preprocessing", "within noise", "scans", "quantization"):
        assert words in out
    assert out.count("features.") == 2
    assert "there is nothing to look for" in out
    assert "Traceback" not in err and "weights" in err  # what is being done is told on stderr


@pytest.mark.parametrize("name", [pytest.param("onnx/fp32.onnx", marks=pytest.mark.slow), "tflite/fp32.tflite"])
def test_bytes_hold_no_undone_mistake_but_it_is_named(cli, exported, name):
    code, out, err = cli("compare", CHECKPOINT, exported / "wrong" / name, *FEW)
    assert code == 0, err
    assert "Preprocessing: the sign of the bias is wrong" in out
    assert "The file takes bytes" in out
    assert "The command that does it right (in a recipe: `preprocessing`):\n\n    mobconv export " in out
    code, out, _ = cli("compare", CHECKPOINT, exported / "wrong" / name, *FEW, "--json")
    probe = json.loads(out)["probe"]
    assert probe["restored_top1"] is None
    assert probe["reference_top1"] > probe["top1"] + 0.5


def test_the_corrected_command_makes_it_right(cli, exported):
    """As it is printed, with what said how the checkpoint is loaded."""
    shape = ("--input-shape", "1,3,32,32")
    _, out, _ = cli("compare", CHECKPOINT, exported / "wrong" / "onnx" / "fp32.onnx", *FEW, *shape, "--json")
    program, *arguments = shlex.split(json.loads(out)["probe"]["corrected_call"].replace("\\\n", ""))
    assert program == "mobconv" and arguments[:4] == ["export", str(CHECKPOINT), *shape]
    assert cli(*arguments)[0] == 0
    code, out, err = cli("evaluate", "mended/onnx/fp32.onnx", *FEW, "--json")
    assert code == 0 and json.loads(out)["top1"] > 0.9, err
    assert "uint8" in cli("inspect", "mended/onnx/fp32.onnx")[1]


def test_evaluate_feeds_a_file_as_its_record_says(cli, exported):
    code, out, err = cli("evaluate", exported / "onnx" / "w4-kmeans.onnx", *FEW, "--json")
    assert code == 0, err
    assert json.loads(out)["input"]["range"] == [0.0, 255.0]
    assert json.loads(out)["top1"] > 0.9


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
    assert without["top1"] == raw["top1"] > 0.5


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
