"""The audit of TFLite files against their flatbuffers, read with struct alone."""

import math
import struct

import numpy as np
import pytest
import vendor_files as vendor
from vendor_files import WEIGHTS

from mobconv import backends
from mobconv.backends.size_audit import OTHER, PROGRAM, SHARED, judged, verdict
from mobconv.errors import InputError

BITS = {0: 32, 1: 16, 2: 32, 4: 64, 7: 16, 9: 8, 17: 4, 19: 2}  # TensorType -> bits


class Table:
    """A table of a flatbuffer by its place; fields by number (schema.fbs)."""

    def __init__(self, data, at):
        self.data, self.at = data, at
        self.vtable = at - struct.unpack_from("<i", data, at)[0]

    def field(self, number):
        size = struct.unpack_from("<H", self.data, self.vtable)[0]
        place = 4 + 2 * number
        held = struct.unpack_from("<H", self.data, self.vtable + place)[0] if place < size else 0
        return self.at + held if held else None

    def number(self, number, form="<I", default=0):
        at = self.field(number)
        return default if at is None else struct.unpack_from(form, self.data, at)[0]

    def vector(self, number):
        """(first byte, count); (0, 0) where it is not there."""
        at = self.field(number)
        if at is None:
            return 0, 0
        start = at + struct.unpack_from("<I", self.data, at)[0]
        return start + 4, struct.unpack_from("<I", self.data, start)[0]

    def tables(self, number):
        start, count = self.vector(number)
        places = [start + 4 * i for i in range(count)]
        return [Table(self.data, at + struct.unpack_from("<I", self.data, at)[0]) for at in places]

    def table(self, number):
        at = self.field(number)
        return None if at is None else Table(self.data, at + struct.unpack_from("<I", self.data, at)[0])


def parse(path):
    """Bytes of: constants' values, each buffer once; their scales; their zero points; codes narrower than 16 bits."""
    data = path.read_bytes()
    model = Table(data, struct.unpack_from("<I", data)[0])
    buffers = model.tables(4)
    values, scales, zeros, codes = {}, {}, {}, {}
    for tensor in model.tables(2)[0].tables(0):
        start, count = buffers[tensor.number(2)].vector(0)
        if not count:
            continue
        kind = tensor.number(1, "<b")
        at, length = tensor.vector(0)
        shape = struct.unpack_from(f"<{length}i", data, at)
        assert count == math.ceil(math.prod(shape) * BITS[kind] / 8)
        values[start] = count
        quantization = tensor.table(4)
        if quantization is not None and quantization.vector(2)[1]:
            scales[quantization.vector(2)[0]] = 4 * quantization.vector(2)[1]
            zeros[quantization.vector(3)[0]] = 8 * quantization.vector(3)[1]
            if BITS[kind] <= 8 and len(shape) > 1 and math.prod(shape) > 1:
                codes[start] = count
    return tuple(sum(held.values()) for held in (values, scales, zeros, codes))


def audited(path, decoded=True):
    """The audit, held to the file. decoded: whether ops of the file decode weights, which take bytes too."""
    found = backends.get("tflite").size_audit(path)
    values, scales, zeros, _ = parse(path)
    rest = dict(found.rest)
    weights = sum(t.code_bytes + t.table_bytes + t.scale_bytes + t.zero_point_bytes for t in found.tensors)
    ops = sum(t.other_bytes for t in found.tensors)
    # constants that several weights share stand in one line with the ops that do
    inside = values + scales + zeros
    assert inside - rest.get(SHARED, 0) <= weights + rest[OTHER] + ops <= inside + ops
    if not decoded:
        # biases of integer networks have scales, which are no weights'
        assert ops == 0 and SHARED not in rest
        assert values <= weights + rest[OTHER] <= inside
    assert found.file_bytes == path.stat().st_size == found.weight_bytes + sum(rest.values()) and rest[PROGRAM] > 0
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tflite-audit")


@pytest.fixture(scope="module")
def plain(folder):
    """With names, as the converter gives it."""
    return vendor.litert(folder / "float.tflite")


def by_size(found):
    return {tensor.weights: tensor for tensor in found.tensors}


WIDE = (WEIGHTS["stem"], WEIGHTS["depthwise"])  # convolutions wider than 1x1: few enough to lie in wider types


@pytest.mark.parametrize("scheme", ["fp32", "fp16", "w8-linear", "w4-linear", "w2-symmetric", "w4-linear@native"])
def test_our_files_in_types_of_tflite(folder, scheme):
    found = audited(vendor.ours(f"tflite/{scheme}", folder)[0], decoded=scheme != "fp32")
    bits = 8 if scheme.endswith("@native") else int(scheme.partition("-")[0].strip("wfp"))
    assert sorted(by_size(found)) == sorted(WEIGHTS.values())
    for weights, tensor in by_size(found).items():
        assert tensor.stored == (max(bits, 8) if weights in WIDE else bits)
        assert tensor.code_bytes == math.ceil(weights * tensor.stored / 8)
    if bits < 16:
        codes = parse(vendor.ours(f"tflite/{scheme}", folder)[0])[3]
        assert sum(tensor.code_bytes for tensor in found.tensors) == codes
        first = by_size(found)[WEIGHTS["first"]]
        assert (first.scale_bytes, first.zero_point_bytes) == (128 * 4, 128 * 8)


@pytest.mark.parametrize(
    "scheme", ["w7-kmeans", "w5-linear", "w3-symmetric", "w4-kmeans", "w1-kmeans", "w3-kmeans-oc16"]
)
def test_our_files_that_ops_unpack(folder, scheme):
    """15 bits of codes in an int16: 16/15 of n bits, and a part of the padding."""
    found = audited(vendor.ours(f"tflite/{scheme}", folder)[0])
    bits = int(scheme[1])
    packed = {weights: tensor for weights, tensor in by_size(found).items() if weights not in WIDE}
    for weights, tensor in packed.items():
        assert tensor.stored == bits, tensor
        assert abs(tensor.code_bytes - weights * bits * 16 / 15 / 8) <= 4, tensor
    total = sum(packed)
    planes = math.ceil(total / 15) * 2 * bits
    assert sum(tensor.code_bytes for tensor in packed.values()) == planes


def test_tables_and_scales_of_unpacked_files(folder):
    first = by_size(audited(vendor.ours("tflite/w5-linear", folder)[0]))[WEIGHTS["first"]]
    assert (first.scale_bytes, first.zero_point_bytes) == (128 * 4, 128 + 4 + 8)  # int8, with a scale and an offset
    assert first.encoding == "affine 5-bit codes per channel by a table 32 x float32"
    first = by_size(audited(vendor.ours("tflite/w4-kmeans", folder)[0]))[WEIGHTS["first"]]
    assert first.table_bytes == 16 * 4 and first.encoding == "lookup table 16 x float32, 4-bit codes"


def test_filters_in_wider_types_say_why(folder):
    found = judged(audited(vendor.ours("tflite/w4-linear", folder)[0]), 4)
    for weights, tensor in by_size(found).items():
        assert ("XNNPACK convolves with constants" in tensor.reason) == (weights in WIDE)
    assert verdict(found).startswith("asked 4 bits: 3 of 5 tensors, 99 % of the weights, are stored in 4; 2 (1.5 %")


def test_layer_rules(folder):
    found = by_size(judged(audited(vendor.ours("tflite/w4-kmeans", folder, layers=vendor.LAYERS)[0]), 4))
    assert (
        found[WEIGHTS["first"]].reason
        == "exported in float: by a layer rule, or because the network does not use it as the weight of a layer"
    )
    assert found[WEIGHTS["pointwise"]].reason == "a layer rule of the recipe keeps it at 8 bits"
    assert found[WEIGHTS["second"]].reason == ""


_FLOATS = [{"match": f"{name}.*", "keep": "fp32"} for name in ("first", "pointwise")]


@pytest.mark.parametrize(
    ("scheme", "layers", "encoding"),
    [
        # few weights have codes, so filters are no small part of them, and none lies in XNNPACK's types
        ("w4-kmeans", [*_FLOATS, {"match": "stem.*", "bits": 8}], "lookup table 256 x float32, 8-bit codes"),
        ("w4-linear", [*_FLOATS, {"match": "stem.*", "bits": 8}], "affine int8 per channel"),
        ("w4-linear", [{"match": "stem.*", "bits": 8}], "affine int8 per channel"),
    ],
)
def test_filters_that_a_layer_rule_widens(folder, scheme, layers, encoding):
    found = by_size(judged(audited(vendor.ours(f"tflite/{scheme}", folder, layers=layers)[0]), 4))
    assert found[WEIGHTS["stem"]].encoding == encoding
    assert found[WEIGHTS["stem"]].reason == "a layer rule of the recipe keeps it at 8 bits"
    beside = found[WEIGHTS["depthwise"]]
    assert ("XNNPACK convolves" in beside.reason) == (layers[0]["match"] == "stem.*")
    assert beside.stored == (8 if layers[0]["match"] == "stem.*" else 4)


@pytest.mark.parametrize("scheme", ["w4-kmeans", "w2-kmeans-oc16", "w1-linear", "w1-symmetric", "w3-symmetric"])
def test_wider_types_at_every_kind_of_codes(folder, scheme):
    found = by_size(judged(audited(vendor.ours(f"tflite/{scheme}", folder)[0]), int(scheme[1])))
    for weights in WIDE:
        assert "XNNPACK convolves with constants" in found[weights].reason, found[weights]


def test_weight_bytes_are_about_those_that_encode_counts(folder):
    """Both count ops; alignment, and what all weights share, is a weight's to `encode` only."""
    for scheme in ("fp32", "w8-linear", "w5-linear", "w4-kmeans"):
        path, weight_bytes = vendor.ours(f"tflite/{scheme}", folder)
        found = audited(path)
        shared = dict(found.rest).get(SHARED, 0)
        assert abs(found.weight_bytes + shared - weight_bytes) <= 0.05 * path.stat().st_size


@pytest.mark.parametrize("kind", ["weight_only", "dynamic"])
@pytest.mark.parametrize("bits", [8, 4])
def test_ai_edge_quantizer(plain, folder, bits, kind):
    path = vendor.ai_edge(plain, folder / f"{kind}{bits}.tflite", bits, kind)
    found = judged(audited(path, decoded=kind == "weight_only"), bits)
    assert sorted(by_size(found)) == sorted(WEIGHTS.values())
    for weights, tensor in by_size(found).items():
        left = bits == 4 and weights == WEIGHTS["depthwise"]
        assert tensor.stored == (32 if left else bits)
        assert tensor.code_bytes == math.ceil(weights * tensor.stored / 8)
        assert ("ai-edge-quantizer has no 4-bit depthwise conv" in tensor.reason) == left
    first = by_size(found)[WEIGHTS["first"]]
    assert (first.scale_bytes, first.zero_point_bytes) == (128 * 4, 128 * 8)
    assert first.encoding == f"symmetric int{bits} per channel" and "Linear_first" in first.name
    assert sum(t.code_bytes for t in found.tensors if not t.is_float) == parse(path)[3]


def test_the_plain_converter(plain):
    found = judged(audited(plain, decoded=False), 8)
    assert {tensor.stored for tensor in found.tensors} == {32}
    assert {tensor.op for tensor in found.tensors} == {"conv", "depthwise conv", "linear"}
    assert verdict(found).endswith("because: the file has no quantized weights at all")


class TestDamaged:
    """One message, whatever is wrong."""

    @pytest.mark.parametrize(
        "content", [b"", bytes(64), b"<html>404</html>", b"\x1c\0\0\0TFL3", b"\x1c\0\0\0TFL3" + bytes(99)]
    )
    def test_no_tflite(self, tmp_path, content):
        (tmp_path / "net.tflite").write_bytes(content)
        with pytest.raises(InputError, match=r"net\.tflite"):
            backends.get("tflite").size_audit(tmp_path / "net.tflite")

    def test_cut_short(self, plain, tmp_path):
        data = plain.read_bytes()
        for share in (0.01, 0.3, 0.9, 0.99):
            (tmp_path / "net.tflite").write_bytes(data[: int(len(data) * share)])
            with pytest.raises(InputError, match="damaged or truncated"):
                backends.get("tflite").size_audit(tmp_path / "net.tflite")

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            backends.get("tflite").size_audit(tmp_path / "gone.tflite")

    def test_flipped_bytes_never_end_in_a_traceback(self, plain, tmp_path):
        """In the tables, which stand at the end; what still reads as a file adds up."""
        data, random = plain.read_bytes(), np.random.default_rng(0)
        for _ in range(60):
            broken = bytearray(data)
            for at in (*random.integers(0, 64, 2), *random.integers(len(data) - 4000, len(data), 3)):
                broken[at] = int(random.integers(0, 256))
            (tmp_path / "net.tflite").write_bytes(broken)
            try:
                backends.get("tflite").size_audit(tmp_path / "net.tflite")
            except InputError as error:
                assert "net.tflite" in str(error)
