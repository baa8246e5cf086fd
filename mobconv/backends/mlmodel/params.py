"""WeightParams: how the numbers of one parameter are stored in a neuralnetwork file (NeuralNetwork.proto).

| form       | fields                                                                                      |
|------------|---------------------------------------------------------------------------------------------|
| 32 bits    | floatValue                                                                                  |
| 16 bits    | float16Value, little-endian                                                                 |
| n bits     | rawValue, and quantization.numberOfBits = 1 .. 8, with one of                               |
|            | linearQuantization: w = scale * code + bias, one pair for the tensor or each output channel |
|            | lookupTableQuantization: w = table[code], 2^n entries, one table for the tensor             |

rawValue is one bit stream in C order, the *most* significant bit first (unlike `mobconv.quantize.packing` and
weight.bin). For n = 3:

    byte      |       0       |       1       |       2       |
    bit       |7 6 5 4 3 2 1 0|7 6 5 4 3 2 1 0|7 6 5 4 3 2 1 0|
    code      |  0  |  1  |  2  |  3  |  4  |  5  |  6  |  7  |

What a QuantizedWeight becomes:

| mode            | bits | stored as                                                   |
|-----------------|------|-------------------------------------------------------------|
| linear          | 2..8 | linear: scale, bias = -scale * zero point                   |
| linear, tensor  | 1    | table of two                                                |
| linear, channel | 1    | linear: scale = table[1] - table[0], bias = table[0]        |
| symmetric       | 2..8 | linear: scale, bias = -scale * 2^(bits-1)                   |
| symmetric       | 1    | linear: 2 * scale, bias = -scale                            |
| kmeans, tensor  | 1..8 | table                                                       |

With parameters that fp16 can represent, every product and sum here is exact in fp32; see `is_exact` for others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import BackendError
from mobconv.quantize.weights import Floats, Form, QuantizedWeight

_FLOAT_VALUE = b"\x0a"  # field 1, packed: a length and the floats


def pack(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Codes of any shape, in C order -> ceil(size * bits / 8) bytes. Raises ValueError for a code >= 2^bits."""
    flat = np.ascontiguousarray(codes, np.uint8).reshape(-1)
    if bits < 8 and flat.size and int(flat.max()) >> bits:
        raise ValueError(f"code {int(flat.max())} does not fit in {bits} bits")
    lanes = np.unpackbits(flat[:, None], axis=1)[:, 8 - bits :]
    return np.packbits(lanes.reshape(-1)).tobytes()


def unpack(data: bytes, bits: int, count: int) -> NDArray[np.uint8]:
    """Bytes -> (count,) uint8. Raises ValueError when there are too few."""
    if len(data) * 8 < count * bits:
        raise ValueError(f"{count} codes of {bits} bits do not fit into {len(data)} bytes")
    lanes = np.zeros((count, 8), np.uint8)
    lanes[:, 8 - bits :] = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits).reshape(count, bits)
    return np.packbits(lanes)


def put_floats(params: Any, values: NDArray[Any]) -> None:
    """Store values of any shape as float32, as protobuf bytes: a Python float for each would take seconds."""
    data = np.ascontiguousarray(values, "<f4").tobytes()
    params.Clear()
    params.MergeFromString(_FLOAT_VALUE + _varint(len(data)) + data)


def put_half(params: Any, values: NDArray[Any]) -> None:
    """Store values in 16 bits each; fp16 has to represent them."""
    params.Clear()
    params.float16Value = np.ascontiguousarray(values, "<f2").tobytes()


def put_codes(params: Any, weight: QuantizedWeight, codes: NDArray[np.uint8]) -> None:
    """Store the codes of a weight, already in the layer's layout, with its parameters.

    Raises BackendError for a weight with a table for each channel.
    """
    params.Clear()
    params.quantization.numberOfBits = weight.bits
    params.rawValue = pack(codes, weight.bits)
    if weight.form is Form.TABLE and weight.groups == 1:
        assert weight.table is not None
        params.quantization.lookupTableQuantization.floatValue.extend(weight.table[0].tolist())
        return
    scale, bias = scale_and_bias(weight)
    params.quantization.linearQuantization.scale.extend(scale.tolist())
    params.quantization.linearQuantization.bias.extend(bias.tolist())


def scale_and_bias(weight: QuantizedWeight) -> tuple[Floats, Floats]:
    """float32 (groups,) each, with scale * code + bias the value of every code (see `is_exact`).

    Raises BackendError for tables of more than two entries.
    """
    if weight.form is Form.TABLE:
        assert weight.table is not None
        if weight.bits > 1:
            raise BackendError(f"{weight.name}: a layer has one table, not {weight.groups}")
        return _two_values(weight.table)
    assert weight.scale is not None
    if weight.form is Form.SCALE and weight.bits == 1:
        return 2 * weight.scale, -weight.scale
    zero = np.float32(2 ** (weight.bits - 1)) if weight.zero_point is None else weight.zero_point.astype(np.float32)
    return weight.scale, np.float32(0) - weight.scale * zero  # from 0, so that no bias is -0.0


def _two_values(table: Floats) -> tuple[Floats, Floats]:
    """(groups, 2) values -> scale and bias: the bias is value 0, bias + scale is as near to value 1 as possible."""
    bias, wanted = table[:, 0], table[:, 1]
    best = wanted - bias
    # where the sum is off because the difference was rounded, the sum with a neighbour of it may be exact
    for scale in (np.nextafter(best, np.float32(-np.inf)), np.nextafter(best, np.float32(np.inf))):
        nearer = np.abs(bias + scale - wanted) < np.abs(bias + best - wanted)
        best = np.where(nearer, scale, best).astype(np.float32)
    return best, bias


def is_exact(weight: QuantizedWeight) -> bool:
    """Whether scale * code + bias, computed in fp32, is the value of every code.

    It is, with parameters that fp16 can represent, except two values of which one is 2^13 times the other. Others are
    off by at most 2^-21 of the largest value: fp32 cannot represent every product, or difference, of fp32 numbers.
    """
    if weight.form is Form.TABLE and weight.groups == 1:
        return True
    scale, bias = scale_and_bias(weight)
    codes = np.arange(2**weight.bits, dtype=np.float32)
    return np.array_equal(scale[:, None] * codes + bias[:, None], weight.levels())


def get(params: Any, shape: tuple[int, ...], axis: int | None) -> Floats:
    """The values of a parameter, float32, decoded. axis: of the output channels, None where it has none.

    Raises ValueError for a message that is not a complete parameter of this shape, and BackendError for a form that
    only Core ML can decode.
    """
    count = int(np.prod(shape, dtype=np.int64))
    if params.floatValue:
        values = np.array(params.floatValue, np.float32)
    elif params.float16Value:
        values = np.frombuffer(params.float16Value, "<f2").astype(np.float32)
    elif params.rawValue:
        return _decoded(params, shape, axis)
    elif params.int8RawValue:
        raise BackendError("int8RawValue (products in 8-bit integers, decided at run time) is not supported here")
    else:
        raise ValueError("a parameter without values")
    if values.size != count:
        raise ValueError(f"a parameter of {values.size} values for the shape {list(shape)}")
    return values.reshape(shape)


def _decoded(params: Any, shape: tuple[int, ...], axis: int | None) -> Floats:
    """The values of a parameter that is stored as codes."""
    quantization = params.quantization
    bits, kind = int(quantization.numberOfBits), quantization.WhichOneof("QuantizationType")
    if not 1 <= bits <= 8 or kind is None:
        raise ValueError(f"codes of {bits} bits, {kind or 'without parameters'}")
    codes = unpack(params.rawValue, bits, int(np.prod(shape, dtype=np.int64))).reshape(shape)
    if kind == "lookupTableQuantization":
        table = np.array(quantization.lookupTableQuantization.floatValue, np.float32)
        if table.size != 2**bits:
            raise ValueError(f"a table of {table.size} entries for {bits} bits")
        return np.ascontiguousarray(table[codes])
    scale = np.array(quantization.linearQuantization.scale, np.float32)
    bias = np.array(quantization.linearQuantization.bias, np.float32)
    channels = 1 if axis is None else shape[axis]
    if scale.size not in (1, channels) or bias.size not in (0, scale.size):
        raise ValueError(f"{scale.size} scales and {bias.size} biases for {channels} channels")
    view = [-1 if i == axis and scale.size > 1 else 1 for i in range(len(shape))]
    values = codes * scale.reshape(view)
    return values + bias.reshape(view) if bias.size else values


def _varint(value: int) -> bytes:
    """An unsigned integer as protobuf writes it: seven bits a byte, the lowest first."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
