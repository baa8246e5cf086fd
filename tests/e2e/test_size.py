"""Bits asked are bits stored: what the weights take in each file, against bounds from the network's shapes.

Counted is the file on disk less what the float file of the same network holds besides its weights: so
codes, scales, zero points, tables, padding and the ops that decode them, whatever they are called. The bounds
are codes at exactly n bits, parameters at the size that the format gives them, and an allowance a tensor, for
which each format has its reason below. Figures behind an allowance are what the fixture's 53 tensors take.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import read_onnx
from laboratory import demo_cells, in_fp16
from stored import used_entries

from mobconv.backends.apple.vendor import proto as coreml_proto
from mobconv.backends.coreml import mil
from mobconv.common.files import size
from mobconv.schemes import Cell, Compute, Mode, Scheme

NATIVE_TFLITE = (8, 4, 2)
CODE_BITS = range(1, 9)
PACKED = [cell for cell in demo_cells() if cell.scheme.mode]
COREML = [cell for cell in PACKED if cell.backend == "coreml"]


def counted(lab, cell):
    """Bytes that the cell's weights take in its file."""
    return of_weights(lab, cell, size)


def of_weights(lab, cell, measure: Callable):
    """What `measure` says of the cell's file, less what it says of the float file but for its weights."""
    plain = Cell(cell.backend, Scheme(32), compute=cell.compute)
    width = 2 if cell.compute is Compute.FP16 else 4  # of a weight in the float file
    return measure(lab.path(cell)) - (measure(lab.path(plain)) - width * weight_count(lab))


def weight_count(lab):
    return sum(weight.values.size for weight in lab.weights(Scheme(32)).values())


@dataclass
class Sizes:
    """Of a cell's tensors, in all: bytes of codes at n bits; numbers of groups, table entries and so on."""

    codes: int = 0  # bytes, each tensor's rounded up
    tensors: int = 0
    groups: int = 0
    zero_points: int = 0
    scales: int = 0
    entries: int = 0  # of tables
    fp16_parameters: int = 0  # bytes of scales and of the table entries in use, 4 each where fp16 cannot hold them

    @classmethod
    def of(cls, weights):
        found = cls()
        for weight in weights:
            entries = used_entries(weight.table) if weight.table is not None else 1
            found.codes += -(-weight.codes.size * weight.bits // 8)
            found.tensors += 1
            found.groups += weight.groups
            found.zero_points += weight.groups if weight.zero_point is not None else 0
            found.scales += weight.groups if weight.scale is not None else 0
            found.entries += weight.table.size if weight.table is not None else 0
            found.fp16_parameters += (2 if weight.fp16 else 4) * weight.groups * entries
        return found


def sizes(lab, cell):
    return Sizes.of(lab.weights(cell.scheme).values())


def onnx_bound(cell, each):
    """The contract's own bound: nothing of ONNX needs more than 64 bytes a tensor.

    These hold names and shapes of two tensors, a node, and a 53rd of the function (47 to 64 are used).
    """
    zero_points = -(-each.zero_points * cell.scheme.bits // 8)
    return each.codes + zero_points + each.fp16_parameters + 64 * each.tensors


# Bytes a tensor beside codes and parameters. A 1x1 convolution with decoded weights is BATCH_MATMUL and ADD,
# two ops for one; flatbuffers spend 40 bytes on a tensor, 20 on a buffer, 50 on an op.
TFLITE_NATIVE = {8: 101, 4: 140, 2: 140}  # 100 and 139: DEQUANTIZE, its output, vectors of the quantization
TFLITE_ONE_TABLE = 340  # 274 to 330: slice of the stream and its bounds, RESHAPE, GATHER
TFLITE_TABLES = 350  # 336: the same with TILE for depthwise convolutions
TFLITE_SYMMETRIC = 415  # 363 to 413: and MUL
TFLITE_LINEAR = 660  # 606 to 656: and SUB, DEQUANTIZE, and the zero points' tensor with its quantization
# Once a file: planes, and the ops that make the tables of 15-bit words. 7 and 8 bits have the most fields.
TFLITE_UNPACKING = 4500


def tflite_bound(cell, each):
    """TFLite has 32-bit floats only, and 64-bit zero points in its own quantized types."""
    bits, mode = cell.scheme.bits, cell.scheme.mode
    if mode is not Mode.KMEANS and bits in NATIVE_TFLITE:
        return each.codes + (4 + 8) * each.groups + TFLITE_NATIVE[bits] * each.tensors
    if each.entries:
        allowance = TFLITE_TABLES if mode is Mode.LINEAR else TFLITE_ONE_TABLE
    else:
        allowance = TFLITE_LINEAR if each.zero_points else TFLITE_SYMMETRIC
    words = each.codes * 16 // 15 + 1  # 15 of 16 bits carry codes
    parameters = 4 * (each.scales + each.entries) + each.zero_points
    return words + parameters + allowance * each.tensors + TFLITE_UNPACKING


def coreml_bound(cell, each):
    """Whole package. Parameters of a program have its float type by MIL's type rule; operations are spelled out.

    A MIL operation takes 150 to 300 bytes: names of its parameters, and each value with a type and shape.
    """
    width = 2 if cell.compute is Compute.FP16 else 4
    bits, mode = cell.scheme.bits, cell.scheme.mode
    zero_points, scales, entries = each.zero_points, each.scales, each.entries
    if bits == 1 and scales:  # {-scale, scale}
        scales, entries = 0, 2 * scales
    if bits == 8 and mode is Mode.SYMMETRIC:  # iOS16's operation wants a zero point a channel, 0
        zero_points = scales
    if bits in (7, 5) and not entries:  # these are floats there, fp16
        zero_points *= 2
    allowance = coreml_allowance(bits, split=bits in (7, 5), table=bool(entries), zero_points=bool(zero_points))
    return each.codes + zero_points + width * (scales + entries) + allowance * each.tensors


def coreml_allowance(bits, split, table, zero_points):
    """Bytes a tensor for operations, and for the padding of blobs (9 to 33; 114 with the second blob of a split)."""
    if split and table:
        return 1650  # 1644 at 7 bits, 1608 at 5: eight operations
    if split:
        # 7 bits: 1092, five operations of which one is a table 0 .. 63; 5 bits: 826, four; 60 for an offset
        return (1095 if bits == 7 else 830) + (60 if zero_points else 0)
    if bits in (6, 3, 2) and not table:
        # 397, 344 and 332 with zero points, else 59 less: two operations and a table 0 .. 2^n - 1
        return 2**bits + (340 if zero_points else 280)
    return 120  # 68 to 118: one operation in place of a const


def test_no_chain_of_two_mil_operations_fits_64_bytes():
    """Why Core ML's allowance is what it is: this is how short MIL can spell a chain. One-letter outputs,
    no names of operations, one shape for each value; only the types, the parameters' names, and the file name.
    """
    proto = coreml_proto().MIL_pb2
    shape, scales = (32, 16, 1, 1), (32, 1, 1, 1)

    def value(dtype, size, inline=b""):
        message = proto.Value(type=mil.value_type(dtype, size))
        if inline:
            message.immediateValue.tensor.bytes.values = inline
        else:
            message.blobFileValue.fileName = mil.WEIGHTS_NAME
            message.blobFileValue.offset = 64
        return message

    def operation(kind, output, **inputs):
        message = proto.Operation(type=kind)
        message.outputs.add(name=output, type=mil.value_type("FLOAT32", shape))
        for name, held in inputs.items():
            binding = message.inputs[name].arguments.add()
            if isinstance(held, str):
                binding.name = held
            else:
                binding.value.CopyFrom(held)
        return message

    table, zero_points, scale = bytes(range(8)), bytes(range(1, 33)), b"\1" * 4 * 32
    chain = [
        operation(
            "constexpr_lut_to_dense", "a", indices=value("UINT3", shape), lut=value("UINT8", (1,) * 4 + (8, 1), table)
        ),
        operation(
            "constexpr_blockwise_shift_scale",
            "b",
            data="a",
            scale=value("FLOAT32", scales, scale),
            offset=value("UINT8", scales, zero_points),
        ),
    ]
    constant = proto.Operation(type="const")
    constant.attributes["val"].CopyFrom(value("FLOAT32", shape))
    constant.outputs.add(name="b", type=mil.value_type("FLOAT32", shape))
    spelled = sum(op.ByteSize() for op in chain) - len(table) - len(zero_points) - len(scale) - constant.ByteSize()
    assert 4 * 64 < spelled < coreml_allowance(3, split=False, table=False, zero_points=True) - 2**3


BOUNDS = {"onnx": onnx_bound, "tflite": tflite_bound, "coreml": coreml_bound}


@pytest.mark.parametrize("cell", [*PACKED, *map(in_fp16, COREML)], ids=str)
def test_weights_take_the_bits_that_were_asked(lab, cell):
    assert counted(lab, cell) <= BOUNDS[cell.backend](cell, sizes(lab, cell))


@pytest.mark.parametrize("cell", [*COREML, *map(in_fp16, COREML)], ids=str)
def test_core_mls_weight_file_holds_codes_and_64_bytes_a_blob(lab, cell):
    """Scales and tables lie in the program; a split has two blobs a tensor, low bits and high."""
    blobs = 2 if cell.scheme.bits in (7, 5) else 1
    each = sizes(lab, cell)
    found = of_weights(lab, cell, lambda path: next(path.rglob("weight.bin")).stat().st_size)
    assert found <= each.codes + 64 * blobs * each.tensors


@pytest.mark.parametrize("cell", [cell for cell in demo_cells() if not cell.scheme.mode], ids=str)
def test_float_weights_take_their_bytes(lab, cell):
    width, tensors = cell.scheme.bits // 8, len(lab.names)
    # fp16: a Cast, DEQUANTIZE or constexpr_cast a tensor (81, 72 and 34 bytes)
    allowance = 0 if width == 4 else 82 * tensors
    claimed = lab.encoded(cell).weight_bytes
    assert width * weight_count(lab) <= claimed <= width * weight_count(lab) + allowance
    if width == 2:
        # biases are fp16 too, which is not the weights' doing: 5,000 of them
        assert counted(lab, cell) < claimed


@pytest.mark.parametrize("cell", demo_cells(), ids=str)
def test_backends_tell_the_bits_and_bytes_that_are_there(lab, cell):
    encoded = lab.encoded(cell)
    assert encoded.support.stored_bits == cell.scheme.bits
    assert encoded.support.reason == ""
    if cell.scheme.mode:
        # Core ML: an iOS18 program spells the network, not the weights, in 243 bytes less than the iOS16
        # float file does
        assert 0 <= encoded.weight_bytes - counted(lab, cell) <= (243 if cell.backend == "coreml" else 0)


@pytest.mark.parametrize("cell", [cell for cell in PACKED if cell.backend == "onnx"], ids=str)
def test_onnx_messages_add_up_to_the_bytes_that_are_told(lab, cell):
    """Counted message by message: these have names and shapes of their own, of which the float file has its
    own too, 68 bytes a weight (name, type and shape of the initializer, and the longer name in Conv)."""
    beyond = read_onnx.weight_bytes(lab.path(cell)) - lab.encoded(cell).weight_bytes
    assert 0 <= beyond <= 68 * len(lab.names)


# (asked, stored): widths that lie in the same form, so that size alone could tell them apart
WIDER = {
    "onnx/w{}-linear": [(n - 1, n) for n in CODE_BITS[1:]],
    "onnx/w{}-symmetric": [(n - 1, n) for n in CODE_BITS[1:]],
    "onnx/w{}-kmeans": [(n - 1, n) for n in CODE_BITS[1:]],
    "tflite/w{}-linear": [(2, 4), (4, 8), (3, 5), (5, 6), (6, 7)],
    "tflite/w{}-symmetric": [(2, 4), (4, 8), (1, 3), (3, 5), (5, 6), (6, 7)],
    "tflite/w{}-kmeans": [(n - 1, n) for n in CODE_BITS[1:]],
    "coreml/w{}-linear": [(4, 8), (2, 3), (3, 6), (5, 7)],
    "coreml/w{}-symmetric": [(4, 8), (2, 3), (3, 6), (5, 7)],
    "coreml/w{}-kmeans": [(1, 2), (2, 3), (3, 4), (4, 6), (6, 8), (5, 7)],
}


@pytest.mark.parametrize(
    ("form", "asked", "stored"), [(form, *pair) for form, pairs in WIDER.items() for pair in pairs]
)
def test_no_bound_lets_a_wider_file_pass(lab, form, asked, stored):
    narrow, wide = Cell.parse(form.format(asked)), Cell.parse(form.format(stored))
    assert counted(lab, wide) > BOUNDS[narrow.backend](narrow, sizes(lab, narrow))
