"""Mistakes do what their names say, can be undone, and are all different from each other."""

import itertools

import numpy as np
import pytest

from mobconv.compare.mistakes import no_mistake, plausible_mistakes
from mobconv.compare.probe import probe
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing
from mobconv.evaluate import tasks

DISTINCT = Preprocessing((0.4099, 0.3856, 0.3616), (0.3219, 0.2675, 0.2838))
HALF = Preprocessing((0.5,) * 3, (0.5,) * 3)
BGR = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.25, 0.3), colour="bgr")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3)).astype(np.uint8)
UNIT = PIXELS.astype(np.float64) / 255


def named(preprocessing, start):
    mistakes = plausible_mistakes(preprocessing)
    return next((mistake for mistake in mistakes if mistake.name.startswith(start)), None) or next(
        mistake for mistake in mistakes if start in mistake.name
    )


def nchw(values):
    return values.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("preprocessing", [DISTINCT, HALF, BGR])
def test_no_mistake_is_the_preprocessing_itself(preprocessing):
    np.testing.assert_allclose(no_mistake(preprocessing).seen(PIXELS), preprocessing(PIXELS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preprocessing", [DISTINCT, HALF, BGR])
def test_every_mistake_shows_the_network_something_else_and_can_be_undone(preprocessing):
    wanted = preprocessing(PIXELS)
    mistakes = plausible_mistakes(preprocessing)
    assert len(mistakes) > 15
    for mistake in mistakes:
        assert np.abs(mistake.seen(PIXELS) - wanted).max() > 1e-3, mistake.name
        seen = mistake.seen(mistake.undone(wanted))
        np.testing.assert_allclose(seen, wanted, rtol=1e-4, atol=1e-4, err_msg=mistake.name)
    for one, other in itertools.combinations(mistakes, 2):
        assert np.abs(one.seen(PIXELS) - other.seen(PIXELS)).max() > 1e-4, (one.name, other.name)


def test_what_some_names_say():
    mean, std = np.array(DISTINCT.mean), np.array(DISTINCT.std)
    for start, expected in {
        "sign of the bias": (UNIT + mean) / std,
        "where mean and std are in units of 0 to 1": (PIXELS - mean) / std,
        "not normalised at all": PIXELS.astype(np.float64),
        "of 0 to 1, mean and std missing": UNIT,
        "of -1 to 1": 2 * UNIT - 1,
        "mean missing": UNIT / std,
        "std missing": UNIT - mean,
        "applied twice": ((UNIT - mean) / std - mean) / std,
        "divided by 255 twice, or mean and std in units of 0 to 255": (UNIT / 255 - mean) / std,
        "ImageNet": (UNIT - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225],
        "one std for all channels, their mean": (UNIT - mean) / std.mean(),
        "BGR channels where the network wants RGB": (UNIT[..., ::-1] - mean) / std,
        "turned around after normalising": ((UNIT - mean) / std)[..., ::-1],
        "height and width swapped": ((UNIT - mean) / std).transpose(0, 2, 1, 3),
    }.items():
        seen = named(DISTINCT, start).seen(PIXELS)
        np.testing.assert_allclose(seen, nchw(expected), rtol=1e-4, atol=1e-4, err_msg=start)


def test_nhwc_read_as_nchw_is_a_reshape():
    values = np.ascontiguousarray((UNIT - DISTINCT.mean) / DISTINCT.std)
    late = [each for each in plausible_mistakes(DISTINCT) if each.axes == "nhwc as nchw" and each.late]
    np.testing.assert_allclose(late[0].seen(PIXELS), values.reshape(2, 3, 6, 6), rtol=1e-4, atol=1e-4)


def test_a_single_std_is_no_mistake_where_all_are_equal():
    assert not any("one std" in each.name for each in plausible_mistakes(HALF))
    assert any("one std" in each.name for each in plausible_mistakes(DISTINCT))


def test_what_comes_to_the_same_is_one_under_both_names():
    imagenet = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert not any("ImageNet" in each.name for each in plausible_mistakes(imagenet))
    doubled = [each.name for each in plausible_mistakes(Preprocessing((0.0,) * 3, (1.0,) * 3))]
    assert not any("mean missing" in name for name in doubled)


def test_what_is_only_like_a_mistake_is_not_named_where_the_file_is_exact():
    """Another network's constants in units of pixels: nearly 'divided by 255 twice', and not it."""
    own = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    rng = np.random.default_rng(0)
    images = Images("random", rng.integers(0, 256, (64, 8, 8, 3), np.uint8), rng.integers(0, 10, 64), (), "")
    task = tasks.get("classification")
    matrix = rng.normal(size=(192, 10)).astype(np.float32)

    def network(seen):
        return seen.reshape(len(seen), -1) @ matrix

    def off(values):  # mean 118, std 60 of pixels over 255, each channel alike
        return network(((values.astype(np.float32) / 255 - 118) / 60).transpose(0, 3, 1, 2))

    loose = probe(off, network, own, images, task)
    assert loose.named is not None and 15 < loose.trials[0].forwards_db < 35
    assert probe(off, network, own, images, task, arithmetic_db=128.0).named is None
    twice = next(each for each in plausible_mistakes(own) if each.name.startswith("divided by 255 twice"))
    exact = probe(lambda values: network(twice.seen(values)), network, own, images, task, arithmetic_db=128.0)
    assert exact.named is not None and exact.named.mistake.name == twice.name


def test_gray_has_no_colours_to_turn_around_and_a_fourth_channel_stays():
    gray, four = Preprocessing((0.4,), (0.2,)), Preprocessing((0.4,) * 4, (0.2,) * 4, colour="bgr")
    assert not any("BGR" in mistake.name for mistake in plausible_mistakes(gray))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), np.uint8)
    right = no_mistake(four).seen(pixels)
    assert np.allclose(right, four(pixels), atol=1e-5) and np.allclose(
        no_mistake(four).undone(right), pixels, atol=1e-3
    )
    assert np.allclose(four(pixels)[:, 3], (pixels[..., 3] / 255 - 0.4) / 0.2, atol=1e-5)
