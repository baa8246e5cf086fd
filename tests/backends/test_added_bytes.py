"""`inspect` and a sweep agree on what weights add to a file: counted by its writer, and from the file alone."""

import json

import numpy as np
import pytest
import torch
import vendor_files as vendor
from torch import nn

import mobconv
from mobconv import backends
from mobconv.pipeline.inspection import inspect

FORMATS = ("onnx", "tflite", "coreml", "coreml-mlmodel")
QUICK = ("fp32", "w4-kmeans", "w5-linear")
REST = ("fp16", "w8-linear", "w3-symmetric", "w1-linear", "w2-kmeans", "w4-linear@native", "w3-linear-oc16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("added")


@pytest.mark.parametrize("scheme", [*QUICK, *(pytest.param(each, marks=pytest.mark.slow) for each in REST)])
@pytest.mark.parametrize("name", FORMATS)
def test_both_count_the_same(name, scheme, folder):
    if backends.get(name).support(backends.cell(f"{name}/{scheme}")).stored_bits is None:
        pytest.skip(f"{name} has no {scheme}")
    path, weight_bytes = vendor.ours(f"{name}/{scheme}", folder)
    audit = inspect(path).audit
    assert (audit.added.bytes, audit.added.weights) == (weight_bytes, sum(vendor.WEIGHTS.values()))


@pytest.mark.parametrize("name", FORMATS)
def test_weights_that_a_layer_rule_keeps_float_add_nothing(name, folder):
    """Where a file alone does not say whether floats are those of a table, no figure is given."""
    path, weight_bytes = vendor.ours(f"{name}/w4-kmeans", folder, layers=vendor.LAYERS)
    added = inspect(path).audit.added
    quantized = sum(vendor.WEIGHTS.values()) - vendor.WEIGHTS["first"]
    assert added is None if name == "tflite" else (added.bytes, added.weights) == (weight_bytes, quantized)


class Tokens(nn.Module):
    """Layers whose weights the exporters store under other names, transposed, and a head that shares a weight."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(40, 16), nn.LayerNorm(16)
        self.a_layer_with_a_long_name, self.second = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, tokens):
        x = self.norm(self.table(tokens))
        return self.second(torch.relu(self.a_layer_with_a_long_name(x)) * 2) @ self.table.weight.T


@pytest.mark.parametrize("name", FORMATS[:3])
def test_export_says_what_inspect_says(name, tmp_path):
    torch.manual_seed(0)
    rows = mobconv.export(
        Tokens().eval(), torch.ones(1, 6, dtype=torch.long), to=name, scheme="w4-kmeans", out=tmp_path
    )
    audit = inspect(rows[0].path).audit
    assert audit.effective_bits == rows[0].effective_bits > 4


def test_a_file_that_another_tool_has_changed_has_no_figure(folder):
    """It keeps the record. Here a node stands between what decodes a weight and what reads it."""
    import onnx

    path, _ = vendor.ours("onnx/w4-kmeans", folder)
    model = onnx.load(path)
    decoder = next(node for node in model.graph.node if node.name == "first.weight")
    decoder.output[0], before = "decoded", decoder.output[0]
    place = list(model.graph.node).index(decoder)
    model.graph.node.insert(place + 1, onnx.helper.make_node("Identity", ["decoded"], [before]))
    onnx.save(model, str(folder / "changed.onnx"))
    audit = inspect(folder / "changed.onnx").audit
    assert audit.tensors and audit.added is None and audit.effective_bits is None


def test_a_file_of_another_tool_has_no_figure(folder, cli):
    path, _ = vendor.ours("onnx/w4-kmeans", folder)
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, str(folder / "other.onnx"))
    code, out, _ = cli("inspect", folder / "other.onnx", "--json")
    assert code == 0 and json.loads(out)["effective_bits"] is None and json.loads(out)["disk_bits"] > 4
    assert "effective" not in cli("inspect", folder / "other.onnx")[1]
    assert np.isclose(json.loads(out)["disk_bits"], inspect(path).audit.weight_bytes * 8 / sum(vendor.WEIGHTS.values()))
