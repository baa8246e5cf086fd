"""DequantizeLinear files: what is in them, and where ONNX Runtime computes with them only nearly."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.errors import BackendError
from mobconv.model.trace import trace
from mobconv.pipeline import templates
from mobconv.pipeline.quantized import quantize_model
from mobconv.pipeline.reference import reference
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute

LEVEL = "session.qdq_matmulnbits_accuracy_level"
FOLD = "session.disable_quant_qdq"


class Steps(nn.Module):
    """Linear layers over a sequence: matrix products of three axes, which ONNX has as MatMul, not as Gemm."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(256, 128), nn.Linear(128, 40)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("steps")
    traced = trace(Steps().eval(), {"x": np.zeros((1, 9, 256), np.float32)})
    return traced, templates.template(backends.get("onnx"), Entry(traced), Compute.FP32, folder)


def encoded(steps, name, path):
    """Writes the file; gives an input and what the reference computes from it."""
    program, template = steps
    cell = Cell.parse(f"onnx/{name}")
    model = quantize_model(program, cell.scheme)
    backends.get("onnx").encode(template, model, cell, path)
    x = np.random.default_rng(0).normal(size=(1, 9, 256)).astype(np.float32)
    return x, next(iter(reference(program, model, cell.scheme).run({"x": x}).values()))


def worst(path, x, expected, **entries):
    """The largest error of an output over the largest output, in the stock runtime."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_name("optimized.onnx"))
    for key, value in entries.items():
        options.add_session_config_entry({"level": LEVEL, "fold": FOLD}[key], value)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", ["w8-linear@native", "w4-symmetric@native", "w4-linear-oc16@native"])
def test_a_matmul_is_nearly_right_unless_an_option_is_set(steps, name, tmp_path):
    """What the note of native cells says. ONNX Runtime rounds the other operand to 8 bits: about 1 % of the largest."""
    x, expected = encoded(steps, name, tmp_path / "a.onnx")
    assert 1e-3 < worst(tmp_path / "a.onnx", x, expected) < 3e-2
    for level in ("0", "1"):
        assert worst(tmp_path / "a.onnx", x, expected, level=level) <= 1e-4
    assert worst(tmp_path / "a.onnx", x, expected, fold="1") <= 1e-4
    assert decoders(tmp_path / "optimized.onnx") == set(), "folded: what runs is the float network"
    note = backends.get("onnx").support(Cell.parse(f"onnx/{name}")).note
    assert LEVEL in note and FOLD in note


def decoders(path):
    """The ops of a file that decode weights."""
    return {node.op_type for node in onnx.load(str(path)).graph.node} & {"DequantizeLinear", "MatMulNBits"}


def test_packed_files_have_no_such_trouble(steps, tmp_path):
    x, expected = encoded(steps, "w4-linear", tmp_path / "a.onnx")
    assert worst(tmp_path / "a.onnx", x, expected) <= 1e-4
    assert decoders(tmp_path / "optimized.onnx") == set()


@pytest.mark.parametrize(
    ("name", "kind", "zero_points", "opset", "ir"),
    [
        ("w8-linear@native", "UINT8", True, 18, 8),
        ("w5-symmetric@native", "INT8", False, 18, 8),
        ("w4-linear@native", "UINT4", True, 21, 10),
        ("w1-symmetric@native", "INT4", False, 21, 10),
    ],
)
def test_files_ask_for_no_newer_runtime_than_the_row_says(steps, tmp_path, name, kind, zero_points, opset, ir):
    encoded(steps, name, tmp_path / "a.onnx")
    model = onnx.load(str(tmp_path / "a.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": opset}
    assert model.ir_version <= ir and not model.functions
    assert backends.get("onnx").support(Cell.parse(f"onnx/{name}")).requires == f"opset {opset}"
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    found = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(found) == 2
    for node in found:
        assert onnx.TensorProto.DataType.Name(tensors[node.input[0]].data_type) == kind
        assert len(node.input) == 2 + zero_points


def test_one_scale_for_a_tensor_is_a_scalar_with_a_scalar_zero_point(steps, tmp_path):
    """The shapes of DequantizeLinear's inputs have to be the same."""
    x, expected = encoded(steps, "w8-linear-tensor@native", tmp_path / "a.onnx")
    model = onnx.load(str(tmp_path / "a.onnx"))
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear":
            assert [list(tensors[name].dims) for name in node.input[1:]] == [[], []]
    assert worst(tmp_path / "a.onnx", x, expected, level="1") <= 1e-4


@pytest.mark.parametrize("name", ["w4-kmeans@native", "w1-linear@native", "w4-kmeans-oc16@native"])
def test_tables_are_refused_before_anything_is_written(steps, name, tmp_path):
    cell = Cell.parse(f"onnx/{name}")
    support = backends.get("onnx").support(cell)
    assert support.stored_bits is None and "no type for a lookup table" in support.reason
    with pytest.raises(BackendError, match=f"{name}: ONNX has no type for a lookup table"):
        encoded(steps, name, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_layer_rule_cannot_bring_a_table_into_a_native_file(steps, tmp_path):
    """One bit in a linear file is a table: the layer is named."""
    program, template = steps
    four_bits, one_bit = (
        quantize_model(program, Cell.parse(f"onnx/{name}").scheme) for name in ("w4-linear", "w1-linear")
    )
    weights = {**four_bits.weights, "second.weight": one_bit.weights["second.weight"]}
    with pytest.raises(BackendError, match=r"second\.weight: ONNX has no type for a lookup table"):
        backends.get("onnx").encode(
            template, QuantizedModel(weights), Cell.parse("onnx/w4-linear@native"), tmp_path / "a.onnx"
        )
    assert not list(tmp_path.iterdir())
