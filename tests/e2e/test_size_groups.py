"""Sizes of oc16 and native files, against bounds from shapes as in test_size: parameters as often as the format has
them, codes at n bits, or under storage native at the bits that the backend says."""

from dataclasses import replace

import pytest
from laboratory import native_cells, oc16_cells, some
from test_repeated import in_the_file
from test_size import (
    TFLITE_LINEAR,
    TFLITE_NATIVE,
    TFLITE_ONE_TABLE,
    TFLITE_SYMMETRIC,
    TFLITE_UNPACKING,
    Sizes,
    coreml_bound,
    counted,
    onnx_bound,
)

from mobconv import backends
from mobconv.schemes import Cell, Mode, Storage

CELLS = [*oc16_cells(), *native_cells()]

# Once a file: the lines that repeat parameters for 16 channels, in a function beside the one for tensors of a single
# group. Up to 1,570 bytes are used beyond the 64 a tensor.
ONNX_REPEATING = 1700
# DequantizeLinear names two or three constants, each with a type and a shape: 43 and 62 bytes are used.
ONNX_NATIVE = {Mode.SYMMETRIC: 45, Mode.LINEAR: 64}
TFLITE_HALF = 73  # 72.5: DEQUANTIZE, its output, the constant's type
# A tensor of several groups: a GATHER more, and what comes out of it. (The zero points' GATHER takes the place of the
# DEQUANTIZE that they have per channel.)
TFLITE_GATHER = 130
# Once a file: positions 0 .. 0 1 .. 1 for each number of channels and each rank, four ops at most
TFLITE_POSITIONS = 2700


def bound(lab, cell):
    """Bytes that the cell's weights may take."""
    weights = list(lab.weights(cell.scheme).values())
    bits = backends.get(cell.backend).support(cell).stored_bits
    return {"onnx": of_onnx, "tflite": of_tflite, "coreml": of_coreml}[cell.backend](cell, weights, bits)


def of_onnx(cell, weights, bits):
    if cell.storage is not Storage.NATIVE:
        return onnx_bound(cell, Sizes.of(weights)) + ONNX_REPEATING
    rows = sum(in_the_file(cell, weight) for weight in weights)
    codes = sum(-(-weight.codes.size * bits // 8) for weight in weights)
    zero_points = sum(-(-in_the_file(cell, w) * bits // 8) for w in weights) if cell.scheme.mode is Mode.LINEAR else 0
    return codes + 4 * rows + zero_points + ONNX_NATIVE[cell.scheme.mode] * len(weights)


def of_tflite(cell, weights, bits):
    if bits == 16:  # values in place of codes: fp16 with DEQUANTIZE, or fp32 where the table needs it
        return sum((2 if weight.fp16 else 4) * weight.codes.size + TFLITE_HALF for weight in weights)
    rows = sum(in_the_file(cell, weight) for weight in weights)
    if cell.storage is Storage.NATIVE or (cell.scheme.mode is not Mode.KMEANS and bits in TFLITE_NATIVE):
        codes = sum(-(-weight.codes.size * bits // 8) for weight in weights)
        return codes + 12 * rows + TFLITE_NATIVE[bits] * len(weights)
    each = Sizes.of(weights)
    allowance = TFLITE_ONE_TABLE if each.entries else TFLITE_LINEAR if each.zero_points else TFLITE_SYMMETRIC
    gathers = sum(weight.groups > 1 for weight in weights)
    parameters = 4 * (each.scales + each.entries + each.zero_points)  # zero points are fp32 where they are gathered
    return (
        each.codes * 16 // 15
        + 1
        + parameters
        + allowance * each.tensors
        + TFLITE_GATHER * gathers
        + TFLITE_UNPACKING
        + TFLITE_POSITIONS
    )


def of_coreml(cell, weights, bits):
    """As the packed file of the width that is stored, with the groups that are in it."""
    held = [weight.widened(bits) for weight in weights]
    sizes = Sizes.of(held)
    more = sum(in_the_file(cell, weight) for weight in weights) / sum(weight.groups for weight in weights)
    for part in ("zero_points", "scales", "entries"):
        setattr(sizes, part, round(more * getattr(sizes, part)))
    return coreml_bound(replace(cell, scheme=replace(cell.scheme, bits=bits)), sizes)


@pytest.mark.parametrize("cell", some(CELLS))
def test_groups_and_native_codes_take_what_the_format_asks(lab, cell):
    assert counted(lab, cell) <= bound(lab, cell)


@pytest.mark.parametrize("cell", some(CELLS))
def test_backends_tell_the_bits_and_bytes_that_are_there(lab, cell):
    encoded = lab.encoded(cell)
    assert encoded.support == replace(
        backends.get(cell.backend).support(cell), requires=encoded.support.requires, note=encoded.support.note
    )
    wider = encoded.support.stored_bits != cell.scheme.bits
    assert wider == bool(encoded.support.reason) and (cell.storage is Storage.NATIVE or not wider)
    # Core ML: an iOS18 program spells the network, not the weights, in 243 bytes less than the iOS16 file does
    assert 0 <= encoded.weight_bytes - counted(lab, cell) <= (243 if cell.backend == "coreml" else 0)


# (cell, one of the same form with wider codes)
WIDER = [
    *((f"onnx/w{n - 1}-{mode}-oc16", f"onnx/w{n}-{mode}-oc16") for mode in Mode for n in (2, 4, 6, 8)),
    *((f"tflite/w{a}-{mode}-oc16", f"tflite/w{b}-{mode}-oc16") for mode in Mode for a, b in ((3, 5), (5, 6), (6, 7))),
    *((f"tflite/w{a}-{mode}-oc16", f"tflite/w{b}-{mode}-oc16") for mode in list(Mode)[:2] for a, b in ((2, 4), (4, 8))),
    *((f"coreml/w{a}-{mode}-oc16", f"coreml/w{b}-{mode}-oc16") for mode in Mode for a, b in ((4, 8), (2, 3), (3, 6))),
    *((f"{b}/w4-{mode}@native", f"{b}/w5-{mode}@native") for b in ("onnx", "coreml") for mode in list(Mode)[:2]),
    ("tflite/w8-linear@native", "tflite/w1-linear@native"),
    ("coreml/w5-kmeans@native", "coreml/w7-kmeans@native"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("narrow", "wide"), WIDER)
def test_no_bound_lets_a_wider_file_pass(lab, narrow, wide):
    assert counted(lab, Cell.parse(wide)) > bound(lab, Cell.parse(narrow))


@pytest.mark.parametrize("backend", ["onnx", "coreml"])
@pytest.mark.parametrize("mode", ["linear", "symmetric"])
def test_groups_of_16_channels_are_smaller_than_one_for_each(lab, backend, mode):
    """What they are for. (TFLite's own types repeat parameters, so that its INT8 files save a percent.)"""
    grouped, each = (counted(lab, Cell.parse(f"{backend}/w4-{mode}{kind}")) for kind in ("-oc16", ""))
    codes = Sizes.of(lab.weights(Cell.parse(f"onnx/w4-{mode}").scheme).values()).codes
    assert grouped - codes < 0.7 * (each - codes)
