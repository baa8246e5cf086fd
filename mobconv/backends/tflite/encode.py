"""Template + weights and biases -> file. How each kind of weight is stored in a TFLite file.

The op of the network that uses a weight (CONV_2D, DEPTHWISE_CONV_2D, FULLY_CONNECTED: input 1) reads
one of these. *layout* is that of the op (OHWI, 1HWO, OI): the parameter transposed. C is the number of
groups: of channels, or 1 for granularity `tensor`.

| weight                            | read by the op of the network              | constants, beside codes  |
|-----------------------------------|--------------------------------------------|--------------------------|
| fp32                              | FLOAT32 constant                           |                          |
| fp16                              | DEQUANTIZE(FLOAT16 constant)               |                          |
| linear, symmetric at 8, 4, 2 bits | DEQUANTIZE(INT8, INT4 or INT2 constant)    | scale, zero point, in    |
|                                   |                                            | the constant's tensor    |
| symmetric at 7, 6, 5, 3, 1 bits   | MUL(GATHER(factors, codes), scale)         | scale: float32, C values |
| linear at 7, 6, 5, 3 bits         | MUL(SUB(GATHER(factors, codes),            | scale: float32, C values |
|                                   | DEQUANTIZE(z)), scale)                     | z: INT8, C values        |
| kmeans, one table                 | GATHER(table, codes)                       | table: float32 [2^n]     |
| kmeans, linear at 1 bit, tables   | GATHER(table, codes, batch_dims)           | table: float32 [C, 2^n]  |

**1x1 convolutions** (stride 1, one group, with bias) whose weights are not fp32, fp16 or INT8 are written as
ADD(BATCH_MATMUL(x, weight, adj_y), bias): XNNPACK convolves with constant filters only, so filters that ops
decode go to TFLite's builtin kernels, but its matrix products take any operand. There the layout is OI, and
input 1 of BATCH_MATMUL is the weight. Fixture, compared with float: 2.3 to 2.6 times the latency in place of 2.8 to
3.1 with one thread; with two, which do not make builtin kernels faster, about 4 in place of 5 to 7.

**Other convolutions** (depthwise, stem), where all their filters are at most 5 % of the file's weights, are stored in
types that XNNPACK takes as constants: codes in INT8, values of tables in FLOAT16. MobileNetV2 at full width has 3 % of
its weights there and a third of its time: 1.2 to 1.4 times the latency of float in place of 1.9 at 224x224 on one
thread, 1.3 to 1.6 in place of 3.5 on two. Where they are more (10.6 % of the fixture at width 0.25) they stay at
n bits. The row says so, and the bytes are counted.

**Native constants.** A code k of n bits is stored as the signed k - 2^(n-1), a zero point z likewise as z - 2^(n-1)
(symmetric: 0), int64 in QuantizationParameters beside float32 scales; quantized_dimension is the
channel axis. INT4 and INT2 are a little-endian bit stream, lowest bits first, as two's complement:

    byte      |       0       |        INT4: code 0 is bits 0-3, code 1 bits 4-7
    bit       |0 1 2 3 4 5 6 7|        INT2: code 0 is bits 0-1 .. code 3 bits 6-7
    stored    k - 2^(n-1) mod 2^n, that is k with its top bit flipped; unused bits are 0

**codes** is an int32 tensor in the op's layout: RESHAPE(STRIDED_SLICE(stream, [first], [last], [1])) of
the stream of all codes of that width in the file (bit layout: unpack.py). **factors** is a float32
constant of 2^n values shared by all weights of a width: code k stands for k (linear), k - 2^(n-1)
(symmetric) or 2 k - 1 (symmetric at 1 bit). **z** is the zero point itself, 0 .. 2^n - 1, with scale 1. scale and z
have the rank of the weight, with C on the channel axis and 1 elsewhere. The products are exact in
float32. A [C, 2^n] table is a constant [1, .., C, 2^n], the 1s for the axes before the channel's;
where such an axis is longer, TILE repeats the table, so that GATHER can take all of them as batch dims.

All ops except SUB and MUL are computed once, when tensors are allocated (DEQUANTIZE: at the first inference). These
two are float, so the XNNPACK delegate claims them and computes them at every inference; they are the last ops of a
weight and stand before the network, and so are one delegated block: 3 % of the latency of the fixture (one thread).
The alternative per channel, DEQUANTIZE(GATHER(int8)), is not computed once either (its kernel needs a constant),
has the same speed, and takes 12 bytes a channel in place of 5.

Other floats of the file (biases ...) are float32, or under scheme fp16 DEQUANTIZE(FLOAT16 constant).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import bias_map, weight_map
from mobconv.backends.tflite import metadata
from mobconv.backends.tflite.convert import MAP, TEMPLATE
from mobconv.backends.tflite.graph import RECORD_KEY, Graph
from mobconv.backends.tflite.unpack import Unpacker
from mobconv.backends.weight_map import Placement
from mobconv.common.files import write_whole
from mobconv.errors import BackendError
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.packing import pack
from mobconv.quantize.weights import FloatWeight, Form, QuantizedWeight, Weight
from mobconv.schemes import Cell, Storage

# width -> (TensorType, version of DEQUANTIZE that reads it per channel)
NATIVE = {8: ("INT8", 5), 4: ("INT4", 6), 2: ("INT2", 6)}
_FP16_VERSION, _INT8_VERSION = 3, 2  # of DEQUANTIZE, per tensor
_BATCH_DIMS_VERSION = 5  # of GATHER
FEW = 0.05


def is_native(weight: QuantizedWeight) -> bool:
    """Whether TFLite has a type for these codes, scales and zero points."""
    return weight.form is not Form.TABLE and weight.bits in NATIVE


def encode(
    template: Path, model: QuantizedModel, cell: Cell, path: Path, record: str
) -> tuple[int, tuple[int, int], list[str]]:
    """Write `path`, whole or not at all -> bytes of its quantized weights, two numbers of weights, and names.

    The two numbers: of all quantized weights, and of those that are stored in XNNPACK's wider types (`few`). The names:
    of weights that the converter merged with others, which stay float.

    template: the folder that `convert` filled. Under fp32 and fp16 all weights count as quantized, otherwise those that
    a layer rule keeps float do not. Raises BackendError for a weight or bias that is missing or does not fit its place,
    OutputError when the file cannot be written.
    """
    scheme, weights = cell.scheme, model.weights
    places, extra = weight_map.load(template / MAP)
    weight_map.check_agreement({*places, *extra.get("merged", [])}, weights, cell)
    graph = Graph((template / TEMPLATE).read_bytes())
    for index, values in bias_map.placed(weight_map.biases(extra), model.biases, cell).items():
        graph.set_constant(int(index), values)
    labels = extra["image"].get("labels", ())
    if extra["image"]:
        described = metadata.Metadata((0.0,), (1.0,), extra["image"]["colour"], tuple(labels))
        graph.set_metadata(metadata.KEY, metadata.write(described, extra["image"]["inputs"]))
    if record:
        graph.set_metadata(RECORD_KEY, record.encode())
    if scheme.mode is None and scheme.bits == 16:
        _halve_floats(graph, [int(key) for key in extra["floats"]])
    weights_keys: list[int] = []  # constants of the template that quantized weights replace
    for name, placements in places.items():
        weight = weights[name]
        for place in placements:
            _check_shape(weight, place)
            if scheme.mode is None or isinstance(weight, QuantizedWeight):
                weights_keys.append(int(place.key))
    rest = len(graph.to_bytes()) - graph.constant_bytes(weights_keys)
    if cell.storage is Storage.NATIVE:
        weights = {name: _as_xnnpack_takes_it(weight) for name, weight in weights.items()}
    layouts = [(weights[name], layout) for name, placements in places.items() for layout in _layouts(placements)]
    packed = sum(weight.codes.size for weight, _ in layouts if isinstance(weight, QuantizedWeight))
    wide = few(graph, layouts)
    layouts = [(_as_xnnpack_takes_it(w) if layout in wide else w, layout) for w, layout in layouts]
    for weight, layout in layouts:
        if isinstance(weight, FloatWeight) and weight.bits == 32:
            for key in layout.keys:
                graph.set_constant(key, layout.place.place(weight.values))
        elif isinstance(weight, FloatWeight):
            _store_half(graph, layout.keys, layout.place.place(weight.values))
    _store_codes(graph, [(weight, layout) for weight, layout in layouts if isinstance(weight, QuantizedWeight)])
    data = graph.to_bytes()
    write_whole(path, metadata.with_labels(data, labels))
    return len(data) - rest, (packed, sum(int(np.prod(layout.place.shape)) for layout in wide)), extra.get("merged", [])


def few(graph: Graph, layouts: list[tuple[Weight, _Layout]]) -> list[_Layout]:
    """The filters of convolutions that are not matrix products, where these are few of all packed weights; else none.

    XNNPACK convolves with constant filters only: filters that ops decode go to TFLite's builtin kernels, at several
    times the latency. Filters of depthwise convolutions are few weights and much of the work, so where such filters are
    at most `FEW` of a file's weights, they are stored in the types that XNNPACK reads.
    """
    packed = [
        (w, layout) for w, layout in layouts if isinstance(w, QuantizedWeight) and not (w.bits == 8 and is_native(w))
    ]
    wide = [
        (w, layout)
        for w, layout in packed
        if len(layout.place.shape) == 4 and not all(graph.is_pointwise(key) for key in layout.keys)
    ]
    total, part = (sum(w.codes.size for w, _ in some) for some in (packed, wide))
    return [layout for _, layout in wide] if part <= FEW * total else []


def _as_xnnpack_takes_it(weight: Weight) -> Weight:
    """A weight in INT8 codes, or with a table's values as floats; exact in both."""
    if isinstance(weight, FloatWeight):
        return weight
    if weight.form is not Form.TABLE:
        return weight.widened(8)
    return FloatWeight(weight.name, weight.dequantize(), 16 if weight.fp16 else 32)


@dataclass(frozen=True)
class _Layout:
    """One layout of a weight, and the constants of the template with that layout, which share one constant."""

    place: Placement
    keys: tuple[int, ...]


def _layouts(places: list[Placement]) -> list[_Layout]:
    groups: dict[tuple[tuple[int, ...], ...], list[Placement]] = {}
    for place in places:
        groups.setdefault((place.perm, place.shape, place.view, place.flip), []).append(place)
    return [_Layout(same[0], tuple(int(place.key) for place in same)) for same in groups.values()]


def _check_shape(weight: Weight, place: Placement) -> None:
    shape = weight.values.shape if isinstance(weight, FloatWeight) else weight.shape
    if len(place.view or shape) != len(place.perm) or np.prod(shape, dtype=int) != np.prod(place.shape, dtype=int):
        raise BackendError(f"{weight.name}: {list(shape)} does not fit its place {list(place.shape)} in the template")


def _halve_floats(graph: Graph, keys: list[int]) -> None:
    """Store biases as float16, except those that overflow there."""
    constants = dict(graph.constants())
    for key in keys:
        if np.abs(constants[key]).max(initial=0.0) <= np.finfo(np.float16).max:
            _store_half(graph, (key,), constants[key])


def _store_half(graph: Graph, keys: Sequence[int], values: NDArray[np.float32]) -> None:
    constant = graph.constant(values.astype(np.float16))
    decoded = graph.op("DEQUANTIZE", (constant,), values.shape, "FLOAT32", _FP16_VERSION)
    for key in keys:
        graph.replace(key, decoded)


def _store_codes(graph: Graph, quantized: list[tuple[QuantizedWeight, _Layout]]) -> None:
    """Store weights that TFLite has a type for as constants, and the others in one stream for each width."""
    unpacker, groups = Unpacker(graph), _Groups(graph)
    stored_as = [_stored(weight, layout.place) for weight, layout in quantized]
    packed = [(w, place) for (w, _), place in zip(quantized, stored_as, strict=True) if not is_native(w)]
    streams: dict[int, int] = {}
    for bits in sorted({weight.bits for weight, _ in packed}):
        codes = [place.place(weight.codes).reshape(-1) for weight, place in packed if weight.bits == bits]
        streams[bits] = unpacker.stream(np.concatenate(codes), bits)
    first = dict.fromkeys(streams, 0)
    for (weight, layout), stored in zip(quantized, stored_as, strict=True):
        place = stored
        axis = 0 if weight.axis is None or place.axis is None else place.axis
        pointwise = (
            not (is_native(weight) and weight.bits == 8)
            and stored is layout.place
            and len(place.shape) == 4
            and all(graph.is_pointwise(key) for key in layout.keys)
        )
        if pointwise:
            place = replace(place, shape=(place.shape[0], place.shape[3]))
        if is_native(weight):
            decoded = _native(graph, weight, place, axis)
        else:
            codes_of_weight = unpacker.take(streams[weight.bits], first[weight.bits], place.shape)
            first[weight.bits] += weight.codes.size
            decoded = _from_codes(graph, groups, weight, codes_of_weight, place.shape, axis)
        if stored is not layout.place:
            target = layout.place
            view = target.view or place.shape
            decoded = graph.reshape(graph.arrange(decoded, view, target.flip, target.perm), target.shape, "FLOAT32")
        for key in layout.keys:
            if pointwise:
                graph.replace_pointwise(key, decoded)
            else:
                graph.replace(key, decoded)


def _stored(weight: QuantizedWeight, place: Placement) -> Placement:
    """Where the codes of a weight lie: in the layout of its constant, or in its own.

    Its own where channels share an axis of the constant with something else, such as groups of a transposed
    convolution: ops move the decoded values.
    """
    if weight.axis is None or (place.axis is not None and place.shape[place.axis] == weight.shape[weight.axis]):
        return place
    return Placement(place.key, tuple(range(len(weight.shape))), weight.shape, weight.axis)


def _native(graph: Graph, weight: QuantizedWeight, place: Placement, axis: int) -> int:
    """The float32 tensor of a weight, decoded by DEQUANTIZE from a constant of INT8, INT4 or INT2."""
    assert weight.scale is not None
    type_name, version = NATIVE[weight.bits]
    half = 2 ** (weight.bits - 1)
    scale = weight.spread(weight.scale)
    zero = np.full(len(scale), half, np.int64)
    if weight.zero_point is not None:
        zero = weight.spread(weight.zero_point).astype(np.int64)
    # subtracting half is flipping the top bit, modulo 2^bits
    stored = pack(place.place(weight.codes) ^ np.uint8(half), weight.bits)
    constant = graph.constant(stored, type_name, place.shape, (scale, zero - half, axis))
    return graph.op("DEQUANTIZE", (constant,), place.shape, "FLOAT32", version)


def _from_codes(
    graph: Graph, groups: _Groups, weight: QuantizedWeight, codes: int, shape: tuple[int, ...], axis: int
) -> int:
    """The float32 tensor of a weight, decoded from its int32 codes by ops."""
    if weight.form is Form.TABLE:
        assert weight.table is not None
        if weight.axis is None:
            return graph.op("GATHER", (graph.constant(weight.table[0]), codes), shape, "FLOAT32")
        before, tables = shape[:axis], (shape[axis], weight.table.shape[1])
        if weight.together > 1:
            table = groups.spread(weight.table, weight, (*[1] * axis, shape[axis]))
        else:
            table = graph.constant(weight.table, shape=(*[1] * axis, *tables))
        if np.prod(before, dtype=int) > 1:
            multiples = graph.constant(np.array([*before, 1, 1], np.int32))
            table = graph.op("TILE", (table, multiples), (*before, *tables), "FLOAT32")
        batch = {"axis": axis + 1, "batchDims": axis + 1}
        return graph.op("GATHER", (table, codes), shape, "FLOAT32", _BATCH_DIMS_VERSION, **batch)
    assert weight.scale is not None
    channels = shape[axis] if weight.axis is not None else 1
    side = tuple(channels if i == axis else 1 for i in range(len(shape)))
    if weight.zero_point is None:
        factors = graph.constant(weight.factors()[0].astype(np.float32))
        values = graph.op("GATHER", (factors, codes), shape, "FLOAT32")
    else:
        factors = graph.constant(np.arange(2**weight.bits, dtype=np.float32))
        values = graph.op("GATHER", (factors, codes), shape, "FLOAT32")
        if weight.together > 1:
            zero = groups.spread(weight.zero_point.astype(np.float32), weight, side)
        else:
            unit = np.ones(1, np.float32), np.zeros(1, np.int64), 0
            stored = graph.constant(weight.zero_point.astype(np.int8), shape=side, quantization=unit)
            zero = graph.op("DEQUANTIZE", (stored,), side, "FLOAT32", _INT8_VERSION)
        values = graph.op("SUB", (values, zero), shape, "FLOAT32")
    if weight.together > 1:
        scale = groups.spread(weight.scale, weight, side)
    else:
        scale = graph.constant(weight.scale, shape=side)
    return graph.op("MUL", (values, scale), shape, "FLOAT32")


class _Groups:
    """Repeats parameters of groups for each channel, at load: GATHER at positions 0 .. 0 1 .. 1 2 .."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._positions: dict[tuple[int, int, tuple[int, ...]], int] = {}

    def spread(self, parameters: NDArray[np.float32], weight: QuantizedWeight, shape: tuple[int, ...]) -> int:
        """(groups, ..) -> float32 tensor [*shape, ..]. shape: 1s, and the number of channels on their axis."""
        positions = self._at(weight.groups, weight.together, shape)
        result = (*shape, *parameters.shape[1:])
        return self._graph.op("GATHER", (self._graph.constant(parameters), positions), result, "FLOAT32")

    def _at(self, groups: int, together: int, shape: tuple[int, ...]) -> int:
        """int32 positions of a shape, shared by all weights that need them."""
        key = groups, together, shape
        if key not in self._positions:
            graph, channels = self._graph, int(np.prod(shape))
            ramp = graph.constant(np.arange(groups, dtype=np.int32), shape=(groups, 1))
            times = graph.constant(np.array([1, together], np.int32))
            positions = graph.op("TILE", (ramp, times), (groups, together), "INT32")
            if channels < groups * together:
                positions = graph.reshape(positions, (groups * together,))
                bounds = [graph.constant(np.array([value], np.int32)) for value in (0, channels, 1)]
                positions = graph.op("STRIDED_SLICE", (positions, *bounds), (channels,), "INT32")
            self._positions[key] = graph.reshape(positions, shape)
        return self._positions[key]
