"""Where a format repeats parameters: how often they lie in a file, and that a repetition gone wrong is noticed.

ONNX and TFLite hold one scale or table a group of 16 channels and repeat them by ops; Core ML's groups are all of
one size, the largest that divides both 16 and the channels. The runtimes' own integer types know channels only.
"""

import math
import shutil

import numpy as np
import pytest
from laboratory import THREE, oc16_cells, some
from stored import Stored, UnlikeError, differences, grouped, narrowed
from test_weights import BLOBS, FILES, READERS, compare

from mobconv import backends
from mobconv.schemes import Cell, Mode, Storage

CHANNELS = "features.20.weight"  # 320 channels in 20 groups
UNEVEN = "features.14.layers.6.weight"  # 24 channels: groups of 16 and 8


def in_the_file(cell, weight):
    """How many scales or tables a file shall have for a weight."""
    channels = weight.shape[0]
    if weight.axis is None:
        return 1
    if cell.backend == "coreml":
        return channels // math.gcd(weight.together, channels)
    one_type = cell.scheme.mode is not Mode.KMEANS and cell.scheme.bits in (8, 4, 2)
    if cell.storage is Storage.NATIVE or (cell.backend == "tflite" and one_type):
        return channels
    return -(-channels // weight.together)


NATIVE_OC16 = [Cell.parse(f"{backend}/w4-linear-oc16@native") for backend in THREE]


@pytest.mark.parametrize("cell", [*some(oc16_cells()), *NATIVE_OC16], ids=str)
def test_parameters_lie_in_the_file_as_often_as_the_format_asks(lab, cell):
    weights = lab.weights(cell.scheme)
    for stored, (name, weight) in zip(READERS[cell.backend](lab.path(cell)), weights.items(), strict=True):
        parameters = stored.scales if stored.table is None else stored.table
        assert len(parameters) == in_the_file(cell, weight), name
        assert (stored.rows is None) == (len(parameters) == 1)


def test_the_network_has_groups_of_every_kind(lab):
    """Fewer than 16 channels, whole groups, and a shorter one at the end."""
    weights = lab.weights(Cell.parse("onnx/w4-linear-oc16").scheme)
    channels = {weight.shape[0] for weight in weights.values()}
    assert any(count <= 16 for count in channels) and any(count > 16 and count % 16 == 0 for count in channels)
    assert any(count > 16 and count % 16 for count in channels)
    assert weights[UNEVEN].shape[0] == 24 and weights[CHANNELS].groups == 20


# Each has the scales of channels (Core ML: of 8 channels) one behind the other, as float32.
REPEATED = ["onnx/w8-linear-oc16@native", "tflite/w8-linear-oc16", "coreml/w8-linear-oc16"]


@pytest.mark.parametrize("text", REPEATED)
def test_one_repetition_that_differs_is_noticed(lab, text, tmp_path):
    cell = Cell.parse(text)
    scales = lab.weights(cell.scheme)[UNEVEN].scale
    needle = np.repeat(scales, 2 if cell.backend == "coreml" else 16)[: 24 // (8 if cell.backend == "coreml" else 1)]
    copy = tmp_path / lab.path(cell).name
    shutil.copytree(lab.path(cell), copy) if cell.backend == "coreml" else shutil.copy(lab.path(cell), copy)
    target = copy / FILES[cell.backend] if FILES[cell.backend] else copy
    data = bytearray(target.read_bytes())
    assert data.count(needle.tobytes()) == 1
    data[data.index(needle.tobytes()) + 4] ^= 1  # the second channel's, or the second eight channels'
    target.write_bytes(data)
    count = 8 if cell.backend == "coreml" else 1
    assert compare(lab, cell, copy) == {UNEVEN: [f"scales: {count} differ within groups of 16 channels"]}


@pytest.mark.parametrize("text", ["onnx/w3-linear@native", "coreml/w5-linear@native", "tflite/w3-symmetric@native"])
def test_a_flipped_bit_above_the_codes_is_noticed(lab, text, tmp_path):
    """Native codes have room above: what is written there is no code of n bits."""
    cell = Cell.parse(text)
    bits = backends.get(cell.backend).support(cell).stored_bits
    weight = lab.weights(cell.scheme)[CHANNELS].widened(bits)
    flipped = np.uint8(2 ** (bits - 1) if cell.backend == "tflite" else 0)
    codes = (weight.codes ^ flipped).reshape(-1)[1000:1128]
    if bits == 4:
        codes = codes[::2] | codes[1::2] << 4
    copy = tmp_path / lab.path(cell).name
    shutil.copytree(lab.path(cell), copy) if cell.backend == "coreml" else shutil.copy(lab.path(cell), copy)
    target = copy / BLOBS if cell.backend == "coreml" else copy
    data = bytearray(target.read_bytes())
    assert data.count(codes.tobytes()) == 1
    data[data.index(codes.tobytes())] ^= 1 << (bits - 1)
    target.write_bytes(data)
    assert compare(lab, cell, copy) == {CHANNELS: [f"codes: some do not fit in {cell.scheme.bits} bits"]}


def stored(**parts):
    held = {"codes": np.zeros((20, 1), np.uint8), "scales": np.array([1, 2], np.float32)}
    return Stored(4, **(held | parts))


def test_parameters_are_collapsed_by_hand():
    found = grouped(stored(rows=np.arange(20) // 16), 16)
    assert found.scales.tolist() == [1, 2] and found.rows is None
    each = np.array([1.0] * 16 + [2.0] * 4, np.float32)
    assert grouped(stored(scales=each, rows=np.arange(20)), 16).scales.tolist() == [1, 2]
    tables = np.array([[1, 2], [1, 2], [3, 4], [3, 4], [5, 6]], np.float32)
    assert grouped(stored(scales=None, table=tables, rows=np.arange(20) // 4), 8).table.tolist() == [
        [1, 2],
        [3, 4],
        [5, 6],
    ]


@pytest.mark.parametrize("channel", [1, 15, 17, 19])
def test_any_channel_that_differs_is_noticed(channel):
    each = np.array([1.0] * 16 + [2.0] * 4, np.float32)
    each[channel] = np.nextafter(each[channel], np.float32(9))
    with pytest.raises(UnlikeError, match="scales: 1 differ within groups of 16 channels"):
        grouped(stored(scales=each, rows=np.arange(20)), 16)


def test_a_sign_of_zero_is_a_difference():
    each = np.zeros(20, np.float32)
    each[3] = -0.0
    with pytest.raises(UnlikeError, match="differ within groups"):
        grouped(stored(scales=each, rows=np.arange(20)), 16)


def test_groups_that_begin_elsewhere_are_noticed():
    with pytest.raises(UnlikeError, match="4 differ within groups of 16"):
        grouped(stored(rows=np.arange(20) // 12), 16)


def test_codes_are_narrowed_by_hand():
    codes = np.array([1, 2, 7], np.uint8)
    signed = Stored(8, codes=codes - 4 + 128, scales=np.ones(1, np.float32))
    assert narrowed(signed, 3).codes.tolist() == [1, 2, 7]
    pair = Stored(4, codes=np.array([7, 9], np.uint8), scales=np.ones(1, np.float32))
    assert narrowed(pair, 1).codes.tolist() == [0, 1]
    zero_points = Stored(8, codes=codes, scales=np.ones(1, np.float32), zero_points=np.array([5], np.uint8))
    assert narrowed(zero_points, 3).codes.tolist() == [1, 2, 7]
    table = np.array([[1, 2, 3, 4, 4, 4, 4, 4]], np.float32)
    assert narrowed(Stored(3, codes=codes % 4, table=table), 2).table.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (Stored(8, codes=np.array([123], np.uint8), scales=np.ones(1)), "do not fit in 3 bits"),
        (Stored(8, codes=np.array([132], np.uint8), scales=np.ones(1)), "do not fit in 3 bits"),
        (Stored(8, codes=np.array([8], np.uint8), scales=np.ones(1), zero_points=np.array([1])), "do not fit"),
        (Stored(8, codes=np.array([7], np.uint8), scales=np.ones(1), zero_points=np.array([8])), "do not fit"),
        (Stored(4, codes=np.array([8], np.uint8), table=np.ones((1, 16), np.float32)), "do not fit"),
        (Stored(4, codes=np.array([7], np.uint8), table=np.arange(16, dtype=np.float32)[None]), "padding"),
    ],
)
def test_what_is_not_of_n_bits_is_noticed(held, message):
    with pytest.raises(UnlikeError, match=message):
        narrowed(held, 3)


def test_a_factor_of_one_bit_is_one():
    with pytest.raises(UnlikeError, match="-1 and 1"):
        narrowed(Stored(4, codes=np.array([8], np.uint8), scales=np.ones(1)), 1)


def test_another_width_than_the_backend_says_is_noticed(lab):
    """Native files that hold eight bits where four are said, and the other way round."""
    for text, said in (("onnx/w4-linear@native", 8), ("onnx/w5-linear@native", 4)):
        cell = Cell.parse(text)
        weights = lab.weights(cell.scheme)
        held = READERS["onnx"](lab.path(cell))
        assert [
            differences(each, weight, "all", said) for each, weight in zip(held, weights.values(), strict=True)
        ] == [[f"{12 - said} bits in place of {said}"]] * len(held)
