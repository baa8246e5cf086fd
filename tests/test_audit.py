"""What an audit adds up to, what it says of bits asked, and how a weight is followed back to its constants."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mobconv.backends.byte_attribution import (
    CODE,
    SCALE,
    TABLE,
    ZERO,
    ByteAttribution,
    DecodingOp,
    StoredConstant,
    WeightRead,
)
from mobconv.backends.size_audit import Audit, TensorAudit, cell_of, explained, judged, record_of, threshold, verdict
from mobconv.errors import AuditError, CellError, InputError
from mobconv.report import audits

PATH = Path("net.onnx")


def tensor(name="a", weights=100, stored=4.0, encoding="affine int4 per channel", **more):
    size = more.pop("code_bytes", int(weights * stored) // 8)
    return TensorAudit(name, (weights // 10, 10), weights, "conv", stored, encoding, size, **more)


def audit(*tensors, rest=7, record=""):
    total = sum(held.bytes for held in tensors) + rest
    return Audit(PATH, "ONNX", total, tensors, (("program", rest),), record)


def test_all_bytes_are_a_tensors_or_the_rests():
    held = tensor(table_bytes=1, scale_bytes=2, zero_point_bytes=3, other_bytes=4)
    assert held.bytes == 50 + 10 and held.disk_bits == 8 * 60 / 100
    assert audit(held, held).weight_bytes == 120 and audit(held).file_bytes == 67


@pytest.mark.parametrize("wrong", [66, 68, 0])
def test_parts_that_are_not_the_whole(wrong):
    with pytest.raises(AuditError, match=r"net\.onnx: the audit's parts are 67 bytes.*please report"):
        Audit(PATH, "ONNX", wrong, (tensor(other_bytes=10),), (("program", 7),))
    assert issubclass(AuditError, CellError)


def test_no_part_is_negative():
    with pytest.raises(AuditError):
        Audit(PATH, "ONNX", 43, (tensor(),), (("program", -7),))


def test_a_shape_that_no_file_holds():
    with pytest.raises(InputError, match="declares a shape"):
        audit(tensor(weights=1 << 63, code_bytes=4))


def test_bits_asked():
    wide = tensor("b", 300, 32.0, "float32", code_bytes=1200, reason="too small")
    eight = tensor("c", 100, 8.0, "affine int8 per tensor")
    found = judged(audit(tensor(), wide, eight), 4)
    assert [held.wider for held in found.tensors] == [False, True, True]
    assert [held.reason for held in found.tensors] == [
        "",
        "too small",
        "bits asked 4, but a code takes 8 (affine int8 per tensor)",
    ]
    assert verdict(found) == (
        "asked 4 bits: 1 of 3 tensors, 20 % of the weights, are stored in 4; 1 (60 % of the weights) stored in 32 "
        "bits: 88 % of the file, because: too small; 1 (20 % of the weights) stored in 8 bits: 7.4 % of the file, "
        "because: bits asked 4, but a code takes 8 (affine int8 per tensor)"
    )
    assert [held.reason for held in judged(found, 32).tensors] == ["", "", ""]
    assert judged(audit(wide), None) == audit(wide)


def test_nothing_asked():
    wide = tensor("b", 300, 32.0, "float32", code_bytes=1200)
    assert (
        verdict(audit(tensor(), wide))
        == "stored: 1 (75 % of the weights) in 32 bits; 1 (25 % of the weights) in 4 bits"
    )
    assert "no weights" in verdict(audit())


def test_a_float_file_is_told_as_one():
    found = judged(audit(tensor(stored=32.0, encoding="float32", code_bytes=400)), 4)
    assert found.tensors[0].reason == "the file has no quantized weights at all"


@pytest.mark.parametrize(
    ("cell", "asked", "native", "encoding", "reason"),
    [
        (
            "onnx/w4-kmeans",
            4,
            "",
            "float32",
            "exported in float: by a layer rule, or because the network does not use it as the weight of a layer",
        ),
        ("onnx/w4-kmeans", 4, "", "affine int8 per channel", "a layer rule of the recipe keeps it at 32 bits"),
        ("onnx/w8-linear", 4, "", "float32", "the file was exported as onnx/w8-linear"),
        ("tflite/w4-linear@native", 4, "why", "affine int8 per channel", "why"),
        (
            "tflite/w4-linear@native",
            4,
            "why",
            "float32",
            "exported in float: by a layer rule, or because the network does not use it as the weight of a layer",
        ),
    ],
)
def test_reasons_of_our_own_files(cell, asked, native, encoding, reason):
    held = tensor(stored=32.0, encoding=encoding, code_bytes=400)
    found = judged(audit(held, record=json.dumps({"cell": cell})), asked, native)
    assert found.tensors[0].reason == reason


def test_records():
    assert cell_of(audit()) is None and str(cell_of(audit(record='{"cell": "onnx/w4-kmeans"}'))) == "onnx/w4-kmeans"
    assert cell_of(audit(tensor(), record='{"cell": "onnx/fp32"}')) is None  # quantized by another tool since
    assert cell_of(audit(record='{"cell": "onnx/of-a-later-mobconv"}')) is None
    for text in ("{", "[]", '"x"'):
        with pytest.raises(InputError, match="record is damaged"):
            record_of(text, PATH)


def test_what_the_other_tensors_tell():
    wide = tensor("b", stored=32.0, encoding="float32", code_bytes=400)
    linear = replace(wide, op="linear")
    found = explained(audit(tensor(), wide, linear), lambda held: "").tensors
    assert found[0].reason == "" and "other conv weights" in found[1].reason and "no linear weight" in found[2].reason
    assert [held.reason for held in explained(audit(wide, linear), lambda held: "").tensors] == ["", ""]
    ours = audit(tensor(), wide, record='{"cell": "onnx/w4-linear"}')
    assert [held.reason for held in explained(ours, lambda held: "").tensors] == ["", ""]
    assert [held.reason for held in explained(ours, lambda held: "why").tensors] == ["why", "why"]


def test_a_threshold_applies_only_where_the_file_bears_it_out():
    wide = tensor("b", 20, 32.0, "float32", code_bytes=80)
    assert threshold([tensor(weights=100), wide], 50, "small")(wide) == "small"
    assert threshold([tensor(weights=40), wide], 50, "small")(wide) == ""
    assert threshold([wide], 50, "small")(wide) == ""


def test_the_table():
    long = "a.very.long.name.of.a.layer.in.a.model.weight"
    found = judged(audit(tensor(long), tensor("b", 300, 32.0, "float32", code_bytes=1200, reason="small")), 4)
    assert [held.name for held in audits.ordered(found)] == ["b", long]
    shown = {c.title: [c.show(held) for held in audits.ordered(found)] for c in audits.columns(found, wide=False)}
    assert shown["bits"] == ["32*", "4"] and shown["why"] == ["[1]", ""] and shown["params"] == ["0", "0"]
    _, rows, totals = audits.table(found, 80)
    assert rows[1][0].endswith("in.a.model.weight") and rows[1][0].startswith("…") and totals[0] == "2 tensors"
    assert audits.shortened("p_first_weight_to_fp16_palettized", 30) == "p_first_weight"
    assert {"codes", "stored as", "scales"} <= {column.title for column in audits.columns(found, wide=True)}
    assert audits.rest(found)[-1] == ("size on disk", "1,257", "100.0 %")


class TestTally:
    """Graphs by hand."""

    def leaf(self, name, count, kind="int8", bits=8, **more):
        shape = more.pop("shape", (count // 10, 10) if count >= 20 else (count,))
        return StoredConstant(more.pop("key", name), name, shape, kind, bits, -(-count * bits // 8), **more)

    def weigh(self, leaves, steps, *sites):
        tally = ByteAttribution(constants={leaf.name: leaf for leaf in leaves}, ops={step.key: step for step in steps})
        for value, op in sites:
            tally.add(WeightRead(value, value, op, f"{op} out"))
        return tally, tally.tensors()

    def test_codes_scales_zero_points_and_the_op(self):
        leaves = [self.leaf("q", 100), self.leaf("s", 10, "float32", 32), self.leaf("z", 10), self.leaf("bias", 10)]
        step = DecodingOp("w", "DequantizeLinear", (("q", CODE), ("s", SCALE), ("z", ZERO)), bytes=9)
        tally, (found,) = self.weigh(leaves, [step], ("w", "conv"))
        assert (found.code_bytes, found.scale_bytes, found.zero_point_bytes, found.other_bytes) == (100, 40, 10, 9)
        assert found.stored == 8 and found.encoding == "affine int8 per channel" and found.name == "q"
        assert [leaf.name for leaf in tally.unowned()] == ["bias"]

    def test_zero_points_that_are_all_zero_are_none(self):
        leaves = [self.leaf("q", 100), self.leaf("s", 1, "float32", 32), self.leaf("z", 1, null=True)]
        step = DecodingOp("w", "DequantizeLinear", (("q", CODE), ("s", SCALE), ("z", ZERO)))
        assert self.weigh(leaves, [step], ("w", "conv"))[1][0].encoding == "symmetric int8 per tensor"

    def test_a_stream_of_several_weights_is_split_without_a_byte_lost(self):
        stream = StoredConstant("pool", "pool", (101,), "int16", 16, 202, used=15)
        steps = [
            DecodingOp(name, "GATHER", (("table", TABLE), ("pool", CODE)), bytes=5, shape=(count, 10))
            for name, count in (("a", 30), ("b", 7), ("c", 1))
        ]
        tally, found = self.weigh(
            [stream, self.leaf("table", 16, "float32", 32)], steps, ("a", "conv"), ("b", "conv"), ("c", "conv")
        )
        assert [held.code_bytes for held in found] == [159, 37, 6] and sum(held.code_bytes for held in found) == 202
        assert [held.table_bytes for held in found] == [0, 0, 0] and tally.shared_bytes == 64
        assert {held.stored for held in found} == {round(101 * 15 / 390, 3)}

    def test_a_weight_that_two_ops_read_is_one(self):
        _, found = self.weigh(
            [self.leaf("w", 100, "float32", 32)], [], ("w", "embedding"), ("w", "linear"), ("w", "linear")
        )
        assert [(held.op, held.bytes) for held in found] == [("embedding, linear", 400)]

    def test_equal_constants_that_lie_once_are_counted_once(self):
        leaves = [self.leaf("a", 100, key="same"), self.leaf("b", 100, key="same")]
        _, found = self.weigh(leaves, [], ("a", "conv"), ("b", "conv"))
        assert [held.bytes for held in found] == [50, 50] and {held.stored for held in found} == {8}

    def test_what_is_computed_and_what_is_no_weight(self):
        leaves = [self.leaf("i", 100, "int64", 64), self.leaf("v", 10, "float32", 32)]
        tally, found = self.weigh(leaves, [], ("i", "embedding"), ("v", "matmul"), ("x", "matmul"))
        assert found == [] and len(tally.unowned()) == 2

    def test_ops_in_a_circle_end(self):
        steps = [DecodingOp("a", "Add", (("b", CODE), ("q", CODE))), DecodingOp("b", "Add", (("a", CODE),))]
        assert self.weigh([self.leaf("q", 100)], steps, ("a", "conv"))[1][0].code_bytes == 100

    def test_a_table_of_a_table_is_a_table(self):
        """coremltools' joint compression: the lookup table is quantized itself."""
        leaves = [self.leaf("q", 100, "uint4", 4), self.leaf("lut", 16), self.leaf("s", 1, "float16", 16)]
        steps = [
            DecodingOp("t", "shift_scale", (("lut", CODE), ("s", SCALE))),
            DecodingOp("w", "lut_to_dense", (("q", CODE), ("t", TABLE))),
        ]
        (found,) = self.weigh(leaves, steps, ("w", "conv"))[1]
        assert (found.code_bytes, found.table_bytes, found.scale_bytes, found.stored) == (50, 18, 0, 4)
