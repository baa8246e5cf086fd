"""Files in which nothing is wrong: no layer injects error, and no step behind the weights loses images."""

import numpy as np
import pytest
from conftest import FORMATS, assert_sums_up

SLOW = pytest.mark.slow


@pytest.mark.parametrize("count", [64, pytest.param(2000, marks=SLOW)])
@pytest.mark.parametrize("name", FORMATS)
def test_of_fp32_files(bench, name, count):
    waterfall = bench.waterfall(bench.file(f"{name}/fp32"), count)
    assert_sums_up(waterfall)
    for step in waterfall.steps[1:]:
        assert abs(step.loss) * count / 100 <= 2 * count / 2000 and step.agreement >= 1 - 1 / 1000
        assert step.snr_db is None or step.snr_db > 80
    assert np.abs(waterfall.seen - waterfall.wanted).max() == 0
    errors = bench.layer_errors(waterfall.alignment)
    assert len(errors.layers) == 53 and errors.skipped == ()
    assert errors.layers[0].worst < 1e-4 and all(error.worst < 1e-4 for error in errors.between)
    assert {error.name for error in errors.layers} >= {"features.0", "features.3.layers.0", "classifier"}
    assert "features.3 (add)" in {error.name for error in errors.between}


CODES = ["onnx/w4-kmeans", "tflite/w4-kmeans"]
CODES += [pytest.param(cell, marks=SLOW) for cell in ("coreml/w5-linear", "coreml-mlmodel/w1-kmeans")]


@pytest.mark.parametrize("cell", CODES)
def test_what_codes_lose_is_lost_at_the_weights(bench, cell):
    waterfall = bench.waterfall(bench.file(cell), 32)
    assert waterfall.steps[1].snr_db < 30
    assert all(step.loss == 0 and (step.snr_db is None or step.snr_db > 80) for step in waterfall.steps[2:])
    errors = bench.layer_errors(waterfall.alignment)
    assert errors.layers[0].worst > 1e-2 and all(error.graph < 1e-4 for error in errors.layers)


@pytest.mark.slow
def test_fp16_is_lost_at_the_precision(bench):
    waterfall = bench.waterfall(bench.file("coreml/w4-kmeans@fp16"), 32)
    graph, precision, whole = waterfall.steps[2:]
    assert graph.snr_db > 60 and 40 < precision.snr_db < 80 and whole.snr_db is None
    assert "fp16" in precision.note


def test_wrong_preprocessing_is_lost_at_the_last_step(bench):
    def feed(pixels):
        return bench.checkpoint.preprocessing(pixels) + np.float32(2)

    waterfall = bench.waterfall(bench.file("onnx/fp32"), 100, feed)
    assert waterfall.steps[-1].loss > 20 and all(step.loss == 0 for step in waterfall.steps[:-1])
    assert np.abs(waterfall.seen - waterfall.wanted - 2).max() < 1e-5
