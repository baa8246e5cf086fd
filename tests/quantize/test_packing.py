"""The bit stream against bytes written by hand, and both ways at every width."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobconv.quantize.packing import pack, packed_size, unpack

# (bits, codes, bytes): drawn as in the table of packing.py, least significant bit first
LITERAL = [
    (1, [1], "00000001"),
    (1, [1, 0, 1, 1, 0, 0, 0, 0, 1], "00001101 00000001"),
    (2, [1, 2, 3], "00111001"),
    (2, [3, 0, 0, 1, 2], "01000011 00000010"),
    (3, [1, 2, 3], "11010001 00000000"),
    (3, [7, 0, 7, 0, 7, 0, 7, 0], "11000111 01110001 00011100"),
    (4, [1, 15, 2], "11110001 00000010"),
    (5, [1, 2, 31], "01000001 01111100"),
    (6, [1, 2, 3, 63], "10000001 00110000 11111100"),
    (7, [1, 127, 3], "10000001 11111111 00000000"),
    (7, [127], "01111111"),
    (8, [0, 255, 7], "00000000 11111111 00000111"),
]


@pytest.mark.parametrize(("bits", "codes", "stream"), LITERAL)
def test_literal_bytes(bits, codes, stream):
    expected = np.array([int(byte, 2) for byte in stream.split()], np.uint8)
    array = np.array(codes, np.uint8)
    assert pack(array, bits).tolist() == expected.tolist()
    assert unpack(expected, bits, len(codes)).tolist() == codes


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 7, 8, 9, 13, 64, 101])
def test_as_one_large_number(bits, count):
    """The stream, read as one little-endian integer, is the sum of code * 2^(i bits)."""
    codes = np.random.default_rng(count).integers(0, 2**bits, count).astype(np.uint8)
    packed = pack(codes, bits)
    number = sum(int(code) << (i * bits) for i, code in enumerate(codes))
    assert packed.tobytes() == number.to_bytes(packed_size(count, bits), "little")
    assert len(packed) == -(-count * bits // 8)


@given(st.integers(1, 8).flatmap(lambda b: st.tuples(st.just(b), st.lists(st.integers(0, 2**b - 1), max_size=70))))
def test_round_trip(case):
    bits, codes = case
    packed = pack(np.array(codes, np.uint8), bits)
    assert unpack(packed, bits, len(codes)).tolist() == codes
    # bytes that follow, such as padding of a file, change nothing
    assert unpack(np.append(packed, np.uint8(255)), bits, len(codes)).tolist() == codes


def test_any_shape_in_c_order():
    codes = np.arange(8, dtype=np.uint8).reshape(2, 4)
    assert np.array_equal(pack(codes.T, 3), pack(np.ascontiguousarray(codes.T).reshape(-1), 3))


@pytest.mark.parametrize("bits", range(1, 8))
def test_a_code_that_does_not_fit(bits):
    with pytest.raises(ValueError, match=f"code {2**bits} does not fit in {bits} bits"):
        pack(np.array([0, 2**bits], np.uint8), bits)


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_short_stream(bits):
    packed = pack(np.zeros(17, np.uint8), bits)
    with pytest.raises(ValueError, match=f"17 codes of {bits} bits need {len(packed)} bytes"):
        unpack(packed[:-1], bits, 17)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_no_such_width(bits):
    with pytest.raises(ValueError, match="1 to 8"):
        pack(np.zeros(1, np.uint8), bits)
    with pytest.raises(ValueError, match="1 to 8"):
        unpack(np.zeros(9, np.uint8), bits, 1)
