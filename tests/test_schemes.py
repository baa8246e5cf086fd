"""The grammar of schemes and cells, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobconv.errors import UsageError
from mobconv.schemes import BITS, Algorithm, Cell, Compute, Granularity, Mode, Scheme, Storage

SCHEMES = st.one_of(
    st.sampled_from([Scheme(32), Scheme(16)]),
    st.builds(
        Scheme,
        st.sampled_from(BITS),
        st.sampled_from([Mode.LINEAR, Mode.SYMMETRIC]),
        st.sampled_from(Granularity),
        st.sampled_from(Algorithm),
    ),
    st.builds(Scheme, st.sampled_from(BITS), st.just(Mode.KMEANS), st.sampled_from(Granularity)),
)


@given(SCHEMES, st.sampled_from(["onnx", "coreml-mlmodel"]), st.sampled_from(Storage), st.sampled_from(Compute))
def test_a_name_is_read_as_what_it_names(scheme, backend, storage, compute):
    cell = Cell(backend, scheme, storage, compute)
    assert Cell.parse(cell.name) == cell
    assert str(cell.path("onnx")) == f"{cell.name}.onnx"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("w4-kmeans-tensor", "w4-kmeans"),
        ("w4-kmeans-channel", "w4-kmeans-channel"),
        ("w8-linear-channel-mse", "w8-linear"),
        ("w8-linear-tensor", "w8-linear-tensor"),
        ("w1-symmetric-minmax", "w1-symmetric-minmax"),
    ],
)
def test_defaults_are_left_out(text, name):
    assert Scheme.parse(text).name == name


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no scheme"),
        ("fp64", "did you mean"),
        ("w8", "no scheme"),
        ("w-8-linear", "no scheme"),
        ("8-linear", "did you mean 'w8-linear'"),
        ("w9-linear", "1 to 8"),
        ("w4-symetric", "did you mean 'symmetric'"),
        ("w4-linear-mse-channel", "in that order"),
        ("w4-kmeans-minmax", "minmax is for scales"),
    ],
)
def test_wrong_schemes(text, word):
    with pytest.raises(UsageError, match=word):
        Scheme.parse(text)


@pytest.mark.parametrize(
    "text", ["w4-kmeans", "/w4-kmeans", "onnx/", "onnx/fp32@", "onnx/fp32@fp16@fp16", "onnx/fp32@int8"]
)
def test_wrong_cells(text):
    with pytest.raises(UsageError):
        Cell.parse(text)


def test_a_width_needs_a_mode():
    with pytest.raises(UsageError, match="need a mode"):
        Scheme(8)
