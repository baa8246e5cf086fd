"""The audit of ONNX files against the bytes of the file, read by a parser of protobuf's wire format."""

import math

import numpy as np
import onnx
import pytest
import vendor_files as vendor
from onnx import TensorProto, helper, numpy_helper
from vendor_files import WEIGHTS

from mobconv import backends
from mobconv.backends.size_audit import OTHER, PROGRAM, SHARED, judged, verdict
from mobconv.errors import InputError

FUNCTIONS = "functions that decode"


def fields(data, start=0, end=None):
    """(number, first byte of the field, first byte of its content, end) of a message, by the wire format."""
    at, end = start, len(data) if end is None else end

    def varint(at):
        value = shift = 0
        while True:
            value |= (data[at] & 127) << shift
            shift += 7
            at += 1
            if not data[at - 1] & 128:
                return value, at

    while at < end:
        first = at
        tag, at = varint(at)
        if tag & 7 == 0:
            _, stop = varint(at)
        elif tag & 7 == 2:
            length, at = varint(at)
            stop = at + length
        else:
            stop = at + {1: 8, 5: 4}[tag & 7]
        yield tag >> 3, first, at, stop
        at = stop


def parse(path):
    """Bytes of: the values of all initializers, the nodes, by position, and the functions."""
    data = path.read_bytes()
    values, nodes, functions = 0, [], 0
    for number, first, at, stop in fields(data):
        functions += (stop - first) * (number == 25)
        for inner, begin, content, end in fields(data, at, stop) if number == 7 else ():
            if inner == 1:
                nodes.append(end - begin)
            if inner == 5:  # float_data, int32_data, int64_data, raw_data, double_data
                held = [f for f in fields(data, content, end) if f[0] in (4, 5, 7, 9, 10)]
                # of raw bytes the content, of numbers the fields with their tags
                values += sum(e - (c if n == 9 else f) for n, f, c, e in held)
    return values, nodes, functions


def audited(path):
    """The audit, held to the file: every byte of values, of nodes that decode, and of functions has its place."""
    found = backends.get("onnx").size_audit(path)
    values, nodes, functions = parse(path)
    model = onnx.load(path)
    known = {tensor.name for tensor in model.graph.initializer}
    decoding = 0
    for node, size in zip(model.graph.node, nodes, strict=True):
        if all(name in known for name in node.input if name):
            known.update(node.output)
            decoding += size
    rest = dict(found.rest)
    placed = found.weight_bytes + rest.get(OTHER, 0) + rest.get(SHARED, 0)
    # nodes that decode biases are part of the program
    assert values <= placed <= values + decoding
    weights_only = found.weight_bytes - sum(t.other_bytes for t in found.tensors)
    assert weights_only + rest.get(OTHER, 0) <= values
    assert rest.get(FUNCTIONS, 0) == functions
    assert rest[PROGRAM] == path.stat().st_size - placed - functions
    assert found.file_bytes == path.stat().st_size == found.weight_bytes + sum(count for _, count in found.rest)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx-audit")


@pytest.fixture(scope="module")
def plain(folder):
    return vendor.ours("onnx/fp32", folder)[0]


def by_layer(found):
    return {tensor.name.partition(".")[0]: tensor for tensor in found.tensors}


@pytest.mark.parametrize(
    "scheme",
    [
        "fp32",
        "fp16",
        "w8-linear",
        "w5-kmeans",
        "w4-linear",
        "w3-symmetric-tensor",
        "w2-kmeans-channel",
        "w1-linear",
        "w4-kmeans-oc16",
        "w4-linear@native",
        "w8-symmetric@native",
        "w4-symmetric-oc16@native",
    ],
)
def test_our_files(folder, scheme):
    path, weight_bytes = vendor.ours(f"onnx/{scheme}", folder)
    found = audited(path)
    bits = int(scheme.partition("-")[0].strip("wfp"))
    assert {name: tensor.weights for name, tensor in by_layer(found).items()} == WEIGHTS
    for tensor in found.tensors:
        assert tensor.stored == bits and tensor.code_bytes == math.ceil(tensor.weights * bits / 8), tensor
    # `encode` counts the functions too, and less for the initializer that is gone
    assert abs(found.weight_bytes + dict(found.rest).get(FUNCTIONS, 0) - weight_bytes) <= 60 * len(WEIGHTS)
    assert {tensor.op for tensor in found.tensors} == {"conv", "linear"}


def test_parameters_of_our_files(folder):
    linear = by_layer(audited(vendor.ours("onnx/w5-linear", folder)[0]))["first"]
    assert (linear.scale_bytes, linear.zero_point_bytes, linear.table_bytes) == (128 * 2, 128 * 5 // 8, 0)
    assert linear.encoding == "affine 5-bit codes per channel"
    table = by_layer(audited(vendor.ours("onnx/w3-kmeans", folder)[0]))["first"]
    assert table.table_bytes == 8 * 2 and table.encoding == "lookup table 8 x float16, 3-bit codes"


def test_layer_rules(folder):
    path, _ = vendor.ours("onnx/w4-kmeans", folder, layers=vendor.LAYERS)
    found = by_layer(judged(audited(path), 4))
    assert found["first"].reason.startswith("exported in float: by a layer rule") and found["first"].stored == 32
    assert found["pointwise"].reason == "a layer rule of the recipe keeps it at 8 bits"
    assert found["second"].reason == "" and found["second"].stored == 4


def test_embeddings_and_matrix_products(folder):
    found = audited(vendor.ours("onnx/w4-kmeans", folder / "words", vendor.words())[0])
    assert sorted((tensor.op, tensor.weights, tensor.stored) for tensor in found.tensors) == [
        ("embedding", 6400, 4),
        ("matmul", 3072, 4),
    ]


@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
def test_quantize_dynamic(plain, folder, kind):
    found = audited(vendor.quantize_dynamic(plain, folder / f"{kind}.onnx", kind))
    assert {name: tensor.weights for name, tensor in by_layer(found).items()} == WEIGHTS
    for tensor in found.tensors:
        assert tensor.stored == 8 and tensor.code_bytes == tensor.weights and tensor.scale_bytes > 0
    assert "a code takes 8" in judged(found, 4).tensors[0].reason
    assert verdict(judged(found, 4)).startswith("asked 4 bits: 0 of 5 tensors")


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_quantize_static(plain, folder, form, per_channel):
    path = vendor.quantize_static(plain, folder / f"{form}{per_channel}.onnx", form, per_channel=per_channel)
    found = audited(path)
    assert {name: tensor.weights for name, tensor in by_layer(found).items()} == WEIGHTS
    for name, tensor in by_layer(found).items():
        assert tensor.stored == 8 and tensor.code_bytes == tensor.weights
        channels = {"stem": 16, "depthwise": 16, "pointwise": 256, "first": 128, "second": 10}[name]
        assert tensor.scale_bytes >= 4 * (channels if per_channel else 1)
        assert tensor.encoding == f"symmetric int8 per {'channel' if per_channel else 'tensor'}"


def test_matmul_nbits(folder):
    plain, _ = vendor.ours("onnx/fp32", folder / "words", vendor.words())
    found = judged(audited(vendor.matmul_nbits(plain, folder / "nbits.onnx")), 4)
    product, table = sorted(found.tensors, key=lambda tensor: tensor.op, reverse=True)
    assert (product.op, product.stored, product.weights) == ("matmul", 4, 48 * 64)
    assert product.encoding == "affine 4-bit codes in blocks of 32"
    assert (product.code_bytes, product.scale_bytes, product.zero_point_bytes) == (48 * 32, 48 * 2 * 4, 48)
    assert table.stored == 32
    assert table.reason == "MatMulNBits stores weights of MatMul only, and this is one of embedding"


def graph(path, nodes, initializers, opset=21, functions=(), domains=()):
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        initializers,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset), *domains], ir_version=10)
    onnx.save(model, path)
    return path


def values(name, *shape, dtype=np.float32):
    return numpy_helper.from_array(np.arange(math.prod(shape)).reshape(shape).astype(dtype), name)


def test_matmul_nbits_beside_a_convolution(tmp_path):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node(
            "MatMulNBits", ["c", "q", "s"], ["y"], domain="com.microsoft", K=32, N=4, bits=4, block_size=32
        ),
    ]
    initializers = [values("w", 4, 3, 3, 3), values("q", 4, 1, 16, dtype=np.uint8), values("s", 4)]
    domains = [helper.make_opsetid("com.microsoft", 1)]
    found = judged(audited(graph(tmp_path / "a.onnx", nodes, initializers, domains=domains)), 4)
    assert [tensor.stored for tensor in found.tensors] == [32, 4]
    assert "MatMulNBits stores weights of MatMul only, and this is one of conv" in found.tensors[0].reason


def test_floats_that_are_quantized_only_when_they_run(tmp_path):
    """What a quantization-aware training often exports."""
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Conv", ["x", "d"], ["y"]),
    ]
    initializers = [values("w", 4, 3, 3, 3), values("s", 1), values("z", 1, dtype=np.int8)]
    (tensor,) = audited(graph(tmp_path / "a.onnx", nodes, initializers)).tensors
    assert tensor.stored == 32 and tensor.is_float and "fold that node" in tensor.reason


def test_numbers_in_typed_fields(tmp_path):
    """-1 as an int32 takes ten bytes in protobuf: an 8-bit weight that is larger than a float one."""
    codes = helper.make_tensor("w", TensorProto.INT8, [4, 27], [-1] * 108)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    (tensor,) = audited(graph(tmp_path / "a.onnx", nodes, [codes, values("s", 1)])).tensors
    assert tensor.stored == 8 and tensor.code_bytes >= 1080


def test_weights_in_constant_nodes_and_in_branches(tmp_path):
    constant = helper.make_node("Constant", [], ["w"], value=values("", 4, 3, 3, 3))
    branch = helper.make_graph(
        [helper.make_node("Conv", ["x", "inner"], ["r"])],
        "b",
        [],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)],
        [values("inner", 4, 3, 1, 1)],
    )
    other = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["t"])],
        "o",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    nodes = [constant, helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other)]
    found = backends.get("onnx").size_audit(graph(tmp_path / "a.onnx", nodes, [values("c", 1, dtype=bool)]))
    assert sorted((tensor.name, tensor.bytes) for tensor in found.tensors) == [("inner", 48), ("w", 432)]


class TestExternalData:
    """The model, and the file beside it."""

    def save(self, path, **entries):
        nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
        graph(path, nodes, [values("w", 4, 3, 3, 3)])
        model = onnx.load(path)
        onnx.save(model, path, save_as_external_data=True, location="net.data", size_threshold=0)
        model = onnx.load(path, load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            entry.value = str(entries.get(entry.key, entry.value))
        path.write_bytes(model.SerializeToString())
        return path

    def test_it_is_part_of_the_file(self, tmp_path):
        path = self.save(tmp_path / "net.onnx")
        with (tmp_path / "net.data").open("ab") as file:
            file.write(bytes(100))
        found = backends.get("onnx").size_audit(path)
        assert found.file_bytes == sum(entry.stat().st_size for entry in tmp_path.iterdir())
        assert found.tensors[0].bytes == 432 and "net.data" in found.notes[0]
        assert dict(found.rest)["external data: alignment, and bytes that no tensor reads"] >= 100

    @pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "", "..\\secret", "gone.data"])
    def test_it_stays_in_the_folder(self, tmp_path, location):
        (tmp_path / "secret").write_bytes(bytes(500))
        (tmp_path / "model").mkdir()
        path = self.save(tmp_path / "model" / "net.onnx", location=location)
        with pytest.raises(InputError, match=r"net\.onnx: w has its data in .*(outside|no such file)"):
            backends.get("onnx").size_audit(path)

    def test_no_link_leads_out(self, tmp_path):
        (tmp_path / "secret").write_bytes(bytes(500))
        (tmp_path / "model").mkdir()
        path = self.save(tmp_path / "model" / "net.onnx", location="link")
        (tmp_path / "model" / "link").symlink_to(tmp_path / "secret")
        with pytest.raises(InputError, match="outside"):
            backends.get("onnx").size_audit(path)

    @pytest.mark.parametrize(
        "entries", [{"offset": 1}, {"offset": -4}, {"length": 431}, {"length": 10**12}, {"offset": "x"}]
    )
    def test_it_is_whole(self, tmp_path, entries):
        with pytest.raises(InputError, match=r"net\.onnx: w"):
            backends.get("onnx").size_audit(self.save(tmp_path / "net.onnx", **entries))


class TestDamaged:
    """One message, whatever is wrong."""

    @pytest.mark.parametrize("content", [b"", bytes(64), b"<html>404</html>", b"\x08\x08", b"\x7f\x01" * 50])
    def test_no_onnx(self, tmp_path, content):
        (tmp_path / "net.onnx").write_bytes(content)
        with pytest.raises(InputError, match=r"net\.onnx"):
            backends.get("onnx").size_audit(tmp_path / "net.onnx")

    def test_cut_short(self, plain, tmp_path):
        data = plain.read_bytes()
        for share in (0.02, 0.3, 0.7, 0.999):
            (tmp_path / "net.onnx").write_bytes(data[: int(len(data) * share)])
            with pytest.raises(InputError, match="truncated"):
                backends.get("onnx").size_audit(tmp_path / "net.onnx")

    def test_flipped_bytes_never_end_in_a_traceback(self, plain, tmp_path):
        """What still reads as a file adds up."""
        data, random = plain.read_bytes(), np.random.default_rng(0)
        for _ in range(60):
            broken = bytearray(data)
            for at in (*random.integers(0, 64, 2), *random.integers(0, 3000, 2), int(random.integers(len(data)))):
                broken[at] = int(random.integers(0, 256))
            (tmp_path / "net.onnx").write_bytes(broken)
            try:
                backends.get("onnx").size_audit(tmp_path / "net.onnx")
            except InputError as error:
                assert "net.onnx" in str(error)

    def test_values_that_do_not_fit_the_shape(self, tmp_path):
        weight = values("w", 4, 3, 3, 3)
        weight.dims[0] = 5
        with pytest.raises(InputError, match="432 bytes, where its shape needs 540"):
            backends.get("onnx").size_audit(
                graph(tmp_path / "a.onnx", [helper.make_node("Conv", ["x", "w"], ["y"])], [weight])
            )
        weight.dims[0] = -4
        with pytest.raises(InputError, match="a dimension below 0"):
            backends.get("onnx").size_audit(
                graph(tmp_path / "a.onnx", [helper.make_node("Conv", ["x", "w"], ["y"])], [weight])
            )
        weight.data_type = 99
        with pytest.raises(InputError, match="unknown element type 99"):
            backends.get("onnx").size_audit(
                graph(tmp_path / "a.onnx", [helper.make_node("Conv", ["x", "w"], ["y"])], [weight])
            )

    def test_a_folder_and_a_file_that_is_not_there(self, tmp_path):
        for path in (tmp_path, tmp_path / "gone.onnx"):
            with pytest.raises(InputError, match="no such ONNX file"):
                backends.get("onnx").size_audit(path)
