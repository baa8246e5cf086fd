"""Figures against numbers worked out by hand, and artifacts that are none."""

import json
import shutil

import numpy as np
import pytest
from support import CHECKPOINT, DATA

from mobconv.data.labelled import Images
from mobconv.errors import InputError
from mobconv.evaluate import class_names, inference, input_spec
from mobconv.evaluate.output_error import OutputDeviation, output_error
from mobconv.evaluate.tasks.classification import ranks, task


def images(height=8, width=8, labels=(0, 1), names=()):
    pixels = np.zeros((len(labels), height, width, 3), np.uint8)
    return Images("set", pixels, np.array(labels), names, "")


def accuracy(outputs, labels):
    """Top-1 and top-5 in percent."""
    named, data = {"logits": outputs}, images(labels=labels)
    return task.aggregate(task.scores(named, data)), task.more(named, data)["top-5"]


def test_accuracy_by_hand():
    outputs = np.array([[9, 1, 0, 0, 0, 0, 0], [6, 5, 4, 3, 2, 1, 0], [6, 5, 4, 3, 2, 1, 0]], np.float32)
    assert accuracy(outputs, (0, 4, 5)) == (100 / 3, 200 / 3)
    assert ranks(outputs, np.array([0, 4, 5])).tolist() == [0, 4, 5]
    assert task.scores({"logits": outputs}, images(labels=(0, 4, 5))).tolist() == [100, 0, 0]


def test_guessing_is_half_again_what_chance_gives():
    outputs = {"logits": np.zeros((2, 10), np.float32)}
    assert "top-1 of 15.00 %, no more than guessing among 10 classes" in task.warning(15.0, outputs)
    assert task.warning(16.0, outputs) == ""


def test_not_a_number_is_never_right():
    outputs = np.full((2, 3), np.nan, np.float32)
    outputs[1, 1] = 1
    assert accuracy(outputs, (0, 1))[0] == 50
    assert accuracy(outputs, (0, 0))[1] == 0


def test_output_error_by_hand():
    reference = {"logits": np.array([[3, 4], [0, 10]], np.float32)}
    outputs = {"logits": np.array([[3, 4], [1, 10]], np.float32)}
    found = output_error(outputs, reference)
    assert task.agreement(outputs, reference) == 1 and found.max_error == pytest.approx(0.1)
    assert found.snr_db == pytest.approx(10 * np.log10(125 / 1))


def test_output_error_of_several_outputs_is_that_of_all_together():
    reference = {"a": np.array([[3, 4]], np.float32), "b": np.array([[[0], [10]]], np.float32)}
    found = output_error({"x": np.array([[3, 4]]), "y": np.array([[[1], [10]]])}, reference)
    assert found.max_error == pytest.approx(0.1) and found.snr_db == pytest.approx(10 * np.log10(125 / 1))


def test_exact_outputs_have_no_snr():
    outputs = {"logits": np.array([[1, 2]], np.float32)}
    assert output_error(outputs, outputs) == OutputDeviation(None, 0.0) and task.agreement(outputs, outputs) == 1


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_batches_cover_everything_once(count):
    assert [i for part in inference.batches(count) for i in range(count)[part]] == list(range(count))


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (-1, 3, -1, -1), (0, -1, 8, 0)])
def test_shapes_that_fit(shape):
    input_spec.check_network_input(images(), shape, "net")


@pytest.mark.parametrize("shape", [(1, 3, 8, 9), (1, 3, 8), (1, 8, 8, 3), (1, 1, 8, 8), (), (1, 3, 9, -1)])
def test_shapes_that_do_not(shape):
    with pytest.raises(InputError, match="net takes"):
        input_spec.check_network_input(images(), shape, "net")


def test_labels_beyond_the_outputs():
    task.check({"logits": np.zeros((2, 10))}, images(labels=(0, 9)))
    with pytest.raises(InputError, match="row 1 has label 10"):
        task.check({"logits": np.zeros((3, 10))}, images(labels=(0, 10, 3)))


def test_outputs_that_are_no_classes():
    with pytest.raises(InputError, match=r"Output 'map' has shape \(2, 3, 4\)"):
        task.check({"map": np.zeros((2, 3, 4))}, images())


class TestArtifacts:
    def evaluate(self, name, *more):
        return ["evaluate", name, "--data", DATA, "--images", "20", *more]

    def test_missing(self, cli):
        cli.refuses(3, "gone.onnx: no such file", arguments=self.evaluate("gone.onnx"))

    @pytest.mark.parametrize("name", ["net.pb", "net", "net.tar.gz"])
    def test_unknown_suffix(self, cli, name):
        (cli.folder / name).write_bytes(b"x")
        cli.refuses(3, name, ".onnx, .tflite, .mlpackage", arguments=self.evaluate(name))

    @pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"<html>404</html>"])
    @pytest.mark.parametrize("suffix", ["onnx", "tflite"])
    def test_garbage(self, cli, suffix, content):
        name = f"net.{suffix}"
        (cli.folder / name).write_bytes(content)
        code, out, err = cli(*self.evaluate(name))
        assert code == 3 and name in err and "Traceback" not in err and out == ""

    def test_garbage_package(self, cli):
        package = cli.folder / "net.mlpackage"
        package.mkdir()
        code, _, err = cli(*self.evaluate("net.mlpackage"))
        assert code == 3 and "no Manifest.json" in err and "Traceback" not in err
        (package / "Manifest.json").write_text("{")
        code, _, err = cli(*self.evaluate("net.mlpackage"))
        assert code == 3 and "Manifest.json does not name the model" in err
        shutil.rmtree(package)
        package.write_bytes(b"a file")
        code, _, err = cli(*self.evaluate("net.mlpackage"))
        assert code == 3 and "is a folder, and this is a file" in err

    def foreign(self, path, size=32, channels=3, outputs=1):
        """An ONNX file that mobconv did not make: the mean over the picture, ten times."""
        import onnx
        from onnx import TensorProto, helper

        names = [f"y{i}" for i in range(outputs)]
        nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=0)]
        nodes += [helper.make_node("Concat", ["m"] * 4, [name], axis=1) for name in names]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, size, size])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4 * channels]) for name in names],
            [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
        )
        opset = [helper.make_opsetid("", 18)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))

    def test_of_several_outputs_the_first_is_judged(self, cli):
        self.foreign(cli.folder / "one.onnx")
        self.foreign(cli.folder / "two.onnx", outputs=2)
        given = ["--preprocessing", '{"mean": 0.5, "std": 0.5}', "--json"]
        one, two = (json.loads(cli(*self.evaluate(f"{name}.onnx", *given))[1]) for name in ("one", "two"))
        assert one["score"] == two["score"] and one["metrics"] == two["metrics"]

    def test_without_record_needs_preprocessing(self, cli):
        self.foreign(cli.folder / "net.onnx")
        code, _, err = cli(*self.evaluate("net.onnx"))
        assert code == 2 and "does not say how pixels are normalised" in err and "--preprocessing" in err

    def test_with_it_any_file_is_measured(self, cli):
        self.foreign(cli.folder / "net.onnx")
        given = '{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}'
        code, out, err = cli(*self.evaluate("net.onnx", "--preprocessing", given, "--json"))
        assert code == 0, err
        found = json.loads(out)
        assert found["cell"] is None and found["samples"] == 20 and found["metric"]["name"] == "top-1"
        assert 0 <= found["score"] <= found["metrics"]["top-5"] <= 100
        code, out, _ = cli(*self.evaluate("net.onnx", "--preprocessing", given))
        assert code == 0 and "net.onnx (not made by mobconv)" in out
        assert f"  top-1    {found['score']:.2f} %  of 20 samples\n" in out
        assert f"  top-5    {found['metrics']['top-5']:.2f} %\n" in out

    def test_one_mean_and_std_for_all_channels(self, cli):
        self.foreign(cli.folder / "net.onnx")
        inputs = []
        for given in ('{"mean": [0.5], "std": [0.25]}', '{"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}'):
            code, out, err = cli(*self.evaluate("net.onnx", "--preprocessing", given, "--json"))
            assert code == 0, err
            inputs.append(json.loads(out)["input"])
        assert inputs[0] == inputs[1] == {"mean": [0.5] * 3, "std": [0.25] * 3}

    @pytest.mark.parametrize(
        ("kind", "word"),
        [({"size": 28}, "takes 28x28"), ({"channels": 1}, "RGB")],
    )
    def test_files_that_are_no_classifier_of_these_images(self, cli, kind, word):
        self.foreign(cli.folder / "net.onnx", **kind)
        given = '{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}'
        code, _, err = cli(*self.evaluate("net.onnx", "--preprocessing", given))
        assert code == 3 and word in err and "Traceback" not in err

    def test_damaged_record(self, cli):
        import onnx

        assert cli("export", CHECKPOINT, "--to", "onnx", "-o", "out")[0] == 0
        model = onnx.load("out/onnx/fp32.onnx")
        model.metadata_props[0].value = "{"
        onnx.save(model, "out/onnx/fp32.onnx")
        code, _, err = cli(*self.evaluate("out/onnx/fp32.onnx"))
        assert code == 3 and "record is damaged" in err


def test_equal_outputs_are_no_right_answers():
    # as argmax, which takes the first
    assert accuracy(np.zeros((10, 10), np.float32), np.arange(10)) == (10, 50)


@pytest.mark.parametrize(
    ("labels", "names", "end"),
    [
        (("cat", "dog"), ("Cat", "dog "), ""),
        (("cat", "dog"), (), ""),
        (("a", "b", "c"), ("a", "b"), ""),
        (("cat", "dog"), ("cat", "bird"), "of other classes"),
        (("0", "1", "2"), ("cat", "dog"), "of other classes"),
        (("tench", "goldfish"), ("n01440764", "n01443537"), "warning"),
    ],
)
def test_names_of_classes(labels, names, end):
    data = images(names=names)
    if end in ("", "warning"):
        same, doubt = class_names.match(data, labels, len(labels), "the file")
        assert bool(doubt) == (end == "warning") and same.labels is data.labels
        return
    with pytest.raises(InputError, match=end):
        class_names.match(data, labels, len(labels), "the file")


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (("cat", "dog"), ("dog", "cat"), [1, 0, 1]),
        (("ant", "bee", "cat", "dog"), ("Dog", "bee "), [3, 1, 3]),
        (("ant", "bee", "cat", "dog"), ("3", "0"), [3, 0, 3]),  # folders named by the numbers of outputs
        ((), ("7", "2"), [7, 2, 7]),
        ((), tuple("0123456789"), [0, 1, 0]),
    ],
)
def test_classes_are_found_by_their_names(labels, names, numbers):
    """A subset of the classes, and another order of them, get the labels of their outputs."""
    data = images(labels=[0, 1, 0], names=names)
    matched, doubt = class_names.match(data, labels, len(labels) or 10, "the file")
    assert matched.labels.tolist() == numbers and doubt == ""
    assert bool(matched.notes) == (numbers != [0, 1, 0])
    assert matched.sha256 == data.sha256 and matched.pixels is data.pixels


def test_a_subset_without_any_names_is_doubted():
    data = images(labels=[0, 1, 0], names=("cat", "dog"))
    same, doubt = class_names.match(data, (), 10, "the file")
    assert same is data and "in order" in doubt and "10 outputs" in doubt
