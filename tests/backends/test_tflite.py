"""TFLite: codes, error and size of every cell together, on a tiny network converted once.

`decoded` reads a file with the flatbuffer classes and numpy alone: it follows the ops that compute a
weight and so holds the layout that encode.py documents, without any code of the writer.
"""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mobconv import backends
from mobconv.backends.tflite import backend
from mobconv.errors import BackendError, OutputError
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.weights import FloatWeight, QuantizedWeight
from mobconv.schemes import Cell, Compute, Granularity, Mode, Scheme, Storage

SCHEMES = [Scheme(b, m, g) for b, m, g in itertools.product(range(1, 9), Mode, Granularity)]
# Bytes beside codes, scales, zero points and tables: a weight's tensors, buffers and ops, and, once a
# file, the ops that unpack a stream.
OVERHEAD = {"native": 125, "table": 400, Mode.SYMMETRIC: 420, Mode.LINEAR: 680}
UNPACKING = 4500
# of an ADD beside the BATCH_MATMUL that a 1x1 convolution becomes; the tiny network has one
MATMUL = 120


@pytest.fixture(scope="session")
def tiny():
    """conv, depthwise with stride, 1x1, linear: (N, 3, 9, 9) -> (N, 5)."""
    import torch
    from torch import nn

    from mobconv.model.trace import trace

    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, 2, 1, groups=8),
        nn.Conv2d(8, 12, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )
    return trace(layers, {"image": np.zeros((1, 3, 9, 9), np.float32)})


@pytest.fixture(scope="session")
def template(tiny, tmp_path_factory):
    directory = tmp_path_factory.mktemp("template")
    backend.convert(tiny, Compute.FP32, directory)
    return directory


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).normal(0.5, 1, (40, 3, 9, 9)).astype(np.float32)


def random_weight(name, site, scheme, values=None):
    """Any codes and any fp16 parameters: harder than what a quantizer would choose."""
    rng = np.random.default_rng([len(name), scheme.bits])
    if scheme.mode is None:
        return FloatWeight(
            name, values.astype(np.float16).astype(np.float32) if scheme.bits == 16 else values, scheme.bits
        )
    axis = site.axis if scheme.granularity is Granularity.CHANNEL else None
    groups = 1 if axis is None else site.shape[axis]
    lowest = 1 if scheme.mode is Mode.SYMMETRIC and scheme.bits > 1 else 0
    codes = rng.integers(lowest, 2**scheme.bits, site.shape, dtype=np.uint8)
    fp16 = lambda size: rng.uniform(0.01, 0.3, size).astype(np.float16).astype(np.float32)  # noqa: E731
    scale = zero_point = table = None
    if scheme.mode is Mode.KMEANS or (scheme.mode is Mode.LINEAR and scheme.bits == 1):
        table = fp16((groups, 2**scheme.bits)) - np.float32(0.125)
    else:
        scale = fp16(groups) / np.float32(2**scheme.bits)
        if scheme.mode is Mode.LINEAR:
            zero_point = rng.integers(0, 2**scheme.bits, groups, dtype=np.uint8)
    return QuantizedWeight(name, scheme.bits, scheme.mode, axis, codes, scale, zero_point, table, True)


def weights_of(program, scheme, rules=()):
    values = program.floats()
    chosen = dict(rules)
    return {
        name: random_weight(name, site, chosen.get(name, scheme), values[name]) for name, site in program.sites.items()
    }


class Reader:
    """The constants and ops of a file; computes any tensor that depends on constants only."""

    def __init__(self, path):
        from ai_edge_litert import schema_py_generated as schema

        self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
        self.graph = self.model.subgraphs[0]
        self.types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
        names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
        self.ops = [(names[self.model.operatorCodes[op.opcodeIndex].builtinCode], op) for op in self.graph.operators]
        self.made_by = {op.outputs[0]: (code, op) for code, op in self.ops}

    def weights(self):
        """Tensor numbers of the weights, in the order the network uses them."""
        users = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL")
        return [op.inputs[1] for code, op in self.ops if code in users]

    def constant(self, index):
        tensor = self.graph.tensors[index]
        data, kind = self.model.buffers[tensor.buffer].data, self.types[tensor.type]
        shape = [] if tensor.shape is None else tensor.shape
        if kind in ("INT4", "INT2"):
            bits = int(kind[3:])
            fields = (data[:, None] >> np.arange(0, 8, bits)) & (2**bits - 1)
            flat = fields.reshape(-1)[: int(np.prod(shape))].astype(np.int8)
            return np.where(flat >= 2 ** (bits - 1), flat - 2**bits, flat).reshape(shape)
        return data.view(kind.lower()).reshape(shape)

    def value(self, index):
        """Integer and table part of the decoding, in numpy."""
        if index not in self.made_by:
            return self.constant(index)
        code, op = self.made_by[index]
        inputs = [self.value(i) for i in op.inputs]
        options = op.builtinOptions
        if code == "GATHER":
            return self.gather(*inputs, options.axis, options.batchDims)
        if code == "RESHAPE":
            return inputs[0].reshape(options.newShape)
        if code == "STRIDED_SLICE":
            return inputs[0][int(inputs[1][0]) : int(inputs[2][0])]
        return {"TILE": np.tile, "CONCATENATION": lambda *columns: np.concatenate(columns, 1)}[code](*inputs)

    @staticmethod
    def gather(table, positions, axis, batch):
        assert axis == batch
        if batch == 0:
            return table[positions]
        rows = table.reshape(-1, *table.shape[batch:])
        flat = positions.reshape(len(rows), -1)
        found = rows[np.arange(len(rows))[:, None], flat]
        return found.reshape(*positions.shape, *table.shape[batch + 1 :])


def decoded(reader, index, weight):
    """(codes, scale, zero point, table) as they lie on disk, in the constant's layout."""
    code, op = reader.made_by[index]
    if code == "DEQUANTIZE":
        held = reader.graph.tensors[op.inputs[0]]
        half = 2 ** (weight.bits - 1)
        assert reader.types[held.type] == f"INT{weight.bits}"
        found = held.quantization
        return reader.constant(op.inputs[0]).astype(int) + half, found.scale, found.zeroPoint + half, None
    scale = zero = table = None
    if code == "MUL":
        scale = reader.constant(op.inputs[1]).reshape(-1)
        code, op = reader.made_by[op.inputs[0]]
        if code == "SUB":
            stored = reader.made_by[op.inputs[1]][1].inputs[0]
            assert reader.graph.tensors[stored].quantization.scale == [1]
            zero = reader.constant(stored).reshape(-1)
            code, op = reader.made_by[op.inputs[0]]
        assert np.array_equal(
            reader.constant(op.inputs[0]), weight.factors()[0] if zero is None else np.arange(2**weight.bits)
        )
    else:
        source = op.inputs[0]
        while source in reader.made_by:  # TILE
            source = reader.made_by[source][1].inputs[0]
        table = reader.constant(source).reshape(-1, 2**weight.bits)
    assert code == "GATHER"
    return reader.value(op.inputs[1]), scale, zero, table


def laid_out(codes):
    """A parameter as TFLite's ops want it: OHWI, 1HWO (depthwise), OI."""
    if codes.ndim == 2:
        return codes
    return codes.transpose(1, 2, 3, 0) if codes.shape[1] == 1 else codes.transpose(0, 2, 3, 1)


def assert_conversion_loses_nothing(found, expected):
    error = np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)
    assert error.max() <= 1e-4
    noise = np.square(found - expected, dtype=np.float64).sum()
    assert noise == 0 or 10 * np.log10(np.square(expected, dtype=np.float64).sum() / noise) >= 80


def reference(program, weights, images):
    return program.with_values({name: weight.dequantize() for name, weight in weights.items()}).run({"image": images})


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_every_scheme_keeps_codes_results_and_size(scheme, tiny, template, images, tmp_path):
    cell = Cell("tflite", scheme)
    weights = weights_of(tiny, scheme)
    path = tmp_path / cell.path("tflite")
    encoded = backend.encode(template, QuantizedModel(weights), cell, path)

    reader = Reader(path)
    for index, weight in zip(reader.weights(), weights.values(), strict=True):
        codes, scale, zero_point, table = decoded(reader, index, weight)
        assert np.array_equal(codes, laid_out(weight.codes).reshape(codes.shape))
        assert np.array_equal(table, weight.table) if weight.table is not None else table is None
        if weight.scale is not None:
            assert np.array_equal(scale, weight.scale)
        if weight.zero_point is not None:
            assert np.array_equal(zero_point, weight.zero_point)

    found = backend.open(path, 1).run({"image": images})
    assert_conversion_loses_nothing(found["logits"], reference(tiny, weights, images)["logits"])

    sizes = [weight.codes.size for weight in weights.values()]
    has_table = next(iter(weights.values())).table is not None
    if scheme.bits in (8, 4, 2) and not has_table:
        stored = sum(-(-size * scheme.bits // 8) for size in sizes)  # whole bytes a weight
        per_group, form, shared = 12, "native", 0
    else:
        stored = -(-sum(sizes) // 15) * 2 * scheme.bits  # 15 codes are n words of two bytes
        per_group = 4 * 2**scheme.bits if has_table else 4 + (scheme.mode is Mode.LINEAR)
        form, shared = "table" if has_table else scheme.mode, UNPACKING
    groups = sum(weight.groups for weight in weights.values())
    overhead = encoded.weight_bytes - stored - per_group * groups
    assert 0 < overhead <= OVERHEAD[form] * len(weights) + shared + MATMUL
    assert encoded.support.stored_bits == scheme.bits


def test_float_files_hold_the_values_and_half_of_the_bytes(tiny, template, images, tmp_path):
    sizes = {}
    for bits in (32, 16):
        weights = weights_of(tiny, Scheme(bits))
        path = tmp_path / f"fp{bits}.tflite"
        encoded = backend.encode(template, QuantizedModel(weights), Cell("tflite", Scheme(bits)), path)
        values = {name: weight.values for name, weight in weights.items()}
        if bits == 16:  # biases too
            values = {name: held.astype(np.float16).astype(np.float32) for name, held in tiny.floats().items()}
        expected = tiny.with_values(values).run({"image": images})["logits"]
        assert_conversion_loses_nothing(backend.open(path, 1).run({"image": images})["logits"], expected)
        sizes[bits] = encoded.weight_bytes
    count = sum(int(np.prod(site.shape)) for site in tiny.sites.values())
    assert sizes[32] == 4 * count
    assert 0 < sizes[16] - 2 * count <= 220 * len(tiny.sites)
    reader = Reader(tmp_path / "fp16.tflite")
    kinds = [
        reader.types[tensor.type]
        for tensor in reader.graph.tensors
        if reader.model.buffers[tensor.buffer].data is not None
    ]
    assert kinds.count("FLOAT16") == 8
    assert "FLOAT32" not in kinds


def test_rules_give_every_layer_its_own_form_in_one_file(tiny, template, images, tmp_path):
    forms = ["w5-linear", "w3-kmeans", "fp32", "w8-symmetric-tensor"]
    rules = dict(zip(tiny.sites, map(Scheme.parse, forms), strict=True))
    weights = weights_of(tiny, Scheme.parse("w5-linear"), rules)
    path = tmp_path / "mixed.tflite"
    encoded = backend.encode(template, QuantizedModel(weights), Cell.parse("tflite/w5-linear"), path)
    assert_conversion_loses_nothing(
        backend.open(path, 1).run({"image": images})["logits"], reference(tiny, weights, images)["logits"]
    )
    left_float = weights[list(tiny.sites)[2]].values.nbytes
    assert path.stat().st_size - encoded.weight_bytes > left_float


@pytest.mark.parametrize("text", ["w5-linear", "w6-kmeans", "w1-linear", "w2-symmetric"])
def test_weights_are_decoded_once_and_stay(text, tiny, template, images, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    path = tmp_path / "cell.tflite"
    weights = weights_of(tiny, Scheme.parse(text))
    backend.encode(template, QuantizedModel(weights), Cell.parse(f"tflite/{text}"), path)
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    reader = Reader(path)
    # whatever GATHER makes is there before anything ran: it was computed while tensors were allocated
    gathered = [op.outputs[0] for code, op in reader.ops if code == "GATHER"]
    for index in gathered:
        assert np.array_equal(interpreter.get_tensor(index), reader.value(index))
    assert bool(gathered) == (text != "w2-symmetric")
    edges = [detail[0]["index"] for detail in (interpreter.get_input_details(), interpreter.get_output_details())]
    found = []
    for image in (images[:1], images[1:2], images[:1]):
        interpreter.set_tensor(edges[0], image)
        interpreter.invoke()
        found.append(interpreter.get_tensor(edges[1]))
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])


def test_the_same_weights_give_the_same_bytes(tiny, template, tmp_path):
    paths = [tmp_path / f"{i}.tflite" for i in range(2)]
    for path in paths:
        backend.encode(
            template, QuantizedModel(weights_of(tiny, Scheme.parse("w6-linear"))), Cell.parse("tflite/w6-linear"), path
        )
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["0.tflite", "1.tflite"]


def test_edges_keep_their_names_and_the_rest_has_none(tiny, template, tmp_path):
    path = tmp_path / "cell.tflite"
    weights = weights_of(tiny, Scheme.parse("w4-kmeans"))
    plain = backend.encode(template, QuantizedModel(weights), Cell.parse("tflite/w4-kmeans"), path)
    assert backend.open(path).record == ""
    recorded = backend.encode(
        template, QuantizedModel(weights), Cell.parse("tflite/w4-kmeans"), path, '{"cell": "tflite/w4-kmeans"}'
    )
    assert recorded.weight_bytes == plain.weight_bytes
    runner = backend.open(path)
    assert [(spec.name, spec.shape, spec.dtype) for spec in runner.inputs] == [("image", (1, 3, 9, 9), "float32")]
    assert [(spec.name, spec.shape, spec.dtype) for spec in runner.outputs] == [("logits", (1, 5), "float32")]
    assert (runner.verified, runner.record) == ("runtime", '{"cell": "tflite/w4-kmeans"}')
    assert {tensor.name for tensor in Reader(path).graph.tensors} == {b"image", b"logits", None}
    runner.close()


def test_a_weight_that_is_missing_or_does_not_fit_is_named(tiny, template, tmp_path):
    weights = weights_of(tiny, Scheme.parse("w4-kmeans"))
    name = next(iter(weights))
    lacking = {other: weight for other, weight in weights.items() if other != name}
    with pytest.raises(BackendError, match=f"do not agree on {name}"):
        backend.encode(template, QuantizedModel(lacking), Cell.parse("tflite/w4-kmeans"), tmp_path / "a.tflite")
    wrong = weights | {name: FloatWeight(name, np.zeros((2, 2, 2, 2), np.float32))}
    with pytest.raises(BackendError, match=name):
        backend.encode(template, QuantizedModel(wrong), Cell.parse("tflite/w4-kmeans"), tmp_path / "a.tflite")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_nothing_half_written_is_left(stop, tiny, template, tmp_path, monkeypatch):
    def replace(self, target):
        raise stop

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt if stop is KeyboardInterrupt else OutputError):
        backend.encode(
            template, QuantizedModel(weights_of(tiny, Scheme(32))), Cell.parse("tflite/fp32"), tmp_path / "a.tflite"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_the_converter_refuses_is_said(tmp_path):
    import torch

    from mobconv.model.trace import trace

    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.svd(x)[1]

    program = trace(Odd(), {"x": np.eye(3, dtype=np.float32)[None]})
    with pytest.raises(BackendError, match="litert-torch cannot convert this network"):
        backend.convert(program, Compute.FP32, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_conversion_is_silent(tiny, tmp_path, capfd):
    backend.convert(tiny, Compute.FP32, tmp_path)
    backend.open(tmp_path / "template.tflite", 2).close()
    assert capfd.readouterr() == ("", "")


def test_a_missing_package_is_an_instruction(monkeypatch, tmp_path):
    assert backend.missing() is None
    assert set(backend.versions()) == {"litert-torch", "ai-edge-litert"}
    monkeypatch.setattr("mobconv.backends.tflite.find_spec", lambda name: None)
    assert backend.missing() == 'TFLite needs litert-torch and ai-edge-litert: pip install "mobconv[tflite]"'
    with pytest.raises(BackendError, match="pip install"):
        backend.open(tmp_path / "any.tflite")


def test_what_it_does_with_a_cell_needs_no_vendor():
    assert backends.get("tflite") is backend
    for scheme in [Scheme(32), Scheme(16), *SCHEMES]:
        support = backend.support(Cell("tflite", scheme))
        assert support.stored_bits == scheme.bits
        assert support.requires
    refused = backend.support(Cell.parse("tflite/w4-linear@fp16"))
    assert refused.stored_bits is None and refused.reason
    for scheme in SCHEMES:  # native: INT8, or where there is a table its values in fp16
        native = backend.support(Cell("tflite", scheme, Storage.NATIVE))
        table = scheme.mode is Mode.KMEANS or (scheme.mode is Mode.LINEAR and scheme.bits == 1)
        assert native.stored_bits == (16 if table else 8)
        assert bool(native.reason) == (native.stored_bits != scheme.bits) and native.requires
    script = "import sys; from mobconv.backends import get; get('tflite').support; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ai_edge_litert", "litert_torch"} & set(loaded)
