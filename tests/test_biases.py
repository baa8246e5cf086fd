"""Biases of a cell from the program to the file: distinct values for a template, its check, and reading them back."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.errors import BackendError
from mobconv.model.biases import bias_names, distinct, recognisable
from mobconv.pipeline import templates
from mobconv.pipeline.quantized import quantize_model
from mobconv.pipeline.reference import reference
from mobconv.schemes import Cell, Compute
from mobconv.testing.networks import equal_biases, one_image


@pytest.fixture(scope="module")
def program():
    return equal_biases()


def others(program, seed=0):
    rng, values = np.random.default_rng(seed), program.floats()
    return {name: rng.normal(size=values[name].shape).astype(np.float32) for name in bias_names(program)}


def test_biases_are_those_that_layers_add(program):
    names = ("stem", "depthwise", "grouped", "pointwise", "transposed", "first", "second")
    assert bias_names(program) == tuple(f"{name}.bias" for name in names)


def test_only_biases_that_are_not_recognisable_get_other_values(program):
    assert list(recognisable(program)) == ["grouped.bias"]
    other, true = distinct(program)
    assert set(true) == set(bias_names(program)) - {"grouped.bias"}
    assert set(recognisable(other)) == set(bias_names(program))
    before, after = program.floats(), other.floats()
    assert all(np.array_equal(true[name], before[name]) for name in true)
    assert all(np.array_equal(before[name], after[name]) for name in before if name not in true)
    again = distinct(program)[0].floats()
    assert all(np.array_equal(after[name], again[name]) for name in after), (
        "a template would have another key each time"
    )


def test_a_program_with_distinct_biases_stays_what_it_is(program):
    other = distinct(program)[0]
    assert distinct(other) == (other, {})


def test_biases_that_are_left_are_the_networks_own(program, tmp_path):
    """The template has other values in them, and its files the true ones."""
    backend, cell = backends.get("onnx"), Cell.parse("onnx/w4-linear")
    changed = {"stem.bias": others(program)["stem.bias"]}
    folder, biases = templates.template_for_biases(backend, Entry(program), Compute.FP32, tmp_path, changed)
    model = replace(quantize_model(program, cell.scheme), biases=biases)
    backend.encode(folder, model, cell, tmp_path / "file.onnx")
    feeds = {"image": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)}
    expected = reference(program, replace(model, biases=changed), cell.scheme).run(feeds)
    runner = backend.open(tmp_path / "file.onnx")
    for name, values in runner.run(feeds).items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6)


def test_a_bias_that_only_partly_changes_is_refused_by_name(program, tmp_path):
    """As where a converter computes a constant from a bias. Here two biases change places in the map."""
    backend, entry, changed = backends.get("onnx"), Entry(program), others(program)
    folder, _ = templates.template_for_biases(backend, entry, Compute.FP32, tmp_path, changed)
    (folder / "biases.json").unlink()
    path = folder / "map.json"
    content = json.loads(path.read_text())
    places = content["biases"]
    places["stem.bias"], places["depthwise.bias"] = places["depthwise.bias"], places["stem.bias"]
    path.write_text(json.dumps(content))
    for _ in range(2):  # the second time by what the first has recorded
        with pytest.raises(BackendError, match=r"biases depthwise\.bias, stem\.bias: other values") as raised:
            templates.template_for_biases(backend, entry, Compute.FP32, tmp_path, changed)
        assert "grouped" not in str(raised.value)


def test_a_template_of_an_older_version_refuses_biases_by_name(program, tmp_path):
    backend, cell = backends.get("onnx"), Cell.parse("onnx/fp32")
    folder = templates.template(backend, Entry(distinct(program)[0]), Compute.FP32, tmp_path)
    path = folder / "map.json"
    content = json.loads(path.read_text())
    del content["biases"]
    path.write_text(json.dumps(content))
    model = replace(quantize_model(program, cell.scheme), biases=others(program))
    with pytest.raises(BackendError, match=r"stem\.bias"):
        backend.encode(folder, model, cell, tmp_path / "file.onnx")


@pytest.mark.parametrize(
    "name", ["onnx", "coreml", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tflite", "coreml-mlmodel"))]
)
def test_image_inputs_with_the_normalisation_in_front(name, tmp_path):
    """A converter may not compute the first layer's bias from the mean of the pixels."""
    from mobconv.testing.networks import LABELS, PREPROCESSING

    backend, program = backends.get(name), one_image()
    entry = backend.image_entry(program, PREPROCESSING, LABELS, "image", None)
    changed = others(program)
    folder, biases = templates.template_for_biases(backend, entry, Compute.FP32, tmp_path, changed)
    cell = Cell.parse(f"{name}/w4-linear")
    model, path = replace(quantize_model(program, cell.scheme), biases=biases), tmp_path / f"file.{backend.suffix}"
    backend.encode(folder, model, cell, path)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    ((fed, example),) = entry.program.example.items()
    outputs = backend.open(path).run({fed: entry.preprocessing(pixels).astype(example.dtype)})
    expected = reference(program, model, cell.scheme).run({"image": PREPROCESSING(pixels)})
    (expected,) = expected.values()
    values = next(value for value in outputs.values() if value.shape == expected.shape)
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-4)
