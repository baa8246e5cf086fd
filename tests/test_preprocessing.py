"""One object says what happens to pixels: its numbers, its refusals, and what it says of itself."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mobconv.data.preprocessing import Preprocessing, raw
from mobconv.errors import InputError

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3)).astype(np.uint8)
OWN = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def test_normalises_each_channel():
    found = OWN(PIXELS)
    expected = (PIXELS / 255.0 - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.3]
    np.testing.assert_allclose(found, expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def test_range_is_what_mean_and_std_are_in():
    # -1 to 1 without mean and std is mean = std = 0.5 of 0 to 1
    np.testing.assert_allclose(
        Preprocessing(range=(-1.0, 1.0))(PIXELS), Preprocessing((0.5,) * 3, (0.5,) * 3)(PIXELS), atol=1e-6
    )
    np.testing.assert_array_equal(raw()(PIXELS), PIXELS.transpose(0, 3, 1, 2))


def test_colour_and_layout():
    swapped = Preprocessing((0.6, 0.5, 0.4), (0.3, 0.25, 0.2), colour="bgr")(PIXELS)
    np.testing.assert_array_equal(swapped[:, ::-1], OWN(PIXELS))
    np.testing.assert_array_equal(replace(OWN, layout="nhwc")(PIXELS), OWN(PIXELS).transpose(0, 2, 3, 1))


def test_fit_resizes_the_shorter_side_and_cuts_the_middle():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    found = np.asarray(Preprocessing(size=(10, 10), resize=10).fit(Image.fromarray(wide)))
    assert found.shape == (10, 10, 3)
    assert found[:, 2:8].min() == 255
    assert Preprocessing().fit(Image.fromarray(wide)).size == (60, 20)
    assert Preprocessing(size=(8, 16)).fit(Image.fromarray(wide)).size == (16, 8)


@pytest.mark.parametrize(
    "told",
    [OWN, raw("bgr"), Preprocessing(size=(224, 224), resize=256, interpolation="bicubic", range=(-1.0, 1.0))],
)
def test_json_there_and_back(told):
    assert Preprocessing.from_json(json.loads(json.dumps(told.to_json()))) == told


def test_json_is_as_short_as_it_was():
    assert OWN.to_json() == {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}


def test_one_value_holds_for_all_channels():
    one = Preprocessing((0.5,), (0.25,), colour="bgr", size=(4, 4))
    assert one.for_channels(3) == Preprocessing((0.5,) * 3, (0.25,) * 3, colour="bgr", size=(4, 4))
    assert raw().for_channels(1) == raw(channels=1)
    assert OWN.for_channels(3) is OWN
    with pytest.raises(InputError, match="mean and std are of 3 channels, and the input has 1"):
        OWN.for_channels(1)


def test_a_bare_number_holds_for_all_channels():
    assert Preprocessing.from_json({"mean": 0.5, "std": 0.25}) == Preprocessing((0.5,), (0.25,))
    both = Preprocessing((0.5, 0.4, 0.3), (0.25,) * 3)
    assert Preprocessing.from_json({"mean": [0.5, 0.4, 0.3], "std": 0.25}) == both
    assert Preprocessing.from_json({"mean": 0, "std": [1, 2]}) == Preprocessing((0.0, 0.0), (1.0, 2.0))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"mean": [0, 0, 0]}, "'std'"),
        ({"mean": "0.5", "std": 1}, "one for all, got"),
        ({"mean": True, "std": 1}, "one for all, got"),
        ({"mean": [0], "std": [0]}, "above 0"),
        ({"mean": [0, 0], "std": [1]}, "one value per channel"),
        ({"mean": [0], "std": [1], "color": "bgr"}, "did you mean 'colour'"),
        ({"mean": [0], "std": [1], "colour": "bgra"}, "rgb or bgr"),
        ({"mean": [0], "std": [1], "range": [1, 1]}, "range is two numbers"),
        ({"mean": [124, 116, 104], "std": [58, 57, 57]}, r"far outside of the range 0 to 1.*\[0, 255\]"),
        ({"mean": [0], "std": [1], "size": [32]}, "height and a width"),
        ({"mean": [0], "std": [1], "size": [32, 32], "resize": 16}, "smaller than the size"),
    ],
)
def test_refusals_say_what_is_wrong(value, said):
    with pytest.raises(InputError, match=said):
        Preprocessing.from_json(value)
