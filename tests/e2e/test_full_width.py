"""The full-width network, every cell of recipes/thesis.yaml: same weights, nothing lost, files as small as promised.

A few cells that differ from the small network's in kind are in the fast suite: its filters wider than 1x1 are 3 %
of its weights, few enough for TFLite to keep them as constants. The others are slow.
"""

from dataclasses import replace

import numpy as np
import pytest
import read_mlmodel
from laboratory import ROOT, Laboratory
from stored import differences
from test_conversion import assert_nothing_lost
from test_neuralnetwork import snapped
from test_weights import READERS, as_held

from mobconv import backends, recipe
from mobconv.common.files import size
from mobconv.quantize import FloatWeight
from mobconv.schemes import Cell, Compute, Granularity, Mode, Storage

RECIPE = ROOT / "recipes" / "thesis.yaml"
FAST = ("tflite/w3-kmeans", "tflite/w5-linear", "tflite/w4-symmetric", "onnx/w3-linear")
SUPPORTED = [
    cell
    for cell in recipe.load(RECIPE, backends.formats()).cells()
    if backends.get(cell.backend).support(cell).stored_bits is not None
]
CELLS = [pytest.param(c, id=str(c), marks=[] if str(c) in FAST else pytest.mark.slow) for c in SUPPORTED]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return Laboratory(tmp_path_factory.mktemp("full-width"), RECIPE)


def is_constant(cell, weight):
    """Whether TFLite holds it in a type that XNNPACK reads: a packed filter wider than 1x1, but INT8 is one already."""
    own = cell.scheme.mode is not Mode.KMEANS and cell.scheme.bits == 8
    packed = cell.storage is Storage.PACKED and cell.scheme.mode is not None and not own
    return cell.backend == "tflite" and packed and len(weight.shape) == 4 and weight.shape[2:] != (1, 1)


def held_as(cell, weight):
    if is_constant(cell, weight):
        if weight.table is None:
            return weight, 8
        return FloatWeight(weight.name, weight.dequantize(), 16 if weight.fp16 else 32), None
    return as_held(weight, cell)


@pytest.mark.parametrize("cell", CELLS)
def test_a_file_holds_the_quantizers_weights(wide, cell):
    held = {**READERS, "coreml-mlmodel": read_mlmodel.read}[cell.backend](wide.path(cell))
    weights = wide.weights(cell.scheme)
    assert len(held) == len(weights) == 53
    for stored, (name, weight) in zip(held, weights.items(), strict=True):
        expected, bits = held_as(cell, weight)
        if cell.backend == "coreml-mlmodel":
            bits = None  # every width is native there
            if stored.table is not None and stored.table.shape[0] > 1 and not weight.fp16:
                stored.table = snapped(stored.table, weight.table)
        wrong = differences(stored, expected, "used" if cell.backend == "onnx" else "all", bits)
        assert wrong == [], name


@pytest.mark.parametrize("cell", CELLS)
def test_conversion_loses_nothing(wide, cell):
    assert_nothing_lost(wide.outputs(cell), wide.expected(cell.scheme))


def test_the_row_says_which_weights_are_wider(wide):
    cell = Cell.parse("tflite/w4-symmetric")
    weights = wide.weights(cell.scheme)
    few = sum(weight.codes.size for weight in weights.values() if is_constant(cell, weight))
    note = wide.encoded(cell).support.note
    assert note.startswith(f"{few:,} of {sum(weight.codes.size for weight in weights.values()):,} weights")
    assert 0 < few <= 0.05 * sum(weight.codes.size for weight in weights.values())


WIDTHS = (8, 6, 4, 3, 2, 1)
TABLES = dict(zip(WIDTHS, (1.12, 1.16, 1.20, 1.26, 1.35, 1.8), strict=True))
SCALES = dict(zip(WIDTHS, (1.12, 1.18, 1.25, 1.32, 1.45, 1.85), strict=True))
TFLITE_TABLES = dict(zip(WIDTHS, (1.20, 1.25, 1.30, 1.38, 1.50, 2.1), strict=True))
# Two values a channel take 8 bytes where a program computes in fp32, and its tables must be fp32: half a bit a weight.
# In fp16, Core ML's own default, this one is within the limit.
OVER = {"coreml/w1-linear": 1.97}


def limit(cell):
    """Whole file over n/8 bytes a quantized weight, as promised."""
    bits, mode = cell.scheme.bits, cell.scheme.mode
    if cell.name in OVER:
        return OVER[cell.name]
    if cell.backend == "tflite":
        return TFLITE_TABLES[bits] if mode is Mode.KMEANS else tflite_limit(bits, mode)
    return (TABLES if mode is Mode.KMEANS else SCALES)[bits]


def tflite_limit(bits, mode):
    """As docs/formats.md derives it, for this network's 53 tensors, 17,066 channels and 2,202,560 weights."""
    ideal = 2_202_560 * bits / 8
    native = bits in (8, 4, 2)
    wide = 65_088 if bits < 8 else 0  # codes in INT8, and 12 bytes for each of their 7,136 + 32 channels
    codes = (2_202_560 - wide) * bits / 8 * (1 if native else 16 / 15) + wide
    channels = 17_066 * 12 if native else (7_168 * 12 + 9_898 * 5)
    if bits == 1 and mode is Mode.LINEAR:  # two values a channel; the wide ones are FLOAT16
        codes, channels = codes + wide, 9_898 * 8
    ops = 53 * (140 if native else 660) + (0 if native else 4_500)
    rest = 17_066 * 4 + 20_000  # biases, and the graph
    return (codes + channels + ops + rest) / ideal


SIZED = [c for c in SUPPORTED if c.scheme.mode and c.scheme.bits in WIDTHS and c.storage is Storage.PACKED]
SIZED = [c for c in SIZED if c.scheme.granularity is not Granularity.OC16]
SIZED += [replace(c, compute=Compute.FP16) for c in SIZED if c.backend == "coreml"]


@pytest.mark.parametrize(
    "cell", [pytest.param(c, id=str(c), marks=[] if str(c) in FAST else pytest.mark.slow) for c in SIZED]
)
def test_files_are_as_small_as_promised(wide, cell):
    count = sum(weight.codes.size for weight in wide.weights(cell.scheme).values())
    assert count == 2_202_560
    assert size(wide.path(cell)) <= limit(cell) * count * cell.scheme.bits / 8


def test_what_the_tflite_limit_is_derived_from(wide):
    floats = wide.program.floats()
    channels = [len(floats[name]) for name in wide.names]
    filters = [name for name in wide.names if floats[name].ndim == 4 and floats[name].shape[2:] != (1, 1)]
    assert (len(channels), sum(channels)) == (53, 17_066)
    assert sum(floats[name].size for name in filters) == 65_088
    assert sum(len(floats[name]) for name in filters) == 7_168
    assert sum(int(np.prod(site.shape)) for site in wide.program.sites.values()) == 2_202_560
