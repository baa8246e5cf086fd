"""`mobconv export`: labels, gray images, errors against PyTorch, and formats of which one fails."""

import json

import numpy as np
import pytest
import yaml
from PIL import Image

from mobconv import backends
from mobconv.errors import BackendError, InputError

GRAY = '{"mean": 0.4, "std": 0.2}'
FACTORY = """
import torch
from torch import nn

def net(channels=1, classes=4):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, classes),
    )
"""
NAMES = ("ant", "bee", "cat", "dog")


@pytest.fixture
def tiny(cli, monkeypatch):
    """A folder with a gray and a four-channel network, and images of the classes that each finds in them."""
    import sys

    import torch

    (cli.folder / "tinynet.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(cli.folder))
    sys.modules.pop("tinynet", None)
    import tinynet

    for name, channels in (("gray", 1), ("rgba", 4)):
        net = tinynet.net(channels).eval()
        torch.save(net.state_dict(), f"{name}.pt")
        pixels = np.random.default_rng(0).integers(0, 256, (120, 12, 12, channels), np.uint8)
        with torch.inference_mode():
            inputs = torch.from_numpy(((pixels / 255 - 0.4) / 0.2).astype(np.float32).transpose(0, 3, 1, 2))
            classes = net(inputs).argmax(1).tolist()
        for label in NAMES:
            (cli.folder / f"{name}-images" / label).mkdir(parents=True)
        for number, found in enumerate(classes):
            folder = cli.folder / f"{name}-images" / NAMES[found]
            each = pixels[number]
            Image.fromarray(each[..., 0] if channels == 1 else each).save(folder / f"{number:03}.png")
    return cli


def export(name, *more, to="onnx", channels=None):
    channels = channels or {"gray": 1, "rgba": 4}[name]
    network = ["--model", "tinynet:net", "--model-arg", f"channels={channels}", "--input-shape", f"1,{channels},12,12"]
    return ["export", f"{name}.pt", *network, "--preprocessing", GRAY, "--to", to, "-o", "out", *more]


class TestLabels:
    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("labels.txt", "ant\nbee\r\ncat\ndog\n\n"),
            ("labels.json", json.dumps(NAMES)),
            ("labels.json", json.dumps({str(number): name for number, name in reversed(list(enumerate(NAMES)))})),
            ("config.json", json.dumps({"id2label": dict(enumerate(NAMES)), "model_type": "resnet"})),
        ],
    )
    def test_from_a_file(self, tiny, name, text):
        (tiny.folder / name).write_text(text)
        assert tiny(*export("gray", "--labels", name))[0] == 0
        from mobconv.pipeline.artifact import open_artifact

        with open_artifact("out/onnx/fp32.onnx") as artifact:
            assert artifact.labels == NAMES

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("ant\nbee\ncat\n", ["3 labels ('ant' to 'cat')", "4 outputs", "--labels none"]),
            ("ant\nbee\ncat\ndog\nelk\n", ["5 labels", "4 outputs"]),
            ("ant\nbee\nant\ndog\n", ["outputs 0 and 2 have the same label, 'ant'"]),
            ("ant\n\ncat\ndog\n", ["label 1 is ''"]),
            ("", ["no labels in it"]),
        ],
    )
    def test_refused_before_anything_is_written(self, tiny, text, words):
        (tiny.folder / "labels.txt").write_text(text)
        tiny.refuses(3, *words, arguments=export("gray", "--labels", "labels.txt"))
        tiny.refuses(3, "no such file of labels", arguments=export("gray", "--labels", "gone.txt"))

    @pytest.mark.parametrize("text", ['{"0": "ant", "2": "bee"}', "{", '[{"a": 1}]', '{"0": 1}'])
    def test_json_of_another_form(self, tiny, text):
        (tiny.folder / "labels.json").write_text(text)
        tiny.refuses(3, "labels.json", arguments=export("gray", "--labels", "labels.json"))

    def test_a_checkpoint_s_own_are_checked_too(self, tiny):
        from mobconv import export as exported
        from mobconv import load

        loaded = load("gray.pt", model="tinynet:net", input_shape=(1, 1, 12, 12), preprocessing={"mean": 0, "std": 1})
        loaded.labels = ("ant", "bee", "cat")
        with pytest.raises(InputError, match=r"3 labels .* the network has 4 outputs"):
            exported(loaded, to="onnx", out="out")
        assert not list(tiny.folder.rglob("*.onnx"))
        assert exported(loaded, to="onnx", out="out", labels="none")[0].status == "ok"

    def test_from_the_data_and_left_out(self, tiny):
        from mobconv.pipeline.artifact import open_artifact

        data = ["--data", "gray-images"]
        for more, labels in ((data, NAMES), ([*data, "--labels", "none"], ()), ([], ())):
            assert tiny(*export("gray", *more))[0] == 0
            with open_artifact("out/onnx/fp32.onnx") as artifact:
                assert artifact.labels == labels

    def test_some_classes_in_another_order(self, tiny):
        """Folders of two of the classes get the numbers of their outputs, and every image is right."""
        (tiny.folder / "labels.txt").write_text("\n".join(NAMES))
        assert tiny(*export("gray", "--labels", "labels.txt"))[0] == 0
        from mobconv import evaluate

        kept = [name for name in NAMES if any((tiny.folder / "gray-images" / name).iterdir())][-1]
        (tiny.folder / "some").mkdir()
        (tiny.folder / "gray-images" / kept).rename(tiny.folder / "some" / kept.upper())
        assert NAMES.index(kept) > 0  # else the order would be right without names
        code, out, err = tiny("evaluate", "out/onnx/fp32.onnx", "--data", "some", "--json")
        assert code == 0 and json.loads(out)["score"] == 100 and "found among the network's 4 by their names" in err
        (tiny.folder / "some" / "unknown").mkdir()
        code, _, err = tiny("evaluate", "out/onnx/fp32.onnx", "--data", "some")
        assert code == 3 and "'unknown'" in err and "--labels" in err
        with pytest.raises(InputError, match="5 labels"):
            evaluate("out/onnx/fp32.onnx", "some", labels=[*NAMES, "unknown"])


@pytest.mark.parametrize("name", ["gray", "rgba"])
def test_gray_and_four_channels_end_to_end(tiny, name):
    """Exported to every format, evaluated and compared on data that is not forced to RGB: all images are right."""
    formats = "onnx,tflite,coreml,coreml-mlmodel"
    code, out, err = tiny(*export(name, "--data", f"{name}-images", "--json", to=formats))
    assert code == 0, err
    rows = json.loads(out)
    assert [row["score"] for row in rows] == [100] * 4 and min(row["float_snr_db"] for row in rows) > 80
    coreml = next(row["path"] for row in rows if row["backend"] == "coreml")
    code, out, _ = tiny("inspect", coreml)
    assert code == 0 and ("GRAYSCALE, 12 x 12" in out) == (name == "gray")
    for row in rows:
        code, out, err = tiny("evaluate", row["path"], "--data", f"{name}-images", "--json")
        assert code == 0 and json.loads(out)["score"] == 100, err
    shape = [1, {"gray": 1, "rgba": 4}[name], 12, 12]
    recipe = {
        "checkpoint": f"{name}.pt",
        "model": "tinynet:net",
        "arguments": {"channels": shape[1]},
        "input_shape": shape,
        "preprocessing": {"mean": 0.4, "std": 0.2},
        "data": f"{name}-images",
        "backends": ["onnx", "coreml"],
        "schemes": ["fp32", "w8-linear"],
    }
    (tiny.folder / "job.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = tiny("sweep", "job.yaml", "-o", "swept")
    assert code == 0, err
    results = json.loads((tiny.folder / "swept" / "results.json").read_text())
    assert results["float_score"] == 100 and [row["status"] for row in results["cells"]] == ["ok"] * 4
    for one in ("onnx/fp32.onnx", "coreml/fp32.mlpackage"):  # the same name is the same file
        ours, theirs = tiny.folder / "out" / one, tiny.folder / "swept" / one
        files = [path for path in (ours, *ours.rglob("*")) if path.is_file()]
        assert [path.read_bytes() for path in files] == [
            (theirs / path.relative_to(ours)).read_bytes() for path in files
        ]


def test_skipped_images_are_counted(tiny):
    bad = next((tiny.folder / "gray-images").rglob("*.png"))
    bad.write_bytes(b"\x89PNG\r\n")
    code, _, err = tiny(*export("gray", "--data", "gray-images"))
    assert code == 3 and str(bad.relative_to(tiny.folder)) in err and "--skip-bad" in err
    code, out, err = tiny(*export("gray", "--data", "gray-images", "--skip-bad", "--json"))
    (row,) = json.loads(out)
    assert code == 0 and (row["samples"], row["skipped"]) == (119, 1) and "left out 1 image of 120" in err
    recipe = {
        "checkpoint": "gray.pt",
        "model": "tinynet:net",
        "input_shape": [1, 1, 12, 12],
        "preprocessing": {"mean": 0.4, "std": 0.2},
        "data": "gray-images",
        "skip_bad": True,
        "labels": list(NAMES),
        "backends": "onnx",
        "schemes": "fp32",
    }
    (tiny.folder / "job.yaml").write_text(yaml.safe_dump(recipe))
    assert tiny("sweep", "job.yaml", "-o", "swept")[0] == 0
    results = json.loads((tiny.folder / "swept" / "results.json").read_text())
    assert results["data"]["skipped"] == results["cells"][0]["skipped"] == 1
    assert any("left out 1 image" in note for note in results["notes"])
    (tiny.folder / "job.yaml").write_text(yaml.safe_dump(recipe | {"skip_bad": False}))
    code, _, err = tiny("sweep", "job.yaml", "-o", "swept")
    assert code == 3 and "`skip_bad: true`" in err


class TestErrorAgainstPyTorch:
    def test_of_noise_is_that_of_the_file(self, tiny):
        """Another run of file and module on the same kind of noise gives the same decibels, within sampling."""
        code, out, _ = tiny(*export("gray", "--scheme", "w4-linear", "--json"))
        assert code == 0
        (row,) = json.loads(out)
        import onnxruntime
        import tinynet
        import torch

        net = tinynet.net()
        net.load_state_dict(torch.load("gray.pt", weights_only=True))
        pixels = np.random.default_rng(1).integers(0, 256, (64, 1, 12, 12)).astype(np.float32)
        with torch.inference_mode():
            wanted = net.eval()(torch.from_numpy((pixels / 255 - 0.4) / 0.2)).numpy()
        session = onnxruntime.InferenceSession(row["path"])
        given = np.concatenate([session.run(None, {"image": each[None]})[0] for each in pixels])
        snr = 10 * np.log10((wanted**2).sum() / ((given - wanted) ** 2).sum())
        assert 10 < snr < 50 and abs(row["float_snr_db"] - snr) < 3
        assert row["latency_ms"] > 0

    def test_the_table_has_it(self, tiny):
        code, out, _ = tiny(*export("gray", "--scheme", "w8-symmetric"))
        assert code == 0 and "SNR dB" in out and " ms " in out and "x float" in out
        assert "against PyTorch, on random inputs" in " ".join(out.split())
        assert "Weights only; activations stay float" in " ".join(out.split())


class TestOneFormatFails:
    def test_a_missing_package_is_a_row(self, tiny, monkeypatch):
        missing = "tflite needs litert-torch: pip install mobconv[tflite]"
        monkeypatch.setattr(backends.get("tflite"), "missing", lambda: missing)
        code, out, err = tiny(*export("gray", to="tflite,onnx"))
        assert code == BackendError.exit_code == 4
        assert "tflite/fp32" in out and "unsupported" in out and missing in " ".join(out.split())
        assert f"1 of 2 files could not be written:\ntflite/fp32: {missing}" in err and "Traceback" not in err
        assert (tiny.folder / "out" / "onnx" / "fp32.onnx").exists() and "out/onnx/fp32.onnx" in out
        monkeypatch.setattr(backends.get("onnx"), "missing", lambda: "onnx is missing")
        code, out, err = tiny(*export("gray", "-o", "none", to="tflite,onnx"))
        assert code == 4 and missing in err and "onnx is missing" in err and not (tiny.folder / "none").exists()

    @pytest.mark.parametrize(
        ("raised", "code", "status"),
        [(BackendError("the operation is not supported"), 4, "unsupported"), (KeyError("mlir"), 5, "failed")],
    )
    @pytest.mark.parametrize("step", ["convert", "encode", "open"])
    def test_a_failure_anywhere_leaves_the_others(self, tiny, monkeypatch, raised, code, status, step):
        def fails(*arguments, **options):
            raise raised

        monkeypatch.setattr(backends.get("tflite"), step, fails)
        if step == "convert":  # whatever a converter raises, it cannot convert the network
            code, status = 4, "unsupported"
        found, out, err = tiny(*export("gray", "--json", to="tflite,onnx"))
        rows = json.loads(out)
        assert found == code and "Traceback" not in err
        assert [row["status"] for row in rows] == [status, "ok"]
        assert str(raised.args[0]) in rows[0]["reason"] and not list(tiny.folder.rglob("*.tflite"))
        found, out, err = tiny(*export("gray", "-o", "alone", to="tflite"))
        assert found == code and out == "" and str(raised.args[0]) in err

    def test_python_gets_rows_too(self, tiny, monkeypatch):
        from mobconv import export as exported
        from mobconv import load

        monkeypatch.setattr(backends.get("tflite"), "missing", lambda: "no litert")
        loaded = load("gray.pt", model="tinynet:net", input_shape=(1, 1, 12, 12), preprocessing="raw")
        rows = exported(loaded, to=["onnx", "tflite"], out="out")
        assert [(row.status, row.reason) for row in rows] == [("ok", ""), ("unsupported", "no litert")]
        with pytest.raises(BackendError, match="no litert"):
            exported(loaded, to="tflite", out="out")


@pytest.mark.parametrize(
    ("wish", "answer"), [("int8", "w8-symmetric"), ("uint4", "w4-symmetric"), ("8bit", "w8-linear")]
)
def test_who_asks_for_int8_is_answered(tiny, wish, answer):
    tiny.refuses(2, "Weights only; activations stay float", answer, arguments=export("gray", "--scheme", wish))


def test_imagenet_by_name(tiny):
    from mobconv import load

    colours = load("gray.pt", model="tinynet:net", input_shape=(1, 1, 12, 12), preprocessing={"mean": 0.4, "std": 0.2})
    assert colours.preprocessing.channels == 1
    arguments = export("gray")
    arguments[arguments.index(GRAY)] = "imagenet"
    tiny.refuses(3, "mean and std are of 3 channels, and the input has 1", arguments=arguments)
    arguments[arguments.index("imagenet")] = "imagnet"
    tiny.refuses(3, "imagnet", arguments=arguments)
    from mobconv.cli.common import preprocessing_from

    assert preprocessing_from("imagenet").mean == (0.485, 0.456, 0.406)


def test_other_tasks_and_arrays(cli, monkeypatch):
    """`--data` has arrays and targets, judged by a task and its metric; PyTorch's score stands below the table."""
    import torch

    (cli.folder / "signalnet.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv1d(1, 4, 9, 4), nn.ReLU(), nn.Flatten(), "
        "nn.Linear(56, 2))\n"
    )
    monkeypatch.syspath_prepend(str(cli.folder))
    import signalnet

    torch.manual_seed(0)
    net = signalnet.net().eval()
    torch.save(net.state_dict(), "signal.pt")
    inputs = np.random.default_rng(0).normal(size=(40, 1, 64)).astype(np.float32)
    with torch.inference_mode():
        target = net(torch.from_numpy(inputs)).numpy() + np.float32(0.25)
    np.savez("signal.npz", x=inputs, target=target)
    command = ["export", "signal.pt", "--model", "signalnet:net", "--input-shape", "1,1,64", "--to", "onnx"]
    code, out, _ = cli(*command, "--data", "signal.npz", "--task", "regression", "--metric", "RMSE")
    assert code == 0 and "RMSE" in out and "PyTorch: RMSE 0.2500" in out
    code, out, _ = cli(*command, "--data", "signal.npz", "--task", "regression", "--json")
    (row,) = json.loads(out)
    assert code == 0 and row["metric"] == "MAE" and row["samples"] == 40 and abs(row["score"] - 0.25) < 1e-5
    np.save("signal.npy", inputs)
    code, out, _ = cli(*command, "--scheme", "w8-linear", "--data", "signal.npy", "--task", "fidelity", "--json")
    (row,) = json.loads(out)
    assert code == 0 and row["metric"] == "error" and 0 < row["score"] < 2 and row["float_snr_db"] > 35
    code, _, err = cli(*command, "--data", "signal.npy")
    assert code == 3 and "no labels" in err and "--task fidelity" in err
    code, _, err = cli(*command, "--data", "signal.npz")
    assert code == 3 and "--task regression" in err


def test_classes_without_names_are_said_to_be_in_the_data_s_order(tiny):
    """Nobody knows the order of a network's outputs: the one that was assumed is said, with what to do."""
    command = export("gray", "--data", "gray-images")
    code, out, err = tiny(*command)
    assert code == 0 and "in its order, ant, bee, cat ... dog" in err and "say --labels" in err
    assert "PyTorch: top-1 100.00 %" in out and "warning" not in err
    for number, name in enumerate(reversed(NAMES)):
        (tiny.folder / "gray-images" / name).rename(tiny.folder / "gray-images" / f"{number} {name}")
    code, out, err = tiny(*command)
    assert code == 0 and "warning: the float baseline has a top-1 of" in err and "the order of classes" in err
    code, _, err = tiny("evaluate", "out/onnx/fp32.onnx", "--data", "gray-images", "--labels", "none")
    assert code == 0 and "say --labels" in err
