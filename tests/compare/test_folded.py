"""A factor that a converter multiplied into the first layer's weights is preprocessing, not quantization."""

import numpy as np
import pytest
from conftest import FORMATS, assert_sums_up

from mobconv import backends
from mobconv.compare.folded import folded, unfolded
from mobconv.compare.traced import Use
from mobconv.pipeline import templates
from mobconv.pipeline.network import quantize_all
from mobconv.schemes import Cell, Scheme


def made(bench, cell, factor):
    """A cell's file whose first layer has its weights times a factor, for all or each of the input's channels."""
    cell = Cell.parse(cell)
    first = next(iter(bench.program.sites))
    value = bench.program.floats()[first] * np.reshape(factor, (1, -1, 1, 1)).astype(np.float32)
    weights = dict(bench.weights(cell.scheme))
    weights[first] = quantize_all(bench.program.with_values({first: value}), cell.scheme)[first]
    backend = backends.get(cell.backend)
    path = bench.out / f"folded-{np.size(factor)}-{str(cell).replace('/', '-')}.{backend.suffix}"
    backend.encode(templates.template(backend, bench.program, cell.compute, bench.out), weights, cell, path)
    return path


@pytest.mark.parametrize("cell", ["tflite/fp32", "coreml/fp32", "onnx/w8-linear", "tflite/w4-kmeans"])
def test_the_rest_of_normalising_in_front_is_right(bench, cell):
    said = bench.checkpoint.preprocessing
    mean, std = np.array(said.mean, np.float32), np.array(said.std, np.float32)

    def feed(pixels):  # all but the factor, which is in the weights
        return (pixels.astype(np.float32) - 255 * mean).transpose(0, 3, 1, 2)

    found = bench.waterfall(made(bench, cell, 1 / (255 * std)), 100, feed)
    assert_sums_up(found)
    exact = cell.endswith("fp32")
    assert all(step.lost == 0 for step in found.steps[1 if exact else 2 :])
    # a factor told from rounded weights is off by a little of a step
    assert all(step.snr_db is None or step.snr_db > (80 if exact else 30) for step in found.steps[2:])
    assert np.abs(found.at_cut - found.reference).max() < (1e-4 if exact else 0.05) * np.abs(found.reference).max()
    layers = bench.layers(found.subject)
    assert layers.layers[0].graph < 1e-4
    if exact:
        assert layers.layers[0].worst < 1e-4


@pytest.mark.parametrize("name", FORMATS)
def test_a_bare_factor_is_booked_under_preprocessing(bench, name):
    found = bench.waterfall(
        made(bench, f"{name}/fp32", 1 / 255), 100, lambda p: p.astype(np.float32).transpose(0, 3, 1, 2)
    )
    assert found.steps[-1].lost > 20 and all(step.lost == 0 for step in found.steps[:-1])
    assert found.at_cut.max() <= 1 and found.at_cut.min() >= 0


WEIGHT = np.random.default_rng(3).normal(size=(16, 3, 3, 3)).astype(np.float32)


class Site:
    name, shape, axis = "first.weight", WEIGHT.shape, 0


USE = Use(0, "first", Site, "conv", "x", "conv")
EACH = np.array([1 / 65, 1 / 55, 1 / 50], np.float32)


@pytest.mark.parametrize("bits", [8, 6, 4, 3, 2])
@pytest.mark.parametrize("mode", ["linear", "symmetric", "kmeans"])
def test_quantization_alone_is_no_factor_and_does_not_bend_one(bits, mode):
    from mobconv.quantize import quantize

    def rounded(value):
        return quantize("first.weight", value, 0, Scheme.parse(f"w{bits}-{mode}")).dequantize()

    assert folded(USE, rounded(WEIGHT), WEIGHT, (3,)) is None
    told = folded(USE, rounded(WEIGHT / 255), WEIGHT, (3,))
    assert len(told) == 1
    np.testing.assert_allclose(told, 1 / 255, rtol=0.01 if bits > 3 else 0.05)
    each = folded(USE, rounded(WEIGHT * EACH.reshape(1, 3, 1, 1)), WEIGHT, (3,))
    assert bits < 4 or len(each) == 3
    np.testing.assert_allclose(each, EACH if len(each) == 3 else EACH.mean(), rtol=0.02 if bits > 3 else 0.1)


def test_one_wrong_channel_does_not_count_and_a_scale_near_one_is_no_factor():
    wrong = WEIGHT / 255
    wrong[1] *= 1.5
    told = folded(USE, wrong, WEIGHT, (3,))
    np.testing.assert_allclose(told, 1 / 255, rtol=1e-6)
    np.testing.assert_allclose(unfolded(wrong, told)[0], WEIGHT[0], rtol=1e-5)
    assert folded(USE, WEIGHT * 1.5, WEIGHT, (3,)) is None
    assert folded(USE, WEIGHT / 4, WEIGHT, (3,)) is None
    assert folded(USE, 0 * WEIGHT, WEIGHT, (3,)) is None


def test_a_linear_layer_has_one_factor():
    class Matrix:
        name, shape, axis = "first.weight", (16, 27), 0

    use = Use(0, "first", Matrix, "linear", "x", "linear")
    told = folded(use, WEIGHT.reshape(16, 27) / -255, WEIGHT.reshape(16, 27), (27,))
    np.testing.assert_allclose(told, [-1 / 255], rtol=1e-6)
