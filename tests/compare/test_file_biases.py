"""A file of ours whose biases calibration corrected: they are the reference's, and no fault of the conversion."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import FORMATS, assert_sums_up

from mobconv import backends
from mobconv.compare.waterfall import run_waterfall
from mobconv.evaluate import tasks
from mobconv.model.biases import bias_names
from mobconv.pipeline.reference import reference

SLOW = pytest.mark.slow


def corrected(bench, cell):
    """A cell's file with other biases, and its model."""
    cell = backends.cell(cell)
    backend, rng, values = backends.get(cell.backend), np.random.default_rng(0), bench.program.floats()
    biases = {name: values[name] + rng.normal(0, 0.1, values[name].shape) for name in bias_names(bench.program)}
    model = replace(
        bench.context.quantized(cell.scheme).model,
        biases={name: value.astype(np.float32) for name, value in biases.items()},
    )
    path = bench.out / f"corrected-{cell.backend}-{cell.scheme}.{backend.suffix}"
    backend.encode(bench.context.template(backend, cell.compute), model, cell, path)
    return cell, path, model


def waterfall(bench, path, other_biases):
    feed = bench.checkpoint.preprocessing
    return run_waterfall(
        bench.checkpoint,
        path,
        bench.some(32),
        lambda pixels: {"input": feed(pixels)},
        tasks.get("classification"),
        1,
        program=bench.program,
        other_biases=other_biases,
    )


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name == "onnx" else SLOW) for name in FORMATS])
def test_biases_are_read_back_and_their_loss_is_that_of_the_weights(bench, name):
    cell, path, model = corrected(bench, f"{name}/w4-linear")
    result = waterfall(bench, path, True)
    assert_sums_up(result)
    assert result.alignment.biases == len(model.biases) and result.alignment.unread == ()
    decoded, expected = result.alignment.decoded.floats(), reference(bench.program, model, cell.scheme).floats()
    assert all(np.array_equal(decoded[bias], expected[bias]) for bias in model.biases)
    assert all(step.loss == 0 and (step.snr_db is None or step.snr_db > 80) for step in result.steps[2:])
    assert "biases are the file's too" in result.steps[1].note
    errors = bench.layer_errors(result.alignment)
    assert len(errors.layers) == len(model.weights) and errors.skipped == ()
    assert all(error.graph < 1e-4 for error in errors.layers)


@pytest.mark.slow
def test_in_a_file_that_does_not_say_so_they_are_a_fault_of_the_conversion(bench):
    _, path, _ = corrected(bench, "onnx/w4-linear")
    result = waterfall(bench, path, False)
    assert result.steps[2].snr_db < 40 and result.alignment.biases == 0
