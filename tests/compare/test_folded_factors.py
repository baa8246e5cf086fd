"""A factor that a converter multiplied into the first layer's weights is preprocessing, not quantization."""

import numpy as np
import pytest
from conftest import FORMATS, assert_sums_up

from mobconv.compare.folded_factors import folded_factors, without_factors
from mobconv.compare.program_view import WeightUse
from mobconv.schemes import Scheme


def made(bench, cell, factor):
    """A cell's file whose first layer has its weights times a factor, for all or each of the input's channels."""
    first = next(iter(bench.program.sites))
    value = bench.program.floats()[first] * np.reshape(factor, (1, -1, 1, 1)).astype(np.float32)
    return bench.encoded(cell, f"folded-{np.size(factor)}-{cell.replace('/', '-')}", {first: value})


@pytest.mark.parametrize("cell", ["tflite/fp32", "coreml/fp32", "onnx/w8-linear", "tflite/w4-kmeans"])
def test_the_rest_of_normalising_in_front_is_right(bench, cell):
    said = bench.checkpoint.preprocessing
    mean, std = np.array(said.mean, np.float32), np.array(said.std, np.float32)

    def feed(pixels):  # all but the factor, which is in the weights
        return (pixels.astype(np.float32) - 255 * mean).transpose(0, 3, 1, 2)

    waterfall = bench.waterfall(made(bench, cell, 1 / (255 * std)), 100, feed)
    assert_sums_up(waterfall)
    exact = cell.endswith("fp32")
    assert all(step.loss == 0 for step in waterfall.steps[1 if exact else 2 :])
    # a factor estimated from rounded weights is off by a little of a step
    assert all(step.snr_db is None or step.snr_db > (80 if exact else 30) for step in waterfall.steps[2:])
    assert np.abs(waterfall.seen - waterfall.wanted).max() < (1e-4 if exact else 0.05) * np.abs(waterfall.wanted).max()
    errors = bench.layer_errors(waterfall.alignment)
    assert errors.layers[0].graph < 1e-4
    if exact:
        assert errors.layers[0].worst < 1e-4


@pytest.mark.parametrize("name", FORMATS)
def test_a_bare_factor_is_booked_under_preprocessing(bench, name):
    waterfall = bench.waterfall(
        made(bench, f"{name}/fp32", 1 / 255), 100, lambda p: p.astype(np.float32).transpose(0, 3, 1, 2)
    )
    assert waterfall.steps[-1].loss > 20 and all(step.loss == 0 for step in waterfall.steps[:-1])
    assert waterfall.seen.max() <= 1 and waterfall.seen.min() >= 0


WEIGHT = np.random.default_rng(3).normal(size=(16, 3, 3, 3)).astype(np.float32)


class Site:
    name, shape, axis = "first.weight", WEIGHT.shape, 0


USE = WeightUse(0, "first", Site, "conv", "x", "conv")
EACH = np.array([1 / 65, 1 / 55, 1 / 50], np.float32)


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
@pytest.mark.parametrize("mode", ["linear", "symmetric", "kmeans"])
def test_quantization_alone_is_no_factor_and_does_not_bend_one(bits, mode):
    from mobconv.quantize import quantize

    def rounded(value):
        return quantize("first.weight", value, 0, Scheme.parse(f"w{bits}-{mode}")).dequantize()

    assert folded_factors(USE, rounded(WEIGHT), WEIGHT, (3,)) is None
    factors = folded_factors(USE, rounded(WEIGHT / 255), WEIGHT, (3,))
    assert len(factors) == 1
    np.testing.assert_allclose(factors, 1 / 255, rtol=0.01 if bits > 3 else 0.05)
    each = folded_factors(USE, rounded(WEIGHT * EACH.reshape(1, 3, 1, 1)), WEIGHT, (3,))
    assert bits < 4 or len(each) == 3
    np.testing.assert_allclose(each, EACH if len(each) == 3 else EACH.mean(), rtol=0.02 if bits > 3 else 0.1)


def test_one_wrong_channel_does_not_count_and_a_scale_near_one_is_no_factor():
    wrong = WEIGHT / 255
    wrong[1] *= 1.5
    factors = folded_factors(USE, wrong, WEIGHT, (3,))
    np.testing.assert_allclose(factors, 1 / 255, rtol=1e-6)
    np.testing.assert_allclose(without_factors(wrong, factors)[0], WEIGHT[0], rtol=1e-5)
    assert folded_factors(USE, WEIGHT * 1.5, WEIGHT, (3,)) is None
    assert folded_factors(USE, WEIGHT / 4, WEIGHT, (3,)) is None
    assert folded_factors(USE, 0 * WEIGHT, WEIGHT, (3,)) is None


def test_a_linear_layer_has_one_factor():
    class Matrix:
        name, shape, axis = "first.weight", (16, 27), 0

    use = WeightUse(0, "first", Matrix, "linear", "x", "linear")
    factors = folded_factors(use, WEIGHT.reshape(16, 27) / -255, WEIGHT.reshape(16, 27), (27,))
    np.testing.assert_allclose(factors, [-1 / 255], rtol=1e-6)
