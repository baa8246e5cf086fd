"""What docs/phones.md says that files take and give is what files of ours take and give."""

import json
import re
import zipfile

import pytest
from support import CHECKPOINT
from walkthrough import DOCS, blocks

from mobconv.cli.app import run

PAGE = (DOCS / "phones.md").read_text()
ROWS = {found[1]: found[0] for found in re.finditer(r"^\| `\.(\w+)` \|.*$", PAGE, re.MULTILINE)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")

    def export(name):
        assert run(["export", str(CHECKPOINT), "--to", name, "--scheme", "fp16", "-o", str(folder)]) == 0
        return next((folder / name).iterdir())

    return export


def said(suffix):
    """Input's name, what it takes, and what comes out, of the table."""
    name, takes, gives = [cell.strip() for cell in ROWS[suffix].strip("|").split("|")][1:]
    return name.strip("`"), takes, gives


def shape(lengths):
    return " x ".join(map(str, lengths))


def test_onnx(tutorial):
    import onnxruntime

    session = onnxruntime.InferenceSession(tutorial[1] / "out" / "onnx" / "w4-kmeans.onnx")
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert image.type == logits.type == "tensor(float)"
    name, takes, gives = said("onnx")
    assert (name, takes) == (image.name, f"float32, {shape(image.shape)}")
    assert gives.startswith(f"`{logits.name}`: float32, {shape(logits.shape)};")
    assert json.loads(session.get_modelmeta().custom_metadata_map["mobconv"])["labels"] == [str(n) for n in range(10)]
    code = "".join(block.text for block in blocks("phones.md"))
    assert f'mapOf("{image.name}" to input)' in code and f'withInputs: ["{image.name}": input]' in code
    assert f'outputNames: ["{logits.name}"]' in code
    assert f"longArrayOf({', '.join(map(str, image.shape))})" in code
    assert f"shape: [{', '.join(map(str, image.shape))}]" in code


@pytest.mark.slow
def test_tflite(files):
    from ai_edge_litert.interpreter import Interpreter

    path = files("tflite")
    interpreter = Interpreter(str(path))
    (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert image["dtype"].__name__ == logits["dtype"].__name__ == "float32"
    name, takes, gives = said("tflite")
    assert (name, takes) == (image["name"], f"float32, {shape(image['shape'])}")
    assert gives.startswith(f"`{logits['name']}`: float32, {shape(logits['shape'])};")
    assert zipfile.ZipFile(path).read("labels.txt").decode().split() == [str(n) for n in range(10)]


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "suffix"), [("coreml", "mlpackage"), ("coreml-mlmodel", "mlmodel")])
def test_core_ml(files, backend, suffix):
    import coremltools

    described = coremltools.models.MLModel(str(files(backend)), skip_model_load=True).get_spec().description
    (image,) = described.input
    assert image.type.WhichOneof("Type") == "imageType"
    size, colours = image.type.imageType, image.type.imageType.ColorSpace
    name, takes, gives = said(suffix)
    assert (name, takes) == (image.name, f"an image, {colours.Name(size.colorSpace)}, {size.width} x {size.height}")
    assert [output.name for output in described.output] == re.findall(r"`(\w+)`", gives)
    kinds = [output.type.WhichOneof("Type") for output in described.output]
    assert kinds == ["stringType", "dictionaryType"]
    code = "".join(block.text for block in blocks("phones.md"))
    for output in described.output:
        assert f'"{output.name}"' in code
    assert f'["{image.name}": image]' in code


def test_all_files_are_in_the_table():
    assert set(ROWS) == {"mlpackage", "mlmodel", "tflite", "onnx"}
    assert "were not run on a device" in PAGE
