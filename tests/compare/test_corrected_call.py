"""The call to paste is Python that normalises as the network wants; for a file of ours it is mobconv's own command."""

import ast
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from mobconv import backends
from mobconv.backends.base import TensorSpec
from mobconv.compare import corrected_call
from mobconv.data.preprocessing import Preprocessing, raw

DISTINCT = Preprocessing((0.41, 0.39, 0.36), (0.32, 0.27, 0.28), colour="bgr")
HALF = Preprocessing((0.5,) * 3, (0.5,) * 3)
IMAGE = TensorSpec("image", (1, 3, 4, 5), "float32", colour="rgb")
FLOATS, BYTES = TensorSpec("image", (1, 3, 4, 5), "float32"), TensorSpec("image", (1, 4, 5, 3), "uint8")
PIXELS = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 3)).astype(np.uint8)


@pytest.mark.parametrize("backend", ["onnx", "tflite", "coreml"])
def test_a_vendors_call_puts_the_networks_preprocessing_into_the_file(backend):
    text = corrected_call.corrected(backends.get(backend), FLOATS, DISTINCT, raw())
    definition = ast.parse(text).body[0]
    names = {"torch": torch}
    exec(compile(ast.Module([definition], []), "suggested", "exec"), names)
    pixels = torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).astype(np.float32))
    output = names["Normalised"](torch.nn.Identity())(pixels)
    np.testing.assert_allclose(output.numpy(), DISTINCT(PIXELS), rtol=1e-5, atol=1e-5)


def test_core_ml_has_a_scale_and_a_bias_where_one_scale_will_do():
    text = corrected_call.corrected(backends.get("coreml"), IMAGE, HALF, raw())
    ast.parse(text)
    assert "scale=2.0 / 255" in text and "bias=[-1.0, -1.0, -1.0]" in text
    assert "class Normalised" in corrected_call.corrected(backends.get("coreml"), IMAGE, DISTINCT, raw())


@pytest.mark.parametrize(
    ("cell", "spec", "words"),
    [
        ("onnx/w4-kmeans", FLOATS, ["--to onnx --scheme w4-kmeans"]),
        ("tflite/w4-linear@native", BYTES, ["--to tflite --scheme w4-linear@native --input image-uint8"]),
        ("coreml/fp16", IMAGE, ["--to coreml --scheme fp16 "]),
        ("coreml/fp32@fp16", IMAGE, ["--to coreml --scheme fp32@fp16 "]),
    ],
)
def test_a_file_of_ours_is_exported_again(cell, spec, words):
    from mobconv.pipeline.export import cells

    record, options = {"cell": cell, "checkpoint": "aa"}, ["--model", "my nets:net"]
    text = corrected_call.exported_again(record, spec, Path("net.pt"), DISTINCT, options)
    assert text.startswith("mobconv export net.pt --model 'my nets:net' \\\n")
    assert all(word in text for word in words)
    given = shlex.split(text.replace("\\\n", ""))
    options = {name: given[given.index(name) + 1] for name in ("--to", "--scheme", "--preprocessing")}
    assert Preprocessing.from_json(json.loads(options["--preprocessing"])) == DISTINCT
    assert [again.name for again in cells([options["--to"]], options["--scheme"], None)] == [cell]


@pytest.mark.parametrize(
    "record", [{}, {"cell": "onnx/w4-later"}, {"cell": "coreml/fp32", "image_type": {"scale": 0.1, "bias": [0, 0, 0]}}]
)
def test_a_file_that_no_export_makes_is_not(record):
    assert corrected_call.exported_again(record, FLOATS, Path("net.pt"), HALF) == ""
