"""A template computes what the program does, whatever weights come into it."""

import numpy as np
import pytest
import torch
from torch import nn

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.errors import BackendError
from mobconv.model.trace import trace
from mobconv.pipeline import templates
from mobconv.schemes import Compute


class Uses(nn.Module):
    """Its weight counts a second time, as a mean, which the exporter folds into a constant."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return self.layer(x) * self.layer.weight.abs().mean(0)


@pytest.mark.parametrize("name", ["onnx", "tflite", "coreml", "coreml-mlmodel"])
def test_a_constant_computed_from_a_weight_is_right(tmp_path, name):
    """The converter must not compute it from what stands in the weight's place while it converts."""
    torch.manual_seed(0)
    traced = trace(Uses().eval(), {"image": np.zeros((1, 8), np.float32)})
    backend = backends.get(name)
    folder = templates.template(backend, Entry(traced), Compute.FP32, tmp_path)
    assert templates.remark(folder) == ""
    runner = backend.open(templates.float_artifact(backend, folder, traced, Compute.FP32))
    x = np.random.default_rng(1).normal(size=(1, 8)).astype(np.float32)
    outputs = runner.run({runner.inputs[0].name: x})["logits"]
    assert np.allclose(outputs, traced.run({"image": x})["logits"], atol=1e-6)  # 2 ** -24 of sums of 8 below 10


@pytest.mark.parametrize("name", ["onnx", "coreml"])
def test_a_template_is_converted_once(tmp_path, name, monkeypatch):
    torch.manual_seed(0)
    traced = trace(nn.Linear(8, 4).eval(), {"image": np.zeros((1, 8), np.float32)})
    backend = backends.get(name)
    told = []
    first = templates.template(backend, Entry(traced), Compute.FP32, tmp_path, lambda: told.append("now"))
    monkeypatch.setattr(type(backend), "convert", None)
    assert templates.template(backend, Entry(traced), Compute.FP32, tmp_path, lambda: told.append("again")) == first
    assert told == ["now"]
    other = trace(nn.Linear(8, 4).eval(), {"image": np.zeros((1, 8), np.float32)})
    with pytest.raises(BackendError, match="TypeError"):  # other weights are another template
        templates.template(backend, Entry(other), Compute.FP32, tmp_path)


def test_another_input_shape_is_another_template(tmp_path):
    """The same weights and graph for larger images: a network with a fixed input would run on the wrong ones."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3).eval()
    small, large = (trace(layer, {"image": np.zeros((1, 3, size, size), np.float32)}) for size in (8, 16))
    backend = backends.get("coreml")
    folders = [templates.template(backend, Entry(program), Compute.FP32, tmp_path) for program in (small, large)]
    assert folders[0] != folders[1]
