"""Granularity oc16, and the same weight in other codes, other groups, another layout."""

from dataclasses import replace

import numpy as np
import pytest

from mobconv.quantize import quantize
from mobconv.quantize.weights import Form
from mobconv.schemes import ALGORITHMS, BITS, Granularity, Mode, Needs, Scheme

RNG = np.random.default_rng(16)
CHANNELS = [16, 17, 24, 32, 40, 48]  # whole groups, and 1 or 8 channels over
SCHEMES = [
    Scheme(bits, mode, Granularity.OC16, name).name
    for name, algorithm in ALGORITHMS.items()
    if algorithm.needs is Needs.WEIGHTS  # those of layers quantize groups that go together
    for mode in algorithm.modes
    for bits in BITS
]
PARTS = ("scale", "zero_point", "table")


def weights(channels, *rest):
    """Channels of unlike ranges, so that groups have different parameters."""
    ranges = np.geomspace(1, 4, channels).reshape(-1, *[1] * len(rest))
    return (RNG.normal(loc=0.2, size=(channels, *rest)) * ranges).astype(np.float32)


def same(array, expected):
    """Equal in type, shape and every bit, or both None."""
    if array is None or expected is None:
        return array is expected
    return array.dtype == expected.dtype and array.shape == expected.shape and array.tobytes() == expected.tobytes()


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("text", SCHEMES)
def test_each_16_channels_are_quantized_as_a_tensor_of_their_own(text, channels):
    values, scheme = weights(channels, 2, 3), Scheme.parse(text)
    alone = replace(scheme, granularity=Scheme.parse("w4-kmeans").granularity)
    whole = quantize("w", values, 0, scheme)
    slices = [quantize("w", values[first : first + 16], 0, alone) for first in range(0, channels, 16)]
    if channels == 16:
        assert whole.axis is None and whole.groups == 1
    else:
        assert (whole.axis, whole.together, whole.groups) == (0, 16, len(slices))
    assert same(whole.codes, np.concatenate([part.codes for part in slices]))
    for field in PARTS:
        arrays = [getattr(part, field) for part in slices]
        assert same(getattr(whole, field), None if arrays[0] is None else np.concatenate(arrays)), field
    assert same(whole.dequantize(), np.concatenate([part.dequantize() for part in slices]))
    assert whole.fp16 and all(part.fp16 for part in slices)
    if channels > 16:  # groups differ, so that a mistake in their order would show
        parameters = whole.table if whole.scale is None else whole.scale
        assert not same(parameters[:1], parameters[1:2])


@pytest.mark.parametrize("text", SCHEMES)
def test_fewer_than_16_channels_are_one_group(text):
    values, scheme = weights(10, 7), Scheme.parse(text)
    weight = quantize("w", values, 0, scheme)
    alone = quantize("w", values, 0, replace(scheme, granularity=Scheme.parse("w4-kmeans").granularity))
    assert weight.axis is None and weight.groups == 1
    assert same(weight.codes, alone.codes) and all(same(getattr(weight, p), getattr(alone, p)) for p in PARTS)


@pytest.mark.parametrize("axis", [1, 2, 3])
@pytest.mark.parametrize("mode", list(Mode))
def test_the_channel_axis_may_be_any(mode, axis):
    values, scheme = weights(24, 3, 5, 2), Scheme.parse(f"w3-{mode}-oc16")
    turned = np.moveaxis(values, 0, axis)
    weight, first = quantize("w", turned, axis, scheme), quantize("w", values, 0, scheme)
    assert weight.axis == axis and weight.groups == 2 and weight.shape == turned.shape
    assert weight.codes.flags.c_contiguous
    assert same(weight.codes, np.ascontiguousarray(np.moveaxis(first.codes, 0, axis)))
    assert all(same(getattr(weight, part), getattr(first, part)) for part in PARTS)
    assert same(weight.dequantize(), np.ascontiguousarray(np.moveaxis(first.dequantize(), 0, axis)))


def test_one_group_beyond_fp16_makes_the_whole_tensor_fp32():
    values = weights(40, 6)
    values[33] *= np.float32(1e9)
    weight = quantize("w", values, 0, Scheme.parse("w8-linear-oc16"))
    assert not weight.fp16
    ordinary = weight.scale[:2]
    assert not same(ordinary, ordinary.astype(np.float16).astype(np.float32)), "rounded, though all shall be fp32"


def test_dequantize_by_hand():
    weight = quantize("w", np.zeros((18, 1), np.float32), 0, Scheme.parse("w2-linear-oc16"))
    weight = replace(
        weight,
        codes=np.array([[0]] * 15 + [[3], [3], [0]], np.uint8),
        scale=np.array([0.5, 2], np.float32),
        zero_point=np.array([1, 2], np.uint8),
    )
    assert weight.dequantize().reshape(-1).tolist() == [-0.5] * 15 + [1.0, 2.0, -4.0]
    tables = replace(weight, scale=None, zero_point=None, table=np.arange(8, dtype=np.float32).reshape(2, 4))
    assert tables.dequantize().reshape(-1).tolist() == [0.0] * 15 + [3.0, 7.0, 4.0]


def test_moved_moves_codes_and_nothing_else():
    weight = quantize("w", weights(24, 3, 5), 0, Scheme.parse("w4-linear-oc16"))
    moved = weight.moved(2)
    assert moved.axis == 2 and moved.shape == (3, 5, 24) and moved.codes.flags.c_contiguous
    assert all(np.array_equal(moved.codes[:, :, channel], weight.codes[channel]) for channel in range(24))
    assert all(getattr(moved, part) is getattr(weight, part) for part in PARTS)
    assert same(moved.dequantize(), np.ascontiguousarray(np.moveaxis(weight.dequantize(), 0, 2)))


def test_spread_repeats_parameters_for_groups_of_another_size():
    weight = quantize("w", weights(40, 3), 0, Scheme.parse("w4-linear-oc16"))
    values = np.array([5, 6, 7])
    assert weight.spread(values).tolist() == [5] * 16 + [6] * 16 + [7] * 8
    assert weight.spread(values, 8).tolist() == [5, 5, 6, 6, 7]
    assert weight.spread(values, 16).tolist() == [5, 6, 7]
    tables = np.arange(12).reshape(3, 4)
    assert weight.spread(tables, 8).tolist() == tables[[0, 0, 1, 1, 2]].tolist()
    assert weight.spread(weight.scale).dtype == np.float32 and weight.spread(weight.zero_point).dtype == np.uint8


def test_spread_gives_the_same_weights():
    weight = quantize("w", weights(40, 3), 0, Scheme.parse("w4-linear-oc16"))
    for together in (1, 2, 4, 8, 16):
        parameters = {part: weight.spread(getattr(weight, part), together) for part in ("scale", "zero_point")}
        assert same(replace(weight, together=together, **parameters).dequantize(), weight.dequantize())


def test_spread_of_one_group_or_of_channels_changes_nothing():
    values = weights(20, 3)
    for granularity in ("tensor", "channel"):
        weight = quantize("w", values, 0, Scheme.parse(f"w4-linear-{granularity}"))
        assert same(weight.spread(weight.scale), weight.scale)
    assert same(weight.spread(weight.scale, 1), weight.scale)


@pytest.mark.parametrize("together", [3, 5, 12, 32])
def test_spread_refuses_groups_that_cut_through_others(together):
    weight = quantize("w", weights(40, 3), 0, Scheme.parse("w4-linear-oc16"))
    with pytest.raises(ValueError, match=f"w: cannot divide groups of 16 channels into groups of {together}"):
        weight.spread(weight.scale, together)


def test_spread_refuses_equal_groups_that_do_not_fit_the_channels():
    weight = quantize("w", weights(42, 3), 0, Scheme.parse("w4-linear-oc16"))
    assert len(weight.spread(weight.scale, 2)) == 21
    with pytest.raises(ValueError, match="into groups of 4"):
        weight.spread(weight.scale, 4)


WIDER = [
    (f"w{bits}-{mode}{granularity}", wide)
    for mode in Mode
    for granularity in ("-tensor", "-channel", "-oc16")
    for bits in BITS
    for wide in range(bits, 9)
]


@pytest.mark.parametrize(("text", "bits"), WIDER)
def test_widened_codes_stand_for_the_same_values(text, bits):
    weight = quantize("w", weights(20, 9), 0, Scheme.parse(text))
    wide = weight.widened(bits)
    assert wide.bits == bits and wide.codes.dtype == np.uint8 and int(wide.codes.max()) < 2**bits
    assert same(wide.dequantize(), weight.dequantize())
    assert (wide.axis, wide.together, wide.fp16) == (weight.axis, weight.together, weight.fp16)
    assert same(wide.scale, weight.scale) and same(wide.zero_point, weight.zero_point)
    if weight.table is not None:
        assert wide.table.shape == (weight.groups, 2**bits) and same(wide.codes, weight.codes)
        assert (wide.table[:, 2**weight.bits :] == weight.table[:, -1:]).all()


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("bits", BITS[1:])
def test_codes_are_not_narrowed(mode, bits):
    weight = quantize("w", weights(3, 9), 0, Scheme.parse(f"w{bits}-{mode}"))
    with pytest.raises(ValueError, match=f"w: {bits - 1} bits are fewer than {bits}"):
        weight.widened(bits - 1)


def test_a_widened_pair_of_values_is_a_table():
    """No scale gives two free values at a greater width, so the weight has a lookup table."""
    weight = quantize("w", weights(3, 9), 0, Scheme.parse("w1-linear"))
    wide = weight.widened(8)
    assert wide.form is Form.TABLE and wide.scale is None and wide.table.shape == (3, 256)


def test_widened_by_hand():
    values = np.array([[-3, -1, 0, 2, 3]], np.float32)
    weight = quantize("w", values, 0, Scheme.parse("w3-symmetric-minmax"))
    assert weight.codes.tolist() == [[1, 3, 4, 6, 7]]  # less 4
    assert weight.widened(4).codes.tolist() == [[5, 7, 8, 10, 11]]  # less 8
    assert weight.widened(8).codes.tolist() == [[125, 127, 128, 130, 131]]  # less 128
    pair = quantize("w", np.array([[-3, 3]], np.float32), 0, Scheme.parse("w1-symmetric"))
    assert pair.widened(4).codes.tolist() == [[7, 9]] and pair.widened(8).codes.tolist() == [[127, 129]]
