"""Weights are told by content, through layouts, one bit, wrong channels and factors; other networks are refused."""

from pathlib import Path

import numpy as np
import pytest

from mobconv.backends.graph_view import Op
from mobconv.compare.match import match
from mobconv.compare.traced import Reference
from mobconv.errors import InputError
from mobconv.pipeline.network import quantize_all
from mobconv.schemes import Scheme

PATH = Path("net.onnx")


@pytest.fixture(scope="module")
def reference(program):
    return Reference(program)


def of_file(reference, weights, family="conv"):
    """Operations, one a use, and their weights under the names w0, w1 ..."""
    ops = [Op("", "Conv", ("x", f"w{use.index}"), ("y",), "x", f"w{use.index}", family) for use in reference.uses]
    return ops, {f"w{use.index}": weights[use.site.name] for use in reference.uses}


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
    held = value.copy()
    held[1] *= 1.5
    return held


LAYOUTS = {
    "as they are": lambda name, value: value,
    "tflite": tflite,
    "transposed": lambda name, value: value.T if value.ndim == 2 else value,
    "factors": scaled,
    "one wrong channel": one_wrong_channel,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scheme", ["fp32", "w4-kmeans", "w1-symmetric", "w1-linear", "w1-kmeans", "w1-kmeans-channel"])
def test_every_weight_is_found_in_its_place(program, reference, scheme, layout):
    weights = {name: w.dequantize() for name, w in quantize_all(program, Scheme.parse(scheme)).items()}
    ops, held = of_file(reference, {name: LAYOUTS[layout](name, value) for name, value in weights.items()})
    found = match(ops, held, reference.uses, program.floats(), PATH)
    assert [(pair.op.weight, pair.use.index) for pair in found.pairs] == [(f"w{i}", i) for i in range(53)]
    assert found.ops == found.uses == ()
    if layout not in {"factors", "one wrong channel"}:
        for pair in found.pairs:
            assert np.array_equal(pair.weight, weights[pair.use.site.name]), pair.use.name


def test_order_plays_no_part_where_weights_differ(program, reference):
    ops, held = of_file(reference, program.floats())
    found = match(ops[::-1], held, reference.uses, program.floats(), PATH)
    assert all(pair.op.weight == f"w{pair.use.index}" and pair.by == "content" for pair in found.pairs)


def test_a_weight_that_is_noise_is_told_by_its_place_and_extra_ones_are_named(program, reference):
    weights = program.floats()
    use = reference.uses[20]
    weights[use.site.name] = np.random.default_rng(0).normal(size=use.site.shape).astype(np.float32)
    ops, held = of_file(reference, weights)
    found = match(ops, held, reference.uses, program.floats(), PATH)
    assert [pair.use.index for pair in found.pairs if pair.by == "place"] == [20]
    extra = Op("extra", "Conv", ("x", "more"), ("y",), "x", "more", "conv")
    held["more"] = np.ones((7, 5), np.float32)
    found = match([*ops[:5], extra, *ops[5:]], held, reference.uses, program.floats(), PATH)
    assert found.ops == (extra,) and len(found.pairs) == 53


def test_what_is_left_out_of_the_file_is_named(program, reference):
    ops, held = of_file(reference, program.floats())
    found = match([*ops[:7], *ops[8:]], held, reference.uses, program.floats(), PATH)
    assert [use.name for use in found.uses] == [reference.uses[7].name]


def test_equal_weights_are_told_by_order(program, reference):
    constant = {name: np.ones_like(value) for name, value in program.floats().items()}
    ops, held = of_file(reference, constant)
    found = match(ops, held, reference.uses, constant, PATH)
    assert [pair.op.weight for pair in found.pairs] == [f"w{i}" for i in range(53)]


def test_another_training_is_refused(program, reference):
    rng = np.random.default_rng(0)
    others = {name: rng.normal(size=value.shape).astype(np.float32) for name, value in program.floats().items()}
    ops, held = of_file(reference, others)
    with pytest.raises(InputError, match=r"net\.onnx.*another network.*Give the checkpoint"):
        match(ops, held, reference.uses, program.floats(), PATH)
