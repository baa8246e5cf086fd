"""The ONNX template computes what the program does, whatever weights come into it."""

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.backends.onnx.convert import TEMPLATE, convert
from mobconv.errors import BackendError
from mobconv.model.trace import trace
from mobconv.pipeline import templates
from mobconv.schemes import Compute


class Padded(nn.Module):
    """Zeros around negative values: ONNX Runtime merges such a Pad into MaxPool, which pads with -inf."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(torch.nn.functional.pad(-self.layer(x).abs(), (1, 1, 1, 1)), 3, 2)
        return torch.nn.functional.max_pool1d(torch.nn.functional.pad(x.flatten(2) - 1, (2, 2)), 3, 1)


class Tied(nn.Module):
    """Its weight is used twice as it is: two places, no new constant."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 6)

    def forward(self, x):
        return self.layer(x) @ self.layer.weight


def program(module, *shape):
    torch.manual_seed(0)
    return trace(module.eval(), {"image": np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4)), (1, 8)),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(144, 5)), (1, 3, 8, 8)),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)), (1, 3, 8, 8)),
        (nn.Sequential(nn.ConvTranspose2d(4, 4, 3, groups=2), nn.BatchNorm2d(4)), (1, 4, 5, 5)),
        (Tied(), (1, 8)),
        (Padded(), (1, 3, 8, 8)),
    ],
)
def test_layers_that_follow_each_other(tmp_path, module, shape):
    traced = program(module, *shape)
    backend = backends.get("onnx")
    folder = templates.template(backend, Entry(traced), Compute.FP32, tmp_path)
    runner = backend.open(templates.float_artifact(backend, folder, traced, Compute.FP32))
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    expected = traced.run({"image": image})["logits"]
    assert np.abs(runner.run({"image": image})["logits"] - expected).max() < 1e-5 * np.abs(expected).max()


def test_a_weight_that_the_exporter_changes_is_named(tmp_path, monkeypatch):
    def doubled(model, program):
        import onnx_ir as ir

        value = model.graph.initializers["0.weight"]
        value.const_value = ir.tensor(value.const_value.numpy() * 2)

    monkeypatch.setattr("mobconv.backends.onnx.convert._name_edges", doubled)
    with pytest.raises(BackendError, match=r"cannot find 0\.weight in the converted file"):
        convert(program(nn.Sequential(nn.Linear(8, 4)), 1, 8), tmp_path)


def test_the_template_keeps_biases_and_nothing_that_nobody_reads(tmp_path):
    module = nn.Sequential(nn.Linear(8, 4))
    convert(program(module, 1, 8), tmp_path)
    model = onnx.load(str(tmp_path / TEMPLATE))
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert np.array_equal(held["0.bias"], module[0].bias.detach().numpy())
    assert not np.array_equal(held["0.weight"], module[0].weight.detach().numpy())  # fingerprints
    assert not model.metadata_props and not model.graph.value_info and not any(node.name for node in model.graph.node)
    assert [value.name for value in [*model.graph.input, *model.graph.output]] == ["image", "logits"]
