"""Fingerprints: each weight is found in whatever layout a converter gave it, and missed where it is not there."""

import itertools
import re

import numpy as np
import pytest

from mobconv.backends import weight_map
from mobconv.errors import BackendError
from mobconv.model.program import WeightSite

SITES = {
    "conv": WeightSite("conv", (4, 3, 2, 5), 0, "aten.conv2d.default"),
    "linear": WeightSite("linear", (6, 7), 0, "aten.linear.default"),
    "square": WeightSite("square", (5, 5), 0, "aten.linear.default"),
    "transposed": WeightSite("transposed", (3, 2, 2, 2), 1, "aten.conv_transpose2d.input"),
    "column": WeightSite("column", (4, 1), 0, "aten.linear.default"),
}
PRINTS = weight_map.fingerprints(SITES)


def found(name, array, others=()):
    constants = [("other", value) for value in others]
    constants += [(each, value) for each, value in PRINTS.items() if each != name]
    return weight_map.locate([*constants, ("here", array)], SITES)[name]


def test_fingerprints_are_all_distinct_and_ordinary():
    values = np.concatenate([value.reshape(-1) for value in PRINTS.values()])
    assert len(np.unique(values)) == len(values) and np.isfinite(values).all() and values.min() >= 0.5
    assert all(value.shape == SITES[name].shape and value.dtype == np.float32 for name, value in PRINTS.items())


@pytest.mark.parametrize("perm", list(itertools.permutations(range(4))))
@pytest.mark.parametrize("name", ["conv", "transposed"])
def test_every_transposition(name, perm):
    (place,) = found(name, PRINTS[name].transpose(perm))
    values = np.random.default_rng(0).normal(size=SITES[name].shape).astype(np.float32)
    assert np.array_equal(place.place(values), values.transpose(perm))
    assert place.axis == perm.index(SITES[name].axis)
    assert place.place(values).flags.c_contiguous


def test_square_is_not_taken_for_its_transpose():
    assert found("square", PRINTS["square"])[0].perm == (0, 1)
    assert found("square", PRINTS["square"].T)[0].perm == (1, 0)


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [
        ("linear", (6, 7, 1, 1), 0),
        ("linear", (1, 6, 7), 1),
        ("linear", (42,), None),
        ("conv", (4, 30), 0),
        ("conv", (2, 2, 3, 2, 5), None),
        ("column", (1, 4), 1),
    ],
)
def test_reshaped(name, shape, axis):
    (place,) = found(name, PRINTS[name].reshape(shape))
    values = np.random.default_rng(0).normal(size=SITES[name].shape).astype(np.float32)
    assert np.array_equal(place.place(values), values.reshape(shape)) and place.axis == axis


def test_transposed_and_reshaped():
    (place,) = found("conv", PRINTS["conv"].transpose(2, 3, 1, 0).reshape(1, 30, 4))
    values = np.random.default_rng(0).normal(size=(4, 3, 2, 5)).astype(np.float32)
    assert np.array_equal(place.place(values), values.transpose(2, 3, 1, 0).reshape(1, 30, 4)) and place.axis == 2


def test_divided_and_reversed_only_where_it_is_asked_for():
    """As a transposed convolution of two groups, read as a convolution, has its kernel."""
    turned = lambda values: (  # noqa: E731
        values[:, :, ::-1, ::-1].reshape(2, 2, 3, 2, 5).transpose(0, 2, 3, 4, 1).reshape(6, 2, 5, 2)
    )
    constants = [(name, value) for name, value in PRINTS.items() if name != "conv"]
    constants.append(("here", turned(PRINTS["conv"])))
    assert weight_map.search(constants, SITES)["conv"] == []
    (place,) = weight_map.search(constants, SITES, folded=True)["conv"]
    values = np.random.default_rng(0).normal(size=SITES["conv"].shape).astype(np.float32)
    assert np.array_equal(place.place(values), turned(values)) and place.axis is None


def test_reversed_with_its_channels_on_one_axis(tmp_path):
    constants = [("here", PRINTS["transposed"][:, :, ::-1].transpose(1, 2, 3, 0))]
    places = weight_map.search(constants, SITES, folded=True)
    (place,) = places["transposed"]
    values = np.random.default_rng(0).normal(size=SITES["transposed"].shape).astype(np.float32)
    assert np.array_equal(place.place(values), values[:, :, ::-1].transpose(1, 2, 3, 0)) and place.axis == 0
    weight_map.save(tmp_path / "map.json", places, {})
    assert weight_map.load(tmp_path / "map.json") == (places, {"biases": {}})


def test_held_twice():
    places = found("linear", PRINTS["linear"].T, [PRINTS["linear"]])
    assert [(place.key, place.perm) for place in places] == [("other", (0, 1)), ("here", (1, 0))]


@pytest.mark.parametrize(
    "changed",
    [
        PRINTS["linear"] * 2,
        PRINTS["linear"] + np.float32(1e-3),
        PRINTS["linear"][:, ::-1],
        PRINTS["linear"][:-1],
        PRINTS["linear"].astype(np.float64),
        PRINTS["linear"].astype(np.float16),
        np.zeros((6, 7), np.float32),
        np.zeros((0,), np.float32),
    ],
)
def test_what_a_converter_changed_is_missing_by_name(changed):
    with pytest.raises(BackendError, match="cannot find linear in the converted file"):
        found("linear", changed)


def test_all_that_is_missing_is_named():
    with pytest.raises(BackendError, match="cannot find conv, square, transposed in"):
        weight_map.locate([(name, PRINTS[name]) for name in ("linear", "column")], SITES)


def test_other_constants_are_passed_over():
    others = [np.float32(0.5).reshape(()), np.arange(12, dtype=np.int64), np.full((4, 3, 2, 5), 0.5, np.float32)]
    others += [np.array([np.nan, np.inf], np.float32), PRINTS["conv"].reshape(-1)[:7]]
    assert [place.key for place in found("conv", PRINTS["conv"], others)] == ["here"]


def test_saved_and_loaded(tmp_path):
    places = weight_map.locate([(name, value.T) for name, value in PRINTS.items()], SITES)
    weight_map.save(tmp_path / "map.json", places, {"floats": ["bias"]})
    assert weight_map.load(tmp_path / "map.json") == (places, {"floats": ["bias"], "biases": {}})


def test_a_network_without_quantizable_weights():
    assert weight_map.fingerprints({}) == {} == weight_map.locate([("mean", np.ones(3, np.float32))], {})


def test_too_many_weights():
    sites = {"w": WeightSite("w", (2**15, 2**16), 0, "aten.linear.default")}
    with pytest.raises(BackendError, match=re.escape(f"{2**31} weights: mobconv converts")):
        weight_map.fingerprints(sites)
