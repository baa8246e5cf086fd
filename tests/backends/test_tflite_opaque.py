"""Networks whose weights litert-torch would merge with others, or whose operators it refuses: files with all weights.

Each network has several layers of a kind. Its files hold the values of PyTorch (fp32) and of the quantizer (codes), and
the outputs have the program's names and order.
"""

import numpy as np
import pytest

from mobconv.backends.tflite import backend
from mobconv.errors import BackendError
from mobconv.pipeline.quantized import quantize_model
from mobconv.quantize.weights import QuantizedWeight
from mobconv.schemes import Cell, Compute

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional
SCHEMES = ("fp32", "w8-symmetric", "w4-kmeans", "w5-linear")


class Folding(nn.Module):
    """Factors in front of weights and behind them: a layer norm's, a layer scale, a mean, two heads of one layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.wide, self.narrow = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8), *linears(8, 16, 8)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.classes, self.boxes = nn.Linear(8, 3), nn.Linear(8, 4)

    def forward(self, image):
        tokens = self.conv(image).flatten(2).transpose(1, 2)
        tokens = tokens + self.scale * self.narrow(self.wide(self.norm(tokens)))
        pooled = tokens.mean(1) * 0.5
        return {"scores": self.classes(pooled), "boxes": {"wide": self.boxes(pooled), "best": tokens.amax(1)}}


def linears(first, hidden, last):
    return nn.Linear(first, hidden), nn.Linear(hidden, last)


def decoder():
    return nn.Sequential(
        nn.ConvTranspose2d(3, 6, 3, 2, 1, output_padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 6, 4, 2, 1, groups=3),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, 3, 1, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 3, 2, 2, output_padding=1, dilation=2),
    )


def poolings():
    return nn.Sequential(
        nn.Conv2d(3, 4, 2, padding="same"),
        nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
        nn.MaxPool2d(3, 1, 1, dilation=2),
        nn.Conv2d(4, 4, 1),
        nn.AvgPool2d(3, 2, 1, divisor_override=5),
        nn.Conv2d(4, 2, 1),
    )


def one_axis():
    return nn.Sequential(
        nn.Conv1d(3, 6, 4, padding="same"),
        nn.ReLU(),
        nn.ConvTranspose1d(6, 6, 3, 2, 1, 1, groups=2),
        nn.ReLU(),
        nn.Conv1d(6, 4, 2, padding="same", dilation=3),
    )


def three_axes():
    return nn.Sequential(nn.Conv3d(3, 6, 3), nn.ReLU(), nn.ConvTranspose3d(6, 4, 2, 2), nn.AvgPool3d(2))


class Fold(nn.Module):
    """Unfolds, attends with an expanded context, folds, as MobileViTV2 does."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Conv2d(3, 17, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        patches = F.unfold(x, 2, stride=2).reshape(1, 3, 4, -1)
        query, key, value = self.qkv(patches).split([1, 8, 8], 1)
        context = (query.softmax(-1) * key).sum(-1, keepdim=True)
        y = self.out(torch.relu(value) * context.expand_as(value))
        return F.fold(y.reshape(1, 20, -1), x.shape[-2:], 2, stride=2)


def traced(module, shape):
    from mobconv.model.trace import trace

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return trace(module.eval(), {"image": torch.randn(shape, generator=generator).numpy()})


def assert_files_are_right(program, folder, schemes=SCHEMES):
    backend.convert(program, Compute.FP32, folder)
    feeds = {"image": np.random.default_rng(3).normal(size=program.example["image"].shape).astype(np.float32)}
    for text in schemes:
        cell = Cell.parse(f"tflite/{text}")
        model = quantize_model(program, cell.scheme, threads=1)
        assert all(isinstance(weight, QuantizedWeight) == (text != "fp32") for weight in model.weights.values())
        encoded = backend.encode(folder, model, cell, folder / f"{text}.tflite")
        assert encoded.support.stored_bits == cell.scheme.bits
        runner = backend.open(folder / f"{text}.tflite", 1)
        assert tuple(spec.name for spec in runner.outputs) == program.outputs
        outputs = runner.run(feeds)
        values = {name: weight.dequantize() for name, weight in model.weights.items()}
        for name, expected in program.with_values(values).run(feeds).items():
            assert np.abs(outputs[name] - expected).max() <= 1e-5 * np.abs(expected).max(), (text, name)


def test_factors_that_the_converter_would_multiply_into_weights(tmp_path):
    program = traced(Folding(), (1, 3, 16, 16))
    assert program.outputs == ("scores", "boxes_wide", "boxes_best")
    assert_files_are_right(program, tmp_path)


def test_a_bias_that_the_converter_would_move_through_the_next_layer(tmp_path):
    module = nn.Sequential(nn.Flatten(), *linears(12, 7, 5))
    assert_files_are_right(traced(module, (1, 3, 2, 2)), tmp_path, ("fp32", "w4-kmeans"))


def test_transposed_convolutions(tmp_path):
    assert_files_are_right(traced(decoder(), (1, 3, 5, 6)), tmp_path)


def test_poolings_and_even_kernels(tmp_path):
    assert_files_are_right(traced(poolings(), (1, 3, 15, 12)), tmp_path, ("fp32", "w4-kmeans"))


def test_a_weight_that_is_in_no_file_stays_float_and_the_row_says_so(tmp_path, monkeypatch):
    """As with a converter that computes with weights whatever it is given."""
    monkeypatch.setattr("mobconv.backends.tflite.convert.lift", lambda module, names: [])
    program = traced(nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5)), (1, 4, 6))
    backend.convert(program, Compute.FP32, tmp_path)
    feeds = {"image": np.random.default_rng(3).normal(size=(1, 4, 6)).astype(np.float32)}
    for text in ("fp32", "w4-kmeans"):
        cell = Cell.parse(f"tflite/{text}")
        model = quantize_model(program, cell.scheme, threads=1)
        encoded = backend.encode(tmp_path, model, cell, tmp_path / f"{text}.tflite")
        assert ("1.weight: fp32" in encoded.support.note) == (text != "fp32")
        assert "3.weight" not in encoded.support.note
        values = {"3.weight": model.weights["3.weight"].dequantize()}
        expected = program.with_values(values).run(feeds)["logits"]
        output = backend.open(tmp_path / f"{text}.tflite", 1).run(feeds)["logits"]
        assert np.abs(output - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (one_axis, (1, 3, 9)),
        (three_axes, (1, 3, 4, 5, 6)),
        (Fold, (1, 3, 8, 6)),
        (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (1, 5, 8)),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveMaxPool2d((3, 2)), nn.Conv2d(4, 2, 1)), (1, 3, 7, 8)),
    ],
    ids=["one axis", "three axes", "fold", "transformer", "adaptive maxima"],
)
def test_others(module, shape, tmp_path):
    assert_files_are_right(traced(module(), shape), tmp_path)


@pytest.mark.slow
def test_twelve_outputs_keep_their_order(tmp_path):
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.ModuleList(nn.Conv2d(3, i + 1, 1) for i in range(12))

        def forward(self, image):
            return tuple(head(image) for head in self.heads)

    assert_files_are_right(traced(Many(), (1, 3, 4, 4)), tmp_path, ("fp32",))


def test_what_the_converter_prints_does_not_reach_the_user(tmp_path):
    class Determinant(nn.Module):
        def forward(self, image):
            return torch.linalg.svd(image)[1]

    program = traced(Determinant(), (1, 3, 3))
    with pytest.raises(BackendError, match="litert-torch cannot convert this network") as refusal:
        backend.convert(program, Compute.FP32, tmp_path)
    assert "\n" not in str(refusal.value) and "%" not in str(refusal.value) and "tensor<" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
