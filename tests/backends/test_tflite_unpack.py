"""LUT16 bit planes: literal bytes, odd lengths at every width, and the ops that undo them."""

import numpy as np
import pytest

from mobconv.backends.tflite.unpack import FIELDS, pack_planes, unpack_planes

RAMP = np.arange(15, dtype=np.uint8)


def words(plane):
    return [int(word) for word in plane]


def test_one_bit_fills_a_word_from_its_lowest_bit():
    assert [plane.tobytes() for plane in pack_planes(RAMP & 1, 1)] == [b"\xaa\x2a"]


def test_two_bits_are_a_plane_of_high_and_a_plane_of_low_bits():
    high, low = pack_planes(RAMP & 3, 2)
    assert (high.tobytes(), low.tobytes()) == (b"\xcc\x4c", b"\xaa\x2a")


def test_three_bits_are_five_to_a_word():
    # 0 1 2 3 4 | 5 6 7 0 1 | 2 3 4 5 6, the first in bits 0 .. 2
    (plane,) = pack_planes(RAMP & 7, 3)
    assert words(plane) == [0o43210, 0o10765, 0o65432]


def test_four_bits_are_three_and_one():
    high, low = pack_planes(RAMP, 4)
    assert words(high) == [0o21100, 0o44332, 0o76655]
    assert low.tobytes() == b"\xaa\x2a"


def test_five_bits_are_three_to_a_word():
    (plane,) = pack_planes(RAMP, 5)
    assert words(plane) == [first | first + 1 << 5 | first + 2 << 10 for first in (0, 3, 6, 9, 12)]


def test_six_bits_are_five_and_one():
    high, low = pack_planes(RAMP + 40, 6)
    assert words(high)[0] == 20 | 20 << 5 | 21 << 10
    assert low.tobytes() == b"\xaa\x2a"


def test_seven_bits_are_five_one_and_one():
    high, middle, low = pack_planes(RAMP + 100, 7)
    assert words(high)[0] == 25 | 25 << 5 | 25 << 10
    assert middle.tobytes() == b"\xcc\x4c"
    assert low.tobytes() == b"\xaa\x2a"


def test_eight_bits_are_five_and_three():
    high, low = pack_planes(RAMP + 240, 8)
    assert words(high) == [30 | 30 << 5 | 30 << 10] * 2 + [30 | 30 << 5 | 31 << 10] + [31 | 31 << 5 | 31 << 10] * 2
    assert words(low) == [0o43210, 0o10765, 0o65432]


@pytest.mark.parametrize("bits", FIELDS)
@pytest.mark.parametrize("count", [1, 7, 14, 15, 16, 31, 1000])
def test_any_number_of_codes_comes_back(bits, count):
    codes = np.random.default_rng(count).integers(0, 2**bits, count, dtype=np.uint8)
    planes = pack_planes(codes, bits)
    assert np.array_equal(unpack_planes(planes, bits, count), codes)
    # 16/15 of n bits, padded to 15 codes; and GATHER takes no negative position
    assert sum(plane.nbytes for plane in planes) == -(-count // 15) * 2 * bits
    assert min(int(plane.min()) for plane in planes) >= 0


@pytest.mark.parametrize(("codes", "bits"), [([2], 1), ([8], 3), ([1], 0), ([1], 9)])
def test_codes_and_widths_that_do_not_fit_are_refused(codes, bits):
    with pytest.raises(ValueError, match=r"fit|bits"):
        pack_planes(np.array(codes, np.uint8), bits)
