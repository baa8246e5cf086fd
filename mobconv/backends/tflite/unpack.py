"""LUT16: codes of 1 to 8 bits in int16 constants, unpacked once at load by ops of every TFLite runtime.

TFLite has no 1, 3, 5, 6 or 7 bit type and no shift that is computed at load, but it has GATHER with
int16 positions. So a word has 15 bits (16 would make positions negative), and a table of all 2^15
words, which ops build at load without taking a byte of the file, has the codes of each word.

All codes of one width in a file, weight after weight, each in the layout of its constant and in C
order, are one stream of N codes, padded with zeros to a multiple of 15. A code is cut into fields,
high bits first, and each field of the stream is a plane of its own:

    bits    1     2     3     4     5     6      7       8
    fields  1    1,1    3    3,1    5    5,1   5,1,1    5,3

A plane of b-bit fields is an int16 constant of N * b / 15 words. Field i is in word i // k, k = 15 / b,
at bits (i % k) * b and up, least significant first; bit 15 is 0. A word, for each b:

    bit     | 0  1  2  3  4  5  6  7  8  9 10 11 12 13 14|15|
    b = 1   |f0|f1|f2|f3|f4|f5|f6|f7|f8|f9|..|..|..|..|fE| 0|
    b = 3   |   f0   |   f1   |   f2   |   f3   |   f4   | 0|
    b = 5   |      f0      |      f1      |      f2      | 0|

So n bits take 16/15 n bits on disk. Ops, all with constant or computed-at-load inputs, all int32 (float
ones would go to the XNNPACK delegate, which computes them at every inference):

    plane     GATHER(words of b [2^15, k], plane) -> RESHAPE [N]
    codes     GATHER([2^b0, 2^rest] of 0 .. 2^n - 1, first plane) -> [N, 2^rest], then for each further
              plane RESHAPE [N, 2^b, 2^rest] and GATHER(axis 1, batch_dims 1) -> [N, 2^rest] .. [N]
    a weight  STRIDED_SLICE [first : last] of the codes -> RESHAPE to the shape of its constant

One stream saves bytes: 53 tensors with planes of their own would need the ops 53 times. GATHER, RESHAPE,
STRIDED_SLICE, TILE and CONCATENATION are computed in AllocateTensors when their inputs are constants or
computed there too (IsConstantOrPersistentTensor in LiteRT's kernels); tests check that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.tflite.graph import Graph

WORD_BITS = 15
# width -> widths of its fields, high bits first. Fields divide 15, so that no bit of a word is lost.
FIELDS = {1: (1,), 2: (1, 1), 3: (3,), 4: (3, 1), 5: (5,), 6: (5, 1), 7: (5, 1, 1), 8: (5, 3)}
# GATHER with int16 positions
GATHER_VERSION = 6

Plane = NDArray[np.int16]


def pack_planes(codes: NDArray[np.uint8], bits: int) -> list[Plane]:
    """(N,) codes -> an int16 plane for each field, high bits first. Raises ValueError for a code >= 2^bits."""
    if bits not in FIELDS:
        raise ValueError(f"bits must be 1 to 8, not {bits}")
    if codes.size and int(codes.max()) >> bits:
        raise ValueError(f"code {int(codes.max())} does not fit in {bits} bits")
    padded = np.pad(codes.reshape(-1), (0, -codes.size % WORD_BITS)).astype(np.int16)
    planes, rest = [], bits
    for width in FIELDS[bits]:
        rest -= width
        fields = (padded >> rest) & (2**width - 1)
        shifts = np.arange(0, WORD_BITS, width, dtype=np.int16)
        planes.append((fields.reshape(-1, len(shifts)) << shifts).sum(axis=1, dtype=np.int16))
    return planes


def unpack_planes(planes: Sequence[Plane], bits: int, count: int) -> NDArray[np.uint8]:
    """The planes of `pack_planes` -> (count,) codes, as the ops in the file compute them."""
    codes = np.zeros(0, np.uint8)
    for width, plane in zip(FIELDS[bits], planes, strict=True):
        shifts = np.arange(0, WORD_BITS, width, dtype=np.int16)
        fields = ((plane[:, None] >> shifts) & (2**width - 1)).reshape(-1).astype(np.uint8)
        codes = fields if codes.size == 0 else (codes << width) | fields
    return codes[:count]


class Unpacker:
    """Adds streams, and the ops that unpack them, to a graph; all widths share the tables of words."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._words: dict[int, int] = {}

    def stream(self, codes: NDArray[np.uint8], bits: int) -> int:
        """(N,) codes -> int32 tensor of N codes, padded with zeros to a multiple of 15."""
        graph = self._graph
        planes = pack_planes(codes, bits)
        count = planes[0].size * (WORD_BITS // FIELDS[bits][0])
        fields = [self._plane(plane, width, count) for plane, width in zip(planes, FIELDS[bits], strict=True)]
        if len(fields) == 1:
            return fields[0]
        rest = bits - FIELDS[bits][0]
        levels = self._graph.reshape(self._ramp(2**bits), (2 ** FIELDS[bits][0], 2**rest))
        codes_so_far = graph.op("GATHER", (levels, fields[0]), (count, 2**rest), "INT32")
        for width, field in zip(FIELDS[bits][1:], fields[1:], strict=True):
            rest -= width
            shape = (count, 2**rest) if rest else (count,)
            if rest:
                codes_so_far = self._graph.reshape(codes_so_far, (count, 2**width, 2**rest))
            inputs = (codes_so_far, field)
            codes_so_far = graph.op("GATHER", inputs, shape, "INT32", GATHER_VERSION, axis=1, batchDims=1)
        return codes_so_far

    def take(self, stream: int, first: int, shape: Sequence[int]) -> int:
        """The codes of one weight, int32: `prod(shape)` codes of the stream from `first` on, in that shape."""
        graph, count = self._graph, int(np.prod(shape))
        bounds = [graph.constant(np.array([value], np.int32)) for value in (first, first + count, 1)]
        flat = graph.op("STRIDED_SLICE", (stream, *bounds), (count,), "INT32")
        return self._graph.reshape(flat, shape)

    def _plane(self, plane: Plane, width: int, count: int) -> int:
        """int32 [count]: the fields of a plane."""
        k = WORD_BITS // width
        inputs = (self._table(width), self._graph.constant(plane))
        fields = self._graph.op("GATHER", inputs, (plane.size, k), "INT32", GATHER_VERSION)
        return self._graph.reshape(fields, (count,))

    def _table(self, width: int) -> int:
        """int32 [2^15, 15 / width]: the fields of every word."""
        if width not in self._words:
            self._words[width] = self._bit_table() if width == 1 else self._field_table(width)
        return self._words[width]

    def _field_table(self, width: int) -> int:
        """Over all words in order, field j runs through 0 .. 2^width - 1, each value 2^(j width) times in a row."""
        graph, k, levels = self._graph, WORD_BITS // width, 2**width
        ramp = self._graph.reshape(self._ramp(levels), (1, levels, 1))
        columns = []
        for j in range(k):
            repeats = (levels ** (k - 1 - j), 1, levels**j)
            multiples = graph.constant(np.array(repeats, np.int32))
            column = graph.op("TILE", (ramp, multiples), (repeats[0], levels, repeats[2]), "INT32")
            columns.append(self._graph.reshape(column, (2**WORD_BITS, 1)))
        return graph.op("CONCATENATION", columns, (2**WORD_BITS, k), "INT32", axis=1)

    def _bit_table(self) -> int:
        """The bits of three 5-bit fields: 15 columns from a table of three, with one small constant."""
        graph = self._graph
        bits = (np.arange(32, dtype=np.int32)[:, None] >> np.arange(5, dtype=np.int32)) & 1
        columns = graph.op("GATHER", (graph.constant(bits), self._table(5)), (2**WORD_BITS, 3, 5), "INT32")
        return self._graph.reshape(columns, (2**WORD_BITS, 15))

    def _ramp(self, count: int) -> int:
        return self._graph.constant(np.arange(count, dtype=np.int32))
