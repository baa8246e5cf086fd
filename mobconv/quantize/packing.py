"""n-bit codes as a little-endian bit stream, n = 1 .. 8.

Code i takes bits i*n .. i*n + n - 1 of the stream; bit b of the stream is bit b % 8 (least significant
first) of byte b // 8. For n = 3:

    byte      |       0       |       1       |       2       |
    bit       |0 1 2 3 4 5 6 7|0 1 2 3 4 5 6 7|0 1 2 3 4 5 6 7|
    code      |  0  |  1  |  2  |  3  |  4  |  5  |  6  |  7  |

Unused bits of the last byte are zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def packed_size(count: int, bits: int) -> int:
    """Size in bytes of `count` codes of `bits` bits."""
    return (count * bits + 7) // 8


def pack(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack codes of any shape, in C order, into (packed_size,) uint8. Raises ValueError for a code >= 2^bits."""
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be 1 to 8, not {bits}")
    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1)
    if bits < 8 and flat.size and int(flat.max()) >> bits:
        raise ValueError(f"code {int(flat.max())} does not fit in {bits} bits")
    padded = np.zeros(-(-flat.size // 8) * 8, np.uint8)
    padded[: flat.size] = flat
    words = padded.view("<u8")  # eight codes, one a byte; each step packs twice as many side by side
    for width in (8, 16, 32):
        used = width * bits // 8
        mask = sum(((1 << used) - 1) << first for first in range(0, 64, 2 * width))
        words = words & np.uint64(mask) | words >> np.uint64(width - used) & np.uint64(mask << used)
    stream = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :bits]
    return np.ascontiguousarray(stream).reshape(-1)[: packed_size(flat.size, bits)]


def unpack(stream: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """Unpack (>= packed_size,) uint8 into codes (count,) uint8. Raises ValueError for a stream that is too short."""
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be 1 to 8, not {bits}")
    if stream.size < packed_size(count, bits):
        raise ValueError(f"{count} codes of {bits} bits need {packed_size(count, bits)} bytes, got {stream.size}")
    lanes = np.unpackbits(np.ascontiguousarray(stream, np.uint8), count=count * bits, bitorder="little")
    weights = np.left_shift(1, np.arange(bits)).astype(np.uint8)
    codes: NDArray[np.uint8] = lanes.reshape(count, bits) @ weights
    return codes
