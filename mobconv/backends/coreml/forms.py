"""How a weight is stored in an ML Program: the operations in place of its float constant.

Q is the shape of the constant, n the width, F the float type of the program (fp32 or fp16). G is the
shape of the groups: all ones, with the number of groups at the channel axis for granularity channel and oc16.
Codes are stored in the constant's layout, C order, as a bit stream with the least significant bit first.
Operations are written in capitals; the output of each goes into the next, and the last one has the name of the constant
that it replaces. "iOS16" forms have their parameters as attributes, "iOS18" ones as inputs.

| mode, width            | operations                                                                    |
|------------------------|-------------------------------------------------------------------------------|
| fp32, or fp16 in fp16  | CONST of F                                                                    |
| fp16 in an fp32 program| CONSTEXPR_CAST(source_val fp16, output_dtype "fp32")                          |
| kmeans 8 6 4 2 1,      | iOS16 CONSTEXPR_LUT_TO_DENSE(indices uint8 bit stream, lut F [2^n], shape)    |
|   tensor, iOS16 program|                                                                               |
| kmeans 8 6 4 3 2 1     | iOS18 CONSTEXPR_LUT_TO_DENSE(indices uint<n> Q, lut F [G, 2^n, 1])            |
| kmeans 7 5             | D = A[lo] * (1 - hi), O = B[lo] * -hi, w = 1 * (D - O): see `_split_table`    |
| linear, symmetric at 1 | as kmeans, table {t0, t1} or {-scale, scale}                                  |
| symmetric at 1, packed,| LUT_TO_DENSE(indices uint1, lut int8 {-1, 1}), SHIFT_SCALE(data that,         |
|   fp32 program, many   |   scale F G): half the parameters, but one more operation (`_CHAIN_BYTES`)    |
|   channels             |                                                                               |
| linear 8, iOS16        | CONSTEXPR_AFFINE_DEQUANTIZE(uint8 codes, uint8 zero_point, F scale, axis)     |
| symmetric 8, iOS16     | the same with int8 codes minus 128, int8 zero_point 0                         |
| linear 8 4             | CONSTEXPR_BLOCKWISE_SHIFT_SCALE(data uint<n> codes, scale F G, offset uint<n>)|
| symmetric 8 4          | the same with data int<n>, codes minus 2^(n-1), and no offset                 |
| linear 6 3 2           | LUT_TO_DENSE(indices uint<n>, lut uint8 0 .. 2^n-1),                          |
|                        |   SHIFT_SCALE(data that, scale F G, offset uint8 G): the chain                |
| symmetric 6 3 2        | the same with lut int8 -2^(n-1) .. 2^(n-1)-1 and no offset                    |
| linear, symmetric 7 5  | codes = lo + 2^(n-1) * hi, then SHIFT_SCALE: see `_split_codes`               |

In the two splits lo = code mod 2^(n-1) is stored as uint<n-1> (6 or 4 bits) and hi = code >> (n-1) as uint1, both of
shape Q: code = lo + hi * 2^(n-1), n bits in all. hi is one blob that several operations read. The zero points of linear
7 and 5 are fp16 (their data are floats), all others uint<n> or uint8.

Codes are in weight.bin (fewer than ten: in the program). Scales, zero points and tables are immediate values of the
program up to 8 KiB. coremltools writes values of fewer than ten elements that way, and reads them at any length: longer
float immediates and the splits are all that differs from the files of its own optimizers. Operations in between are
named q1, q2 and so on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.coreml import mil
from mobconv.backends.coreml.weights_file import DTYPES, BlobWriter
from mobconv.backends.weight_map import Placement
from mobconv.errors import BackendError
from mobconv.quantize import packing
from mobconv.quantize.weights import FloatWeight, Form, QuantizedWeight, Weight

# Constants of fewer elements are in the program, as coremltools writes them (a blob has a header of 64 bytes).
_FEW = 10
# Scales, zero points and tables of at most this number of bytes are in the program too. coremltools puts them into
# weight.bin, where each has 64 bytes of header, up to 63 of padding and 36 of reference.
_INLINE_BYTES = 8192
# Bytes of a second operation in the program, with names and shapes of four axes: 230 to 270.
_CHAIN_BYTES = 270
_SMALLEST_HALF = np.float32(2.0**-24)  # subnormal
_FLOATS = {"FLOAT32": np.float32, "FLOAT16": np.float16}


def native_ios16(weight: Weight) -> bool:
    """Whether an iOS16 program has a form for this weight."""
    if isinstance(weight, FloatWeight):
        return True
    if weight.form is Form.TABLE or weight.bits == 1:
        return weight.axis is None and weight.bits in (1, 2, 4, 6, 8)
    return weight.bits == 8 and weight.together == 1


@dataclass
class Encoder:
    """Writes weights as operations.

    floats: the program's float type; ios18: use the forms of iOS18; names: those in use; chains: whether weights of one
    bit may have two operations.
    """

    blobs: BlobWriter
    floats: str
    ios18: bool
    names: Collection[str] = ()
    chains: bool = True
    operations: list[Any] = field(default_factory=list)
    _count: int = 0

    def weight(self, weight: Weight, place: Placement) -> list[Any]:
        """The operations of `weight` in place of its constant; the last one is named place.key.

        Raises BackendError for a weight whose parameters this program cannot represent.
        """
        self.operations = []
        if isinstance(weight, FloatWeight):
            self.float_constant(place.key, place.place(weight.values), half=weight.bits == 16)
        else:
            self._check(weight, place)
            self._quantized(weight, place)
        return self.operations

    def float_constant(self, name: str, values: NDArray[np.float32], half: bool) -> list[Any]:
        """The operation of a float constant. half: fp16 on disk, also in a program that computes in fp32."""
        self.operations = []
        if half and self.floats == "FLOAT32":
            source = self._stored("FLOAT16", values.astype(np.float16))
            self._add("constexpr_cast", name, values.shape, source_val=source, output_dtype=mil.string("fp32"))
        else:
            value = self._stored(self.floats, values.astype(_FLOATS[self.floats]))
            self.operations.append(mil.operation("const", name, (self.floats, values.shape), attributes={"val": value}))
        return self.operations

    def _quantized(self, weight: QuantizedWeight, place: Placement) -> None:
        name, codes = place.key, place.place(weight.codes)
        if weight.form is Form.TABLE or (weight.bits == 1 and not self._signs(weight)):
            tables = weight.levels().astype(_FLOATS[self.floats])
            grouped = _grouped(tables, place, weight)
            if weight.bits in (5, 7):
                self._split_table(name, codes, weight.bits, grouped)
            elif self.ios18:
                self._lut(name, (self._stored(f"UINT{weight.bits}", codes), codes.shape), self.floats, grouped)
            else:
                self._lut_ios16(name, codes, weight.bits, tables[0])
            return
        assert weight.scale is not None
        scale = weight.scale.astype(_FLOATS[self.floats])
        if weight.bits == 8 and not self.ios18:
            self._affine_ios16(name, codes, weight, scale, place)
            return
        scale = _grouped(scale, place, weight)
        zero = None if weight.zero_point is None else _grouped(weight.zero_point, place, weight)
        data: Any
        if weight.bits in (5, 7):
            data, zero = self._split_codes(codes, weight.bits, zero)
        elif weight.bits in (4, 8):
            data_type = f"INT{weight.bits}" if zero is None else f"UINT{weight.bits}"
            signed = codes if zero is not None else (codes.astype(np.int16) - 2 ** (weight.bits - 1)).astype(np.int8)
            data = self._stored(data_type, signed)
            zero = None if zero is None else self._parameter(data_type, zero)
        else:
            first, table_type = (-(2 ** (weight.bits - 1)), "INT8") if zero is None else (0, "UINT8")
            entries = range(first, first + 2**weight.bits) if weight.bits > 1 else (-1, 1)
            table = _table(entries, DTYPES[table_type].numpy, codes.ndim)
            indices = (self._stored(f"UINT{weight.bits}", codes), codes.shape)
            data = self._lut(self._name(), indices, table_type, table)
            zero = None if zero is None else self._parameter("UINT8", zero)
        self._shift_scale(name, codes.shape, data, self._parameter(self.floats, scale), zero)

    def _signs(self, weight: QuantizedWeight) -> bool:
        """Whether a weight of one bit becomes signs and a scale, half the parameters of a table.

        Not in fp16, where a table is half as large, and chains of operations have failed on the Neural Engine.
        """
        if not (self.chains and self.ios18 and weight.form is Form.SCALE and self.floats == "FLOAT32"):
            return False
        return weight.scale is not None and weight.scale.nbytes > _CHAIN_BYTES

    def _split_codes(self, codes: NDArray[np.uint8], bits: int, zero: Any) -> tuple[str, Any]:
        """5 and 7 bits: codes as floats, which are small integers and so exact, from lo and hi.

        codes = {1, 1}[hi] * (lo - {0, -2^(n-1)}[hi]), symmetric ones less 2^(n-1) by the table {2^(n-1), 0}.
        The ones are a table of hi, as scale and offset must have the same shape. Zero points become fp16 offsets of the
        last operation, whose data are floats here.
        """
        half = 2 ** (bits - 1)
        low: Any = self._stored(f"UINT{bits - 1}", codes & np.uint8(half - 1))
        high = (self._stored("UINT1", codes >> (bits - 1)), codes.shape)
        if bits == 7:
            # shift_scale reads 4 and 8 bits only: six are widened by an identity table
            low = self._lut(self._name(), (low, codes.shape), "UINT8", _table(range(64), np.uint8, codes.ndim))
        kind = _FLOATS[self.floats]
        pair = [half, 0] if zero is None else [0, -half]
        ones = self._lut(self._name(), high, self.floats, _table([1, 1], kind, codes.ndim))
        offsets = self._lut(self._name(), high, self.floats, _table(pair, kind, codes.ndim))
        data = self._shift_scale(self._name(), codes.shape, low, ones, offsets)
        return data, None if zero is None else self._parameter("FLOAT16", zero.astype(np.float16))

    def _split_table(self, name: str, codes: NDArray[np.uint8], bits: int, tables: NDArray[Any]) -> None:
        """5 and 7 bits: A is the lower half of the table, B the upper.

        D = A[lo] * {1, 0}[hi], O = B[lo] * {0, -1}[hi], w = {1, 1}[hi] * (D - O). One of D and O is always zero and the
        factors are 0 and 1, so that nothing is rounded in any float type.
        """
        half, size = 2 ** (bits - 1), codes.shape
        low = (self._stored(f"UINT{bits - 1}", codes & np.uint8(half - 1)), size)
        high = (self._stored("UINT1", codes >> (bits - 1)), size)
        lower, upper = (
            self._lut(self._name(), low, self.floats, part) for part in (tables[..., :half, :], tables[..., half:, :])
        )
        keep, drop, ones = (
            self._lut(self._name(), high, self.floats, _table(pair, tables.dtype, codes.ndim))
            for pair in ([1, 0], [0, -1], [1, 1])
        )
        lower = self._shift_scale(self._name(), size, lower, keep, None)
        upper = self._shift_scale(self._name(), size, upper, drop, None)
        self._shift_scale(name, size, lower, ones, upper)

    def _lut(self, name: str, indices: tuple[Any, tuple[int, ...]], dtype: str, table: NDArray[Any]) -> str:
        """iOS18 constexpr_lut_to_dense. indices: their value and shape; dtype: of the table."""
        lut = self._parameter(dtype, table)
        return self._add("constexpr_lut_to_dense", name, indices[1], dtype, indices=indices[0], lut=lut)

    def _lut_ios16(self, name: str, codes: NDArray[np.uint8], bits: int, table: NDArray[Any]) -> None:
        self._add(
            "constexpr_lut_to_dense",
            name,
            codes.shape,
            indices=self._stored("UINT8", packing.pack(codes, bits)),
            lut=self._parameter(self.floats, table),
            shape=mil.immediate("UINT32", np.array(codes.shape, np.uint32)),
        )

    def _affine_ios16(
        self, name: str, codes: NDArray[np.uint8], weight: QuantizedWeight, scale: NDArray[Any], place: Placement
    ) -> None:
        kind = "UINT8"
        data: NDArray[Any] = codes
        zero: NDArray[Any] = np.zeros(len(scale), np.int8) if weight.zero_point is None else weight.zero_point
        if weight.zero_point is None:
            kind, data = "INT8", (codes.astype(np.int16) - 128).astype(np.int8)
        if weight.axis is None:
            scale, zero = scale.reshape(()), zero.reshape(())
        self._add(
            "constexpr_affine_dequantize",
            name,
            codes.shape,
            quantized_data=self._stored(kind, data),
            zero_point=self._parameter(kind, zero),
            scale=self._parameter(self.floats, scale),
            axis=mil.immediate("INT32", np.array(place.axis or 0, np.int32)),
        )

    def _shift_scale(self, name: str, shape: tuple[int, ...], data: Any, scale: Any, offset: Any) -> str:
        inputs = {"data": data, "scale": scale} | ({} if offset is None else {"offset": offset})
        return self._add("constexpr_blockwise_shift_scale", name, shape, **inputs)

    def _add(self, kind: str, name: str, size: tuple[int, ...], dtype: str | None = None, /, **values: Any) -> str:
        """Append an operation -> its output's name. Parameters are inputs from iOS18 on, attributes before."""
        where = {"inputs": values} if self.ios18 else {"attributes": values}
        # consumers need the output's name; the operation's own name is for people, and short
        label = name if name not in self.names else self._name()
        self.operations.append(mil.operation(kind, name, (dtype or self.floats, size), label=label, **where))
        return name

    def _stored(self, dtype: str, values: NDArray[Any]) -> Any:
        if values.size < _FEW:
            return mil.immediate(dtype, values)
        return mil.stored(dtype, values, self.blobs)

    def _parameter(self, dtype: str, values: NDArray[Any]) -> Any:
        if values.nbytes <= _INLINE_BYTES:
            return mil.immediate(dtype, values)
        return mil.stored(dtype, values, self.blobs)

    def _name(self) -> str:
        """A short free name for an operation in between."""
        while True:
            self._count += 1
            name = f"q{self._count}"
            if name not in self.names:
                return name

    def _check(self, weight: QuantizedWeight, place: Placement) -> None:
        if weight.axis is not None and place.axis is None:
            raise BackendError(
                f"{weight.name}: its channels share an axis with others in the converted constant (shape "
                f"{place.shape}), so Core ML has no parameters per channel for it; use granularity tensor"
            )
        if self.floats == "FLOAT16" and _lost_in_fp16(weight):
            raise BackendError(
                f"{weight.name}: its scales or table entries overflow fp16, or become zero in it, and a program that "
                "computes in fp16 has no other parameters; use compute fp32, or keep this layer float"
            )


def _lost_in_fp16(weight: QuantizedWeight) -> bool:
    """Whether a parameter becomes infinite in fp16, or a scale zero. (A small table entry may: it is a weight.)"""
    if weight.fp16:
        return False
    with np.errstate(over="ignore"):
        halves = [array.astype(np.float16) for array in (weight.scale, weight.table) if array is not None]
    return not all(np.isfinite(array).all() for array in halves) or (weight.scale is not None and not halves[0].all())


def without_dead_groups(weight: Weight) -> Weight:
    """The same weight with zeros in groups whose scale fp16 cannot represent: all their values are below 2^-17.

    Such channels are dead: trained to zero, or multiplied by a batch norm's factor of nearly zero. Their codes become
    the code of zero. At 1 bit there is none, and the scale becomes the smallest that fp16 has.
    """
    if not isinstance(weight, QuantizedWeight) or weight.scale is None:
        return weight
    dead = weight.scale.astype(np.float16) == 0
    if not dead.any() or dead.all():  # a whole layer of such numbers is refused
        return weight
    if weight.bits == 1:
        return replace(weight, scale=np.where(dead, _SMALLEST_HALF, weight.scale))
    zeros = np.full(weight.groups, 2 ** (weight.bits - 1), np.uint8) if weight.zero_point is None else weight.zero_point
    codes, axis = weight.codes.copy(), weight.axis or 0
    chosen = (
        np.repeat(dead, weight.together)[: weight.shape[axis]] if weight.axis is not None else dead.repeat(len(codes))
    )
    for channel in np.flatnonzero(chosen):
        place = (slice(None),) * axis + (channel,)
        codes[place] = zeros[0 if weight.axis is None else channel // weight.together]
    return replace(weight, codes=codes, scale=np.where(dead, np.float32(1), weight.scale))


def _table(entries: Iterable[float], dtype: Any, rank: int) -> NDArray[Any]:
    """One table for a tensor of `rank` axes, in the shape of an iOS18 lut."""
    return np.array(list(entries), dtype).reshape((1,) * rank + (-1, 1))


def _grouped(values: NDArray[Any], place: Placement, weight: QuantizedWeight) -> NDArray[Any]:
    """(groups,) or (groups, entries) -> shape G, or (*G, entries, 1).

    Core ML's groups all have one size. Where our last group is shorter, parameters are repeated for groups of the
    largest size that divides both.
    """
    shape = [1] * len(place.shape)
    if weight.axis is not None:
        assert place.axis is not None
        values = weight.spread(values, math.gcd(weight.together, weight.shape[weight.axis]))
        shape[place.axis] = values.shape[0]
    return values.reshape([*shape, *([values.shape[1], 1] if values.ndim == 2 else [])])
