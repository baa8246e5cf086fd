"""The grammar of schemes and cells, both ways."""

import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobconv.errors import UsageError
from mobconv.schemes import (
    ALGORITHMS,
    BITS,
    DEFAULT_ALGORITHM,
    Cell,
    Compute,
    Granularity,
    Mode,
    Scheme,
    Storage,
    grammar,
    syntax,
)

QUANTIZED = [
    Scheme(bits, mode, granularity, name)
    for name, algorithm in ALGORITHMS.items()
    for mode in algorithm.modes
    for granularity in Granularity
    for bits in BITS
]
SCHEMES = st.sampled_from([Scheme(32), Scheme(16), *QUANTIZED])
COMPUTES = st.sampled_from(Compute)


@given(SCHEMES, st.sampled_from(["onnx", "coreml-mlmodel"]), st.sampled_from(Storage), COMPUTES, COMPUTES)
def test_a_name_is_parsed_into_the_cell_that_has_it(scheme, backend, storage, compute, default):
    cell = Cell(backend, scheme, storage, compute, default)
    assert Cell.parse(cell.name, default) == cell
    assert str(cell.path("onnx")) == f"{cell.name}.onnx"


@pytest.mark.parametrize(
    ("text", "default", "compute", "name"),
    [
        ("onnx/fp32", "fp32", "fp32", "onnx/fp32"),
        ("onnx/fp32@fp32", "fp32", "fp32", "onnx/fp32"),
        ("onnx/fp32@fp16", "fp32", "fp16", "onnx/fp32@fp16"),
        ("x/fp32", "fp16", "fp16", "x/fp32"),
        ("x/fp32@fp16", "fp16", "fp16", "x/fp32"),
        ("x/fp32@fp32", "fp16", "fp32", "x/fp32@fp32"),
        ("x/w4-kmeans@fp32@native", "fp16", "fp32", "x/w4-kmeans@native@fp32"),
        ("x/w4-kmeans@native@fp16", "fp16", "fp16", "x/w4-kmeans@native"),
    ],
)
def test_a_name_has_its_compute_where_it_is_not_the_default(text, default, compute, name):
    cell = Cell.parse(text, default_compute=Compute(default))
    assert (cell.compute, cell.default_compute, cell.name) == (compute, default, name)


def test_the_default_of_compute_is_full_precision():
    assert Cell.parse("onnx/w4-kmeans") == Cell("onnx", Scheme.parse("w4-kmeans"), default_compute=Compute.FP32)


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
        ("", "Unknown scheme"),
        ("fp64", "did you mean"),
        ("w8", "Unknown scheme"),
        ("w-8-linear", "Unknown scheme"),
        ("8-linear", "did you mean 'w8-linear'"),
        ("w9-linear", "1 to 8"),
        ("w4-symetric", "did you mean 'symmetric'"),
        ("w4-linear-mse-channel", "in that order"),
        ("w4-kmeans-minmax", "minmax supports linear and symmetric; for kmeans choose mse"),
    ],
)
def test_wrong_schemes(text, word):
    with pytest.raises(UsageError, match=word):
        Scheme.parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("w4-kmeans", "Unknown cell 'w4-kmeans': write <backend>/<scheme>"),
        ("/w4-kmeans", "Unknown cell"),
        ("onnx/", "Unknown cell"),
        ("onnx/fp32@", "unknown flag '@': @native, @fp32, @fp16"),
        ("onnx/fp32@fp16@fp16", "@native at most once"),
        ("onnx/fp32@native@native", "@native at most once"),
        ("onnx/fp32@fp16@fp32", "one of @fp16 and @fp32"),
        ("onnx/fp32@fp32@native@fp16", "one of @fp16 and @fp32"),
        ("onnx/fp32@nativ", r"unknown flag '@nativ' \(did you mean 'native'\?\)"),
        ("onnx/fp32@packed", "unknown flag '@packed'"),
    ],
)
def test_wrong_cells(text, words):
    with pytest.raises(UsageError, match=words):
        Cell.parse(text)


def test_a_width_needs_a_mode():
    with pytest.raises(UsageError, match="need a mode"):
        Scheme(8)


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(UsageError, match=r"Unknown algorithm 'minmx' \(did you mean 'minmax'\?\): mse, minmax"):
        Scheme(4, Mode.LINEAR, algorithm="minmx")


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_is_refused_for_a_mode_that_it_does_not_declare(name, mode):
    if mode in ALGORITHMS[name].modes:
        assert Scheme(4, mode, algorithm=name).algorithm == name
        return
    with pytest.raises(UsageError, match=f"w4-{mode}-{name}: {name} supports .*; for {mode} choose mse"):
        Scheme.parse(f"w4-{mode}-{name}")
    assert re.fullmatch(grammar(), f"w4-{mode}-{name}") is None


def test_names_of_algorithms_fit_the_grammar():
    """Parts of a name are separated by hyphens and recognised by their words."""
    assert ALGORITHMS and DEFAULT_ALGORITHM in ALGORITHMS
    assert set(ALGORITHMS[DEFAULT_ALGORITHM].modes) == set(Mode), "the default algorithm supports every mode"
    for name, algorithm in ALGORITHMS.items():
        assert re.fullmatch("[a-z][a-z0-9]*", name) and name not in {*Mode, *Granularity, *Storage, *Compute}
        assert algorithm.modes and len(algorithm.summary) > 10


def test_the_syntax_in_words_names_every_part():
    words = re.findall(r"\w+", syntax())
    assert {*Mode, *Granularity, *ALGORITHMS} <= set(words)


def test_the_grammar_is_known_without_numpy():
    """`--help`, completion and the JSON Schema are made from it: algorithms are named, not imported."""
    code = "import sys, mobconv.schemes as s; s.grammar(); s.Scheme.parse('w4-linear-minmax'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [name for name in loaded if name in ("numpy", "numba", "torch") or name.startswith("mobconv.quantize")] == []
