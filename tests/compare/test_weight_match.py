"""Weights are matched by content, through layouts, one bit, wrong channels and factors; other networks are refused."""

from pathlib import Path

import numpy as np
import pytest

from mobconv.backends.graph_view import Op
from mobconv.compare.program_view import ProgramView
from mobconv.compare.weight_match import match_weights
from mobconv.errors import InputError
from mobconv.pipeline.quantized import quantize_model
from mobconv.schemes import Scheme

PATH = Path("net.onnx")


@pytest.fixture(scope="module")
def program_view(program):
    return ProgramView(program)


def of_file(program_view, weights, family="conv"):
    """Operations, one a use, and their weights under the names w0, w1 ..."""
    ops = [Op("", "Conv", ("x", f"w{use.index}"), ("y",), "x", f"w{use.index}", family) for use in program_view.uses]
    return ops, {f"w{use.index}": weights[use.site.name] for use in program_view.uses}


def tflite(name, value):
    """OHWI, 1HWO, or [O, I] of a matrix product."""
    if value.ndim == 2:
        return value
    if value.shape[1] == 1:
        return value.transpose(1, 2, 3, 0)
    return value.transpose(0, 2, 3, 1).reshape(len(value), -1) if value.shape[2] == 1 else value.transpose(0, 2, 3, 1)


def scaled(name, value):
    """As a file has it that does not fold batch norm: a factor of either sign for each channel."""
    factors = np.random.default_rng(len(name)).normal(size=len(value)).astype(np.float32)
    return value * factors.reshape(-1, *[1] * (value.ndim - 1))


def one_wrong_channel(name, value):
    wrong = value.copy()
    wrong[1] *= 1.5
    return wrong


LAYOUTS = {
    "as they are": lambda name, value: value,
    "tflite": tflite,
    "transposed": lambda name, value: value.T if value.ndim == 2 else value,
    "factors": scaled,
    "one wrong channel": one_wrong_channel,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scheme", ["fp32", "w4-kmeans", "w1-symmetric", "w1-linear", "w1-kmeans", "w1-kmeans-channel"])
def test_every_weight_is_found_in_its_place(program, program_view, scheme, layout):
    weights = {name: w.dequantize() for name, w in quantize_model(program, Scheme.parse(scheme)).weights.items()}
    ops, in_file = of_file(program_view, {name: LAYOUTS[layout](name, value) for name, value in weights.items()})
    matches = match_weights(ops, in_file, program_view.uses, program.floats(), PATH)
    assert [(pair.op.weight, pair.use.index) for pair in matches.pairs] == [(f"w{i}", i) for i in range(53)]
    assert matches.ops == matches.uses == ()
    if layout not in {"factors", "one wrong channel"}:
        for pair in matches.pairs:
            assert np.array_equal(pair.weight, weights[pair.use.site.name]), pair.use.name


def test_order_plays_no_part_where_weights_differ(program, program_view):
    ops, in_file = of_file(program_view, program.floats())
    matches = match_weights(ops[::-1], in_file, program_view.uses, program.floats(), PATH)
    assert all(pair.op.weight == f"w{pair.use.index}" and pair.by == "content" for pair in matches.pairs)


def test_a_weight_that_is_noise_is_matched_by_its_place_and_extra_ones_are_named(program, program_view):
    weights = program.floats()
    use = program_view.uses[20]
    weights[use.site.name] = np.random.default_rng(0).normal(size=use.site.shape).astype(np.float32)
    ops, in_file = of_file(program_view, weights)
    matches = match_weights(ops, in_file, program_view.uses, program.floats(), PATH)
    assert [pair.use.index for pair in matches.pairs if pair.by == "place"] == [20]
    extra = Op("extra", "Conv", ("x", "more"), ("y",), "x", "more", "conv")
    in_file["more"] = np.ones((7, 5), np.float32)
    matches = match_weights([*ops[:5], extra, *ops[5:]], in_file, program_view.uses, program.floats(), PATH)
    assert matches.ops == (extra,) and len(matches.pairs) == 53


def test_what_is_left_out_of_the_file_is_named(program, program_view):
    ops, in_file = of_file(program_view, program.floats())
    matches = match_weights([*ops[:7], *ops[8:]], in_file, program_view.uses, program.floats(), PATH)
    assert [use.name for use in matches.uses] == [program_view.uses[7].name]


def test_equal_weights_are_matched_by_order(program, program_view):
    constant = {name: np.ones_like(value) for name, value in program.floats().items()}
    ops, in_file = of_file(program_view, constant)
    matches = match_weights(ops, in_file, program_view.uses, constant, PATH)
    assert [pair.op.weight for pair in matches.pairs] == [f"w{i}" for i in range(53)]


def test_another_training_is_refused(program, program_view):
    rng = np.random.default_rng(0)
    others = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in program.floats().items()}
    ops, in_file = of_file(program_view, others)
    with pytest.raises(InputError, match=r"net\.onnx.*another network.*Give the checkpoint"):
        match_weights(ops, in_file, program_view.uses, program.floats(), PATH)
