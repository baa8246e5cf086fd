"""Every mode and width on awkward tensors: the fields of QuantizedWeight are as its docstring says."""

import numpy as np
import pytest

from mobconv.errors import CellError
from mobconv.quantize import FloatWeight, quantize
from mobconv.schemes import BITS, Mode, Scheme

RNG = np.random.default_rng(7)
TENSORS = {
    "ordinary": RNG.normal(size=(6, 40)).astype(np.float32) / 8,
    "four axes": RNG.normal(size=(4, 3, 5, 5)).astype(np.float32),
    "all zero": np.zeros((3, 8), np.float32),
    "one channel zero": np.stack([np.zeros(9), np.arange(9)]).astype(np.float32),
    "constant": np.full((3, 8), 0.3, np.float32),
    "negative constant": np.full((3, 8), -0.3, np.float32),
    "all positive": RNG.uniform(1, 2, (4, 30)).astype(np.float32),
    "all negative": RNG.uniform(-2, -1, (4, 30)).astype(np.float32),
    "tiny": RNG.normal(size=(3, 20)).astype(np.float32) * np.float32(1e-9),
    "huge": RNG.normal(size=(3, 20)).astype(np.float32) * np.float32(1e9),
    "tiny beside ordinary": np.stack([RNG.normal(size=20) * 1e-9, RNG.normal(size=20)]).astype(np.float32),
    "one outlier": np.concatenate([RNG.normal(size=63), [1000]]).astype(np.float32)[None],
    "single element": np.array([[0.7]], np.float32),
    "single negative element": np.array([[-0.7]], np.float32),
    "single zero": np.array([[0.0]], np.float32),
    "one a channel": RNG.normal(size=(5, 1)).astype(np.float32),
}
SCHEMES = [
    *(f"w{bits}-{mode}{granularity}" for bits in BITS for mode in Mode for granularity in ("-tensor", "-channel")),
    *(f"w{bits}-{mode}-minmax" for bits in BITS for mode in ("linear", "symmetric")),
]


def value_of(weight, group, code):
    """What a code stands for, one at a time, from the table in QuantizedWeight's docstring."""
    if weight.table is not None:
        return weight.table[group, code]
    factor = code - 2 ** (weight.bits - 1)
    if weight.bits == 1:
        factor = 2 * code - 1
    if weight.zero_point is not None:
        factor = code - int(weight.zero_point[group])
    return weight.scale[group] * np.float32(factor)


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("text", SCHEMES)
def test_fields_of_a_quantized_weight(text, name):
    values, scheme = TENSORS[name], Scheme.parse(text)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        weight = quantize("w", values, 0, scheme)
    groups = values.shape[0] if "channel" in (scheme.granularity.value,) else 1
    assert weight.codes.dtype == np.uint8 and weight.codes.shape == values.shape == weight.shape
    assert weight.codes.max() < 2**weight.bits and weight.groups == groups
    uses_table = scheme.mode is Mode.KMEANS or (scheme.mode is Mode.LINEAR and weight.bits == 1)
    assert (weight.table is not None) == uses_table == (weight.scale is None)
    assert (weight.zero_point is not None) == (scheme.mode is Mode.LINEAR and weight.bits > 1)
    if scheme.mode is Mode.SYMMETRIC and weight.bits > 1:
        assert weight.codes.min() >= 1  # the lowest code would be one step further out than the highest
    if weight.zero_point is not None:
        assert weight.zero_point.max() < 2**weight.bits
    parameters = weight.table if uses_table else weight.scale
    assert parameters.dtype == np.float32 and np.isfinite(parameters).all() and len(parameters) == groups
    if weight.fp16:
        half = parameters.astype(np.float16)
        assert np.array_equal(half.astype(np.float32), parameters)
        assert np.all((parameters == 0) | (np.abs(half) >= np.finfo(np.float16).smallest_normal))
    weights = weight.dequantize()
    assert weights.dtype == np.float32 and weights.shape == values.shape
    rows = weight.codes.reshape(groups, -1)
    by_hand = [[value_of(weight, group, int(code)) for code in row] for group, row in enumerate(rows)]
    assert np.array_equal(weights.reshape(groups, -1), np.array(by_hand, np.float32))
    levels = weight.levels()
    assert levels.shape == (groups, 2**weight.bits)
    assert np.array_equal(weights.reshape(groups, -1), np.take_along_axis(levels, rows.astype(np.int64), axis=1))


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("mode", list(Mode))
def test_eight_bits_are_close(name, mode):
    values = TENSORS[name]
    weights = quantize("w", values, 0, Scheme.parse(f"w8-{mode}-channel")).dequantize()
    step = (np.maximum(values.max(axis=1), 0) - np.minimum(values.min(axis=1), 0)) / 254 if values.ndim == 2 else 0.1
    limit = np.reshape(step * (2 if mode is Mode.SYMMETRIC else 1), (-1, *[1] * (values.ndim - 1)))
    if name != "one outlier":  # there clipping may cost the outlier more than a step
        assert np.all(np.abs(weights - values) <= limit * 1.01 + np.abs(values) * 2e-3)


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("name", ["tiny", "huge", "tiny beside ordinary"])
def test_parameters_beyond_fp16_stay_fp32_and_say_so(name, mode):
    weight = quantize("w", TENSORS[name], 0, Scheme.parse(f"w4-{mode}-channel"))
    assert not weight.fp16
    error = np.abs(weight.dequantize().astype(np.float64) - TENSORS[name]).max(axis=1)
    assert np.all(error <= np.abs(TENSORS[name]).max(axis=1) * 0.25)


def test_ordinary_parameters_are_fp16():
    for mode in Mode:
        assert quantize("w", TENSORS["ordinary"], 0, Scheme.parse(f"w4-{mode}")).fp16


@pytest.mark.parametrize("text", [f"w{bits}-{mode}" for bits in range(2, 9) for mode in Mode])
def test_zeros_stay_exactly_zero(text):
    assert not quantize("w", TENSORS["all zero"], 0, Scheme.parse(text)).dequantize().any()


@pytest.mark.parametrize("text", [f"w{bits}-linear" for bits in range(2, 9)])
def test_linear_represents_zero_exactly(text):
    """A zero weight is a zero weight: the zero point is a code, and its value is 0."""
    values = np.array([[0.0, 0.31, -0.17, 0.0, 0.9]], np.float32)
    weights = quantize("w", values, 0, Scheme.parse(text)).dequantize()
    assert weights[0, 0] == 0 == weights[0, 3]


def test_symmetric_by_hand():
    values = np.array([[-3, -1, 0, 2, 3]], np.float32)
    weight = quantize("w", values, 0, Scheme.parse("w3-symmetric-minmax"))
    assert weight.scale.tolist() == [1] and weight.codes.tolist() == [[1, 3, 4, 6, 7]]


def test_linear_by_hand():
    values = np.array([[-1, 0, 1, 2]], np.float32)
    weight = quantize("w", values, 0, Scheme.parse("w2-linear-minmax"))
    assert weight.scale.tolist() == [1] and weight.zero_point.tolist() == [1]
    assert weight.codes.tolist() == [[0, 1, 2, 3]]


def test_one_bit_by_hand():
    values = np.array([[-1, -3, 2, 6]], np.float32)
    symmetric = quantize("w", values, 0, Scheme.parse("w1-symmetric"))
    assert symmetric.scale.tolist() == [3] and symmetric.codes.tolist() == [[0, 0, 1, 1]]
    linear = quantize("w", np.array([[0, 1, 10, 12]], np.float32), 0, Scheme.parse("w1-linear"))
    assert linear.table.tolist() == [[0.5, 11]] and linear.codes.tolist() == [[0, 0, 1, 1]]
    ends = quantize("w", np.array([[0, 1, 10, 12]], np.float32), 0, Scheme.parse("w1-linear-minmax"))
    assert ends.table.tolist() == [[0, 12]]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("mode", list(Mode))
def test_the_channel_axis_may_be_any(axis, mode):
    values = RNG.normal(size=(3, 4, 5)).astype(np.float32)
    scheme = Scheme.parse(f"w3-{mode}-channel")
    weight = quantize("w", values, axis, scheme)
    moved = quantize("w", np.moveaxis(values, axis, 0), 0, scheme)
    assert weight.axis == axis
    assert np.array_equal(np.moveaxis(weight.codes, axis, 0), moved.codes)
    assert np.array_equal(np.moveaxis(weight.dequantize(), axis, 0), moved.dequantize())


def test_float_schemes():
    values = TENSORS["ordinary"]
    whole = quantize("w", values, 0, Scheme(32))
    assert isinstance(whole, FloatWeight) and np.array_equal(whole.dequantize(), values)
    half = quantize("w", values, 0, Scheme(16))
    assert half.bits == 16 and np.array_equal(half.values, values.astype(np.float16).astype(np.float32))
    with pytest.raises(CellError, match=r"features\.0\.weight: values up to .* do not fit in fp16"):
        quantize("features.0.weight", TENSORS["huge"], 0, Scheme(16))


@pytest.mark.parametrize("mode", list(Mode))
def test_near_the_largest_float(mode):
    values = np.array([[3e38, -3e38, 1e38]], np.float32)
    with pytest.raises(CellError, match=r"features\.0\.weight: values up to 3e\+38 are too large"):
        quantize("features.0.weight", values, 0, Scheme.parse(f"w4-{mode}"))


def test_a_table_has_no_factors():
    with pytest.raises(ValueError, match="has no scale"):
        quantize("w", TENSORS["ordinary"], 0, Scheme.parse("w4-kmeans")).factors()
