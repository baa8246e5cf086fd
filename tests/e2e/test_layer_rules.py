"""Layer rules reach the files: some layers at another width, some float, in one file of each format."""

import numpy as np
import pytest
import read_coreml
import read_onnx
import read_tflite
from laboratory import FAST
from stored import differences

from mobconv import backends, recipe
from mobconv.evaluate.output_error import output_error
from mobconv.pipeline.quantized import counts, quantize_model
from mobconv.pipeline.reference import reference
from mobconv.schemes import Cell

READERS = {"onnx": read_onnx.read, "tflite": read_tflite.read, "coreml": read_coreml.read}
RULES = [
    {"match": "features.*", "bits": 8},
    {"match": "features.1?.*", "bits": 3},  # the last rule that matches holds
    {"match": "features.0.weight", "keep": "fp32"},
    {"match": "classifier.*", "keep": "fp16"},
]


@pytest.fixture(scope="module")
def ruled(lab):
    """The models of w4-kmeans and w4-linear under the rules, and what their references compute."""
    plan = recipe.Recipe.model_validate(
        {"checkpoint": "-", "data": "-", "backends": "onnx", "schemes": "w4-kmeans", "layers": RULES}
    )
    made = {}
    for name in ("w4-kmeans", "w4-linear"):
        scheme = Cell.parse(f"onnx/{name}").scheme
        model = quantize_model(lab.program, scheme, plan.scheme_for)
        made[name] = (model, reference(lab.program, model, scheme).run({"image": lab.images[:FAST]}))
    return made


def test_rules_give_the_widths_that_they_say(ruled):
    weights = ruled["w4-kmeans"][0].weights
    assert weights["features.0.weight"].bits == 32
    assert weights["classifier.weight"].bits == 16
    assert weights["features.3.layers.0.weight"].bits == 8
    assert weights["features.12.layers.0.weight"].bits == 3


@pytest.mark.parametrize("name", ["w4-kmeans", "w4-linear"])
@pytest.mark.parametrize("backend", ["onnx", "tflite", "coreml"])
def test_files_hold_and_compute_them(lab, ruled, tmp_path, backend, name):
    model, expected = ruled[name]
    weights = model.weights
    cell = Cell.parse(f"{backend}/{name}")
    writer = backends.get(backend)
    path = tmp_path / f"ruled.{writer.suffix}"
    encoded = writer.encode(lab.template(cell), model, cell, path)
    # ONNX tables need no padding: a Gather takes a table of any length
    entries = "used" if backend == "onnx" else "all"
    wrong = {
        key: found
        for stored, (key, weight) in zip(READERS[backend](path), weights.items(), strict=True)
        if (found := differences(stored, weight, entries))
    }
    assert wrong == {}
    close = output_error(lab.run(backend, path), expected)
    assert close.max_error <= 1e-4  # as for every cell that computes in fp32
    # float layers are not the quantized weights': what is left of the file is no more than 8-bit ones take
    quantized = counts(model, cell.scheme)["parameters"]
    assert quantized == sum(np.prod(lab.program.sites[key].shape) for key in weights if weights[key].bits <= 8)
    assert encoded.weight_bytes < 1.6 * quantized
