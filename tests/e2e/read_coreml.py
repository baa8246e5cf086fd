"""ML Programs read with the messages of coremltools.proto and numpy; weight.bin is parsed here.

A weight is the input `weight` of conv or linear: a const, or what constexpr operations make of constants.
The operations are followed back by the layouts that the backend documents; every table that has to be
what decoding needs (identities, ones, the two halves of a split) is checked to be that.
"""

import json
import struct

import numpy as np
from coremltools.proto import MIL_pb2, Model_pb2
from stored import Stored, spread

USERS = ("conv", "linear")
ALIGNMENT = 64  # of blobs in weight.bin, and the size of the record before each
# MILBlob/Blob/BlobDataType.hpp of apple/coremltools: number of a blob's type -> name and bits
BLOB_TYPES = {1: ("FLOAT16", 16), 2: ("FLOAT32", 32), 3: ("UINT8", 8), 4: ("INT8", 8), 8: ("INT4", 4)}
BLOB_TYPES |= {9: ("UINT1", 1), 10: ("UINT2", 2), 11: ("UINT4", 4), 12: ("UINT3", 3), 13: ("UINT6", 6)}
TYPES = {"FLOAT16": "<f2", "FLOAT32": "<f4", "UINT8": "u1", "INT8": "i1", "INT32": "<i4", "UINT32": "<u4"}


def read(path):
    """The parameters in the order of the ops that use them, as `Stored`. Layouts are PyTorch's own."""
    package = Package(path)
    found = [package.weight(op.inputs["weight"].arguments[0].name) for op in package.ops if op.type in USERS]
    # At one bit a symmetric weight is a table {-scale, scale}, where it is not signs and scales. A linear file could
    # have such a table in one tensor by chance, hence one verdict for all of them.
    tables = [held for held in found if held.table is not None]
    if all(held.bits == 1 for held in found) and all(
        np.array_equal(held.table[:, 0], -held.table[:, 1]) for held in tables
    ):
        for held in tables:
            held.scales, held.table = held.table[:, 1].copy(), None
    return found


def biases(path):
    """The biases of convolutions and linear layers in the order of the ops that add them, float32 or float16."""
    package = Package(path)
    found = []
    for op in package.ops:
        if op.type in USERS and "bias" in op.inputs:
            made = package.made_by[op.inputs["bias"].arguments[0].name]
            found.append(package.get(made, "val" if made.type == "const" else "source_val")[1].reshape(-1))
    return found


class Package:
    """A package's operations by the name of what they put out, and its constants."""

    def __init__(self, path):
        manifest = json.loads((path / "Manifest.json").read_text())
        model = path / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        self.spec = Model_pb2.Model.FromString(model.read_bytes())
        self.weights = (model.parent / "weights" / "weight.bin").read_bytes()
        main = self.spec.mlProgram.functions["main"]
        self.ops = list(main.block_specializations[main.opset].operations)
        self.made_by = {output.name: op for op in self.ops for output in op.outputs}

    def weight(self, name):
        """The parameter that the value `name` is."""
        op = self.made_by[name]
        shape = _shape(op.outputs[0].type)
        if op.type in ("const", "constexpr_cast"):
            kind, values = self.get(op, "val" if op.type == "const" else "source_val")
            return Stored(16 if kind == "FLOAT16" else 32, values=values.astype(np.float32), wide=kind != "FLOAT16")
        if op.type == "constexpr_lut_to_dense":
            stored = self._looked_up(op)
        elif op.type == "constexpr_affine_dequantize":
            stored = self._affine(op)
        else:
            assert op.type == "constexpr_blockwise_shift_scale", f"a weight is made by {op.type}"
            split = isinstance(self.get(op, "scale"), str)
            stored = self._split_table(op) if split else self._shift_scaled(op)
        assert stored.codes.shape == shape
        groups = len(stored.scales if stored.table is None else stored.table)
        if groups > 1:  # of one size, in order: block sizes are what shapes divide to
            assert shape[0] % groups == 0
            stored.rows = np.arange(shape[0]) // (shape[0] // groups)
        return stored

    def get(self, op, key):
        """A parameter of an operation, an attribute or an input: (type, values), or the name of an output."""
        if key in op.attributes:
            return self.value(op.attributes[key])
        binding = op.inputs[key].arguments[0]
        return binding.name if binding.WhichOneof("binding") == "name" else self.value(binding.value)

    def value(self, message):
        """A Value message -> (type, array): types below a byte as unsigned fields, or INT4 as their numbers."""
        kind, shape = MIL_pb2.DataType.Name(message.type.tensorType.dataType), _shape(message.type)
        count = int(np.prod(shape))
        if message.WhichOneof("value") == "blobFileValue":
            assert message.blobFileValue.fileName == "@model_path/weights/weight.bin"
            return kind, _numbers(self.blob(message.blobFileValue.offset, kind, count), kind, count).reshape(shape)
        tensor = message.immediateValue.tensor
        held = getattr(tensor, tensor.WhichOneof("value")).values
        flat = _numbers(held, kind, count) if isinstance(held, bytes) else np.array(held, TYPES[kind])
        return kind, flat.reshape(shape)

    def blob(self, offset, kind, count):
        """The bytes of a blob, after its record is found to say what the program says."""
        sentinel, number, size, start, unused = struct.unpack_from("<IIQQQ", self.weights, offset)
        name, bits = BLOB_TYPES[number]
        assert (sentinel, name, offset % ALIGNMENT) == (0xDEADBEEF, kind, 0)
        assert (size, unused) == ((count * bits + 7) // 8, -count * bits % 8)
        return self.weights[start : start + size]

    def _looked_up(self, op):
        """LUT_TO_DENSE of floats: one table, or one a channel."""
        (kind, table), (index_kind, codes) = self.get(op, "lut"), self.get(op, "indices")
        if "shape" in op.attributes:  # iOS16: the indices are a bit stream
            shape = self.get(op, "shape")[1]
            bits = _bits(table.size)
            codes = spread(codes, bits, int(np.prod(shape))).reshape(shape)
        else:
            bits = _bits(table.shape[-2])
            assert index_kind == f"UINT{bits}"
        return Stored(bits, codes=codes, table=_by_group(table, bits), wide=kind == "FLOAT32")

    def _affine(self, op):
        """iOS16, 8 bits: symmetric ones are int8 and have zero points of 0."""
        (kind, data), (_, zero), (float_kind, scale) = (
            self.get(op, k) for k in ("quantized_data", "zero_point", "scale")
        )
        stored = Stored(8, codes=_unsigned(data, kind), scales=_floats(scale), wide=float_kind == "FLOAT32")
        if kind == "UINT8":
            stored.zero_points = zero.reshape(-1)
        else:
            assert not zero.any()
        return stored

    def _shift_scaled(self, op):
        """SHIFT_SCALE of codes: at once, through an integer table (the chain), or put together from two parts."""
        float_kind, scale = self.get(op, "scale")
        zero = self.get(op, "offset")[1].reshape(-1) if "offset" in op.inputs else None
        data = self.get(op, "data")
        if not isinstance(data, str):
            kind, codes = data
            bits, signed, codes = int(kind.strip("UINT")), kind.startswith("INT"), _unsigned(codes, kind)
        elif self.made_by[data].type == "constexpr_lut_to_dense":
            bits, signed, codes = self._chained(self.made_by[data])
        else:
            bits, signed, codes = self._split_codes(self.made_by[data])
        assert signed == (zero is None), "signed codes are symmetric ones, and these have no zero points"
        if zero is not None:
            assert np.array_equal(zero, zero.astype(np.uint8)) and zero.shape == (scale.size,)
            zero = zero.astype(np.uint8)
        return Stored(bits, codes=codes, scales=_floats(scale), zero_points=zero, wide=float_kind == "FLOAT32")

    def _chained(self, op):
        """A table of 0 .. 2^n - 1, of -2^(n-1) .. 2^(n-1) - 1, or of the two signs, behind n-bit indices: codes."""
        (_, table), (kind, codes) = self.get(op, "lut"), self.get(op, "indices")
        bits = int(kind.removeprefix("UINT"))
        signed = table.min() < 0
        meant = [-1, 1] if bits == 1 and signed else np.arange(2**bits) - signed * 2 ** (bits - 1)
        assert np.array_equal(table.reshape(-1).astype(int), meant)
        return bits, bool(signed), codes

    def _split_codes(self, op):
        """code = low + 2^(n-1) * high: (low - offset) * 1, both chosen by the high bit."""
        low = self.get(op, "data")
        if isinstance(low, str):  # six bits, widened by the identity
            low_bits, signed, low = self._chained(self.made_by[low])
            assert not signed
        else:
            low_bits, low = int(low[0].removeprefix("UINT")), low[1]
        ones, high = self._pair(self.get(op, "scale"))
        offsets, same = self._pair(self.get(op, "offset"))
        half = 2**low_bits
        assert ones == [1, 1] and np.array_equal(high, same) and offsets in ([0, -half], [half, 0])
        return low_bits + 1, offsets == [half, 0], (low + high * np.uint8(half)).astype(np.uint8)

    def _split_table(self, op):
        """w = 1 * (A[low] * {1, 0}[high] - B[low] * {0, -1}[high]): a table of which A and B are the halves."""
        lower, upper = (self.made_by[self.get(op, key)] for key in ("data", "offset"))
        halves = [self._looked_up(self.made_by[self.get(part, "data")]) for part in (lower, upper)]
        pairs = [self._pair(self.get(part, "scale")) for part in (lower, upper, op)]
        assert [factors for factors, _ in pairs] == [[1, 0], [0, -1], [1, 1]]
        assert "offset" not in lower.inputs and "offset" not in upper.inputs
        low, high = halves[0], pairs[0][1]
        assert np.array_equal(low.codes, halves[1].codes) and all(np.array_equal(high, again) for _, again in pairs)
        codes = (low.codes + high * np.uint8(2**low.bits)).astype(np.uint8)
        table = np.concatenate([half.table for half in halves], axis=1)
        return Stored(low.bits + 1, codes=codes, table=table, wide=low.wide)

    def _pair(self, name):
        """A table of two behind one-bit indices -> its entries, and the indices."""
        op = self.made_by[name]
        (_, table), (kind, bit) = self.get(op, "lut"), self.get(op, "indices")
        assert op.type == "constexpr_lut_to_dense" and kind == "UINT1" and table.size == 2
        return table.reshape(-1).tolist(), bit


def _numbers(data, kind, count):
    if kind in TYPES:
        return np.frombuffer(data, TYPES[kind], count)
    bits = int(kind.removeprefix("U").removeprefix("INT"))
    fields = spread(np.frombuffer(data, np.uint8), bits, count)
    if kind.startswith("U"):
        return fields
    half = 2 ** (bits - 1)
    return ((fields ^ np.uint8(half)).astype(np.int16) - half).astype(np.int8)


def _unsigned(codes, kind):
    """Signed codes k - 2^(n-1) -> k."""
    if kind.startswith("U"):
        return codes
    return (codes.astype(np.int16) + 2 ** (int(kind.removeprefix("INT")) - 1)).astype(np.uint8)


def _floats(scale):
    assert scale.ndim == 0 or scale.size == scale.shape[0], "groups run along another axis than the first"
    return scale.reshape(-1).astype(np.float32)


def _by_group(table, bits):
    assert table.ndim == 1 or table.size == table.shape[0] * 2**bits, "groups run along another axis than the first"
    return table.reshape(-1, 2**bits).astype(np.float32)


def _bits(entries):
    bits = int(entries).bit_length() - 1
    assert entries == 2**bits
    return bits


def _shape(message):
    return tuple(int(dim.constant.size) for dim in message.tensorType.dimensions)
