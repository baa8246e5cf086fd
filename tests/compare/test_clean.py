"""Files in which nothing is wrong: no layer injects error, and no step behind the weights loses images."""

import numpy as np
import pytest
from conftest import FORMATS, assert_sums_up

SLOW = pytest.mark.slow


@pytest.mark.parametrize("count", [64, pytest.param(2000, marks=SLOW)])
@pytest.mark.parametrize("name", FORMATS)
def test_of_fp32_files(bench, name, count):
    found = bench.waterfall(bench.file(f"{name}/fp32"), count)
    assert_sums_up(found)
    for step in found.steps[1:]:
        assert abs(step.lost) * count / 100 <= 2 * count / 2000 and step.agreement >= 1 - 1 / 1000
        assert step.snr_db is None or step.snr_db > 80
    assert np.abs(found.at_cut - found.reference).max() == 0
    layers = bench.layers(found.subject)
    assert len(layers.layers) == 53 and layers.skipped == ()
    assert layers.layers[0].worst < 1e-4 and all(each.worst < 1e-4 for each in layers.between)
    assert {each.name for each in layers.layers} >= {"features.0", "features.3.layers.0", "classifier"}
    assert "features.3 (add)" in {each.name for each in layers.between}


CODES = ["onnx/w4-kmeans", "tflite/w4-kmeans"]
CODES += [pytest.param(cell, marks=SLOW) for cell in ("coreml/w5-linear", "coreml-mlmodel/w1-kmeans")]


@pytest.mark.parametrize("cell", CODES)
def test_what_codes_lose_is_lost_at_the_weights(bench, cell):
    found = bench.waterfall(bench.file(cell), 32)
    assert found.steps[1].snr_db < 30
    assert all(step.lost == 0 and (step.snr_db is None or step.snr_db > 80) for step in found.steps[2:])
    layers = bench.layers(found.subject)
    assert layers.layers[0].worst > 1e-2 and all(each.graph < 1e-4 for each in layers.layers)


def test_fp16_is_lost_at_the_precision(bench):
    found = bench.waterfall(bench.file("coreml/w4-kmeans@fp16"), 32)
    graph, precision, whole = found.steps[2:]
    assert graph.snr_db > 60 and 40 < precision.snr_db < 80 and whole.snr_db is None
    assert "fp16" in precision.note


def test_wrong_preprocessing_is_lost_at_the_last_step(bench):
    def feed(pixels):
        return bench.checkpoint.preprocessing(pixels) + np.float32(2)

    found = bench.waterfall(bench.file("onnx/fp32"), 100, feed)
    assert found.steps[-1].lost > 20 and all(step.lost == 0 for step in found.steps[:-1])
    assert np.abs(found.at_cut - found.reference - 2).max() < 1e-5
