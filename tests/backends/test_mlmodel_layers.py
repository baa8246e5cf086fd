"""LayerContext types of neuralnetwork files against torch, one by one and in batches."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mlmodel_spec import RNG, Spec, borders, floats

from mobconv.backends.mlmodel import graph, runner

W4 = floats(6, 2, 3, 3)
WD = floats(4, 5, 3, 3)
WI = floats(5, 4 * 6 * 7)
B6, B5, C4 = floats(6), floats(5), floats(4)
POSITIVE = np.abs(floats(4)) + 0.5
VALID = {"valid": {"paddingAmounts": borders(0, 0, 0, 0)}}
CONV = {"outputChannels": 6, "kernelChannels": 2, "nGroups": 2, "kernelSize": [3, 3], "weights": W4}
DECONV = {"outputChannels": 5, "kernelChannels": 4, "kernelSize": [3, 3], "stride": [2, 2], "weights": WD}
DECONV |= {"isDeconvolution": True}
T = torch.from_numpy


def same(x, size, stride, lower=False):
    """Zero padding of the last two axes to ceil(size / stride) results."""
    found = []
    for length in reversed(x.shape[-2:]):
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        found += [total - total // 2, total // 2] if lower else [total // 2, total - total // 2]
    return F.pad(x, found)


# kind of layer, its parameters, what torch makes of an input (n, 4, 6, 7)
CASES = [
    ("convolution", CONV | VALID, lambda x: F.conv2d(x, T(W4), groups=2)),
    (
        "convolution",
        CONV
        | {"hasBias": True, "bias": B6, "stride": [2, 1], "dilationFactor": [1, 2]}
        | {"valid": {"paddingAmounts": borders(2, 1, 0, 3)}},
        lambda x: F.conv2d(F.pad(x, (0, 3, 2, 1)), T(W4), T(B6), (2, 1), 0, (1, 2), 2),
    ),
    ("convolution", CONV | {"stride": [2, 2], "same": {}}, lambda x: F.conv2d(same(x, 3, 2), T(W4), None, 2, groups=2)),
    (
        "convolution",
        CONV | {"stride": [2, 2], "same": {"asymmetryMode": 1}},
        lambda x: F.conv2d(same(x, 3, 2, lower=True), T(W4), None, 2, groups=2),
    ),
    ("convolution", DECONV | VALID, lambda x: F.conv_transpose2d(x, T(WD), None, 2)),
    (
        "convolution",
        DECONV | {"hasBias": True, "bias": B5, "valid": {"paddingAmounts": borders(1, 0, 1, 1)}},
        lambda x: F.conv_transpose2d(x, T(WD), T(B5), 2)[:, :, 1:, 1:-1],
    ),
    (
        "innerProduct",
        {"inputChannels": 168, "outputChannels": 5, "weights": WI, "hasBias": True, "bias": B5},
        lambda x: F.linear(x.flatten(1), T(WI), T(B5))[..., None, None],
    ),
    (
        "batchedMatmul",
        {"weightMatrixFirstDimension": 7, "weightMatrixSecondDimension": 2, "weights": W4[0].reshape(-1)[:14]},
        lambda x: x @ T(W4[0].reshape(-1)[:14].reshape(2, 7)).T,
    ),
    (
        "batchnorm",
        {"channels": 4, "gamma": C4, "beta": C4[::-1].copy(), "mean": C4, "variance": POSITIVE, "epsilon": 1e-3},
        lambda x: F.batch_norm(x, T(C4), T(POSITIVE), T(C4), T(C4[::-1].copy()), eps=1e-3),
    ),
    (
        "batchnorm",
        {"channels": 4, "gamma": C4, "beta": C4, "computeMeanVar": True, "instanceNormalization": True},
        lambda x: F.instance_norm(x, weight=T(C4), bias=T(C4)),
    ),
    ("pooling", {"type": 0, "kernelSize": [3, 2], "stride": [2, 2], **VALID}, lambda x: F.max_pool2d(x, (3, 2), 2)),
    (
        "pooling",
        {"type": 1, "kernelSize": [3, 3], "stride": [2, 2], "valid": {"paddingAmounts": borders(1, 1, 1, 1)}},
        lambda x: F.avg_pool2d(x, 3, 2, 1),
    ),
    (
        "pooling",
        {"type": 1, "kernelSize": [3, 3], "stride": [2, 2], "valid": {"paddingAmounts": borders(1, 1, 1, 1)}}
        | {"avgPoolExcludePadding": True},
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ),
    (
        "pooling",
        {"type": 0, "kernelSize": [2, 2], "stride": [2, 2], "includeLastPixel": {"paddingAmounts": [0, 0]}},
        lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True),
    ),
    ("pooling", {"type": 2, "kernelSize": [2, 2], **VALID}, lambda x: (4 * F.avg_pool2d(x * x, 2, 1)).sqrt()),
    ("pooling", {"type": 0, "globalPooling": True, **VALID}, lambda x: x.amax((2, 3), keepdim=True)),
    ("pooling", {"type": 1, "globalPooling": True, **VALID}, lambda x: x.mean((2, 3), keepdim=True)),
    (
        "padding",
        {"constant": {"value": 0.5}, "paddingAmounts": borders(1, 2, 3, 0)},
        lambda x: F.pad(x, (3, 0, 1, 2), value=0.5),
    ),
    ("padding", {"reflection": {}, "paddingAmounts": borders(1, 2, 3, 0)}, lambda x: F.pad(x, (3, 0, 1, 2), "reflect")),
    (
        "padding",
        {"replication": {}, "paddingAmounts": borders(1, 2, 3, 0)},
        lambda x: F.pad(x, (3, 0, 1, 2), "replicate"),
    ),
    (
        "constantPad",
        {"padAmounts": [0, 0, 1, 0, 0, 0, 2, 1], "value": -1.0},
        lambda x: F.pad(x, (2, 1, 0, 0, 1, 0), value=-1),
    ),
    ("mvn", {"normalizeVariance": True, "epsilon": 1e-4}, lambda x: F.instance_norm(x, eps=1e-4)),
    ("mvn", {"acrossChannels": True}, lambda x: x - x.mean((1, 2, 3), keepdim=True)),
    ("l2normalize", {}, lambda x: x / (x.square().sum((1, 2, 3), keepdim=True) + 1e-6).sqrt()),
    (
        "layerNormalization",
        {"normalizedShape": [7], "eps": 1e-5, "gamma": np.ones(7, np.float32), "beta": np.zeros(7, np.float32)},
        lambda x: F.layer_norm(x, (7,)),
    ),
    ("upsample", {"scalingFactor": [2, 3]}, lambda x: F.interpolate(x, scale_factor=(2, 3))),
    (
        "upsample",
        {"scalingFactor": [2, 2], "mode": 1, "linearUpsampleMode": 1},
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
    ),
    (
        "upsample",
        {"scalingFactor": [2, 2], "mode": 1, "linearUpsampleMode": 2},
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False),
    ),
    (
        "resizeBilinear",
        {"targetSize": [11, 13]},
        lambda x: F.interpolate(x, (11, 13), mode="bilinear", align_corners=True),
    ),
    *[
        ("activation", {name: {}}, function)
        for name, function in (
            ("ReLU", torch.relu),
            ("tanh", torch.tanh),
            ("sigmoid", torch.sigmoid),
            ("softsign", F.softsign),
            ("softplus", F.softplus),
        )
    ],
    ("activation", {"leakyReLU": {"alpha": 0.2}}, lambda x: F.leaky_relu(x, 0.2)),
    ("activation", {"ELU": {"alpha": 0.7}}, lambda x: F.elu(x, 0.7)),
    ("activation", {"thresholdedReLU": {"alpha": 0.3}}, lambda x: torch.where(x >= 0.3, x, 0)),
    ("activation", {"linear": {"alpha": 2.0, "beta": -1.0}}, lambda x: 2 * x - 1),
    ("activation", {"scaledTanh": {"alpha": 2.0, "beta": 0.5}}, lambda x: 2 * torch.tanh(x / 2)),
    ("activation", {"sigmoidHard": {"alpha": 0.3, "beta": 0.4}}, lambda x: (0.3 * x + 0.4).clamp(0, 1)),
    ("activation", {"PReLU": {"alpha": C4}}, lambda x: F.prelu(x, T(C4))),
    ("activation", {"PReLU": {"alpha": C4[:1]}}, lambda x: F.prelu(x, T(C4[:1]))),
    (
        "activation",
        {"parametricSoftplus": {"alpha": C4, "beta": POSITIVE}},
        lambda x: T(C4)[:, None, None] * F.softplus(x * T(POSITIVE)[:, None, None]),
    ),
    ("unary", {"type": 6}, torch.abs),
    ("unary", {"type": 7, "alpha": 0.2}, lambda x: x.clamp(min=0.2)),
    ("unary", {"type": 7, "alpha": -6.0, "scale": -1.0, "shift": 1.0}, lambda x: (1 - x).clamp(min=-6)),
    ("unary", {"type": 4, "scale": 0.5}, lambda x: torch.exp(x / 2)),
    ("unary", {"type": 3, "alpha": 2.0}, torch.square),
    ("clip", {"minVal": -0.5, "maxVal": 0.25}, lambda x: x.clamp(-0.5, 0.25)),
    ("gelu", {"mode": 1}, lambda x: F.gelu(x, approximate="tanh")),
    ("softmax", {}, lambda x: x.softmax(1)),
    ("softmaxND", {"axis": -1}, lambda x: x.softmax(3)),
    ("add", {"alpha": 1.5}, lambda x: x + 1.5),
    ("multiply", {"alpha": 1.5}, lambda x: x * 1.5),
    ("greaterThan", {"alpha": 0.1}, lambda x: (x > 0.1).float()),
    ("bias", {"shape": [4], "bias": C4}, lambda x: x + T(C4)[:, None, None]),
    (
        "scale",
        {"shapeScale": [4], "scale": C4, "hasBias": True, "shapeBias": [1], "bias": C4[:1]},
        lambda x: x * T(C4)[:, None, None] + C4[0],
    ),
    ("reduce", {"mode": 1, "axis": 1}, lambda x: x.mean((2, 3), keepdim=True)),
    ("reduce", {"mode": 9, "axis": 2}, lambda x: x.argmax(1, keepdim=True).float()),
    ("reduceMean", {"axes": [2, 3]}, lambda x: x.mean((2, 3))),
    ("reduceL2", {"axes": [1], "keepDims": True}, lambda x: x.norm(dim=1, keepdim=True)),
    ("argMax", {"axis": 1, "removeDim": True}, lambda x: x.argmax(1).float()),
    ("cumSum", {"axis": 2}, lambda x: x.cumsum(2)),
    ("reshapeStatic", {"targetShape": [1, 24, 7]}, lambda x: x.reshape(-1, 24, 7)),
    ("rankPreservingReshape", {"targetShape": [0, 2, -1, 7]}, lambda x: x.reshape(-1, 2, 12, 7)),
    ("reshape", {"targetShape": [8, 3, 7]}, lambda x: x.reshape(-1, 8, 3, 7)),
    ("flatten", {}, lambda x: x.reshape(-1, 168, 1, 1)),
    ("flattenTo2D", {"axis": 1}, lambda x: x.flatten(1)),
    ("transpose", {"axes": [0, 2, 3, 1]}, lambda x: x.permute(0, 2, 3, 1)),
    ("permute", {"axis": [0, 3, 1, 2]}, lambda x: x.permute(0, 3, 1, 2)),
    ("expandDims", {"axes": [1]}, lambda x: x.unsqueeze(1)),
    (
        "sliceStatic",
        {
            "beginIds": [0, 1, -3, 0],
            "endIds": [1, 4, -1, 7],
            "strides": [1, 2, 1, 3],
            "endMasks": [True, False, False, False],
        },
        lambda x: x[:, 1:4:2, -3:-1, 0:7:3],
    ),
    ("slice", {"startIndex": 1, "endIndex": -1, "stride": 2, "axis": 2}, lambda x: x[..., 1:-1:2]),
    ("crop", {"cropAmounts": borders(1, 2, 0, 3)}, lambda x: x[:, :, 1:-2, :-3]),
    ("reorganizeData", {"mode": 2, "blockSize": 2}, lambda x: F.pixel_shuffle(x, 2)),
    ("tile", {"reps": [1, 2, 1, 1]}, lambda x: x.tile(1, 2, 1, 1)),
    ("reverse", {"reverseDim": [False, False, True, False]}, lambda x: x.flip(2)),
    ("copy", {}, lambda x: x),
]


@pytest.mark.parametrize(
    ("kind", "fields", "expected"), CASES, ids=[f"{i}-{kind}" for i, (kind, *_) in enumerate(CASES)]
)
def test_a_layer_computes_what_torch_does_one_by_one_and_together(tmp_path, kind, fields, expected):
    spec, x = Spec(1, 4, 6, 7), floats(5, 4, 6, 7)
    spec.add(kind, **fields)
    wanted = expected(T(x)).numpy()
    np.testing.assert_allclose(spec.run(tmp_path / "a.mlmodel", x=x), wanted, rtol=1e-5, atol=2e-6)
    one = runner.open_model(tmp_path / "a.mlmodel", platform="linux").run({"x": x[:1]})
    np.testing.assert_allclose(one[spec.last], wanted[:1], rtol=1e-5, atol=2e-6)


# layers of several inputs: the input, its double, and a constant (4, 1, 1)
SEVERAL = [
    ("add", {}, lambda x, c: 3 * x + c),
    ("multiply", {}, lambda x, c: 2 * x * x * c),
    ("average", {}, lambda x, c: (3 * x + c) / 3),
    ("max", {}, lambda x, c: torch.maximum(torch.maximum(x, 2 * x), c.expand_as(x))),
]
PAIRS = [
    ("addBroadcastable", lambda x, c: x + c),
    ("subtractBroadcastable", lambda x, c: x - c),
    ("multiplyBroadcastable", lambda x, c: x * c),
    ("divideBroadcastable", lambda x, c: x / c),
    ("maxBroadcastable", torch.maximum),
    ("lessThan", lambda x, c: (x < c).float()),
    ("logicalAnd", lambda x, c: torch.ones_like(x)),
]


@pytest.mark.parametrize(("kind", "fields", "expected"), SEVERAL, ids=[case[0] for case in SEVERAL])
def test_layers_of_several_inputs(tmp_path, kind, fields, expected):
    spec, x = Spec(1, 4, 6, 7), floats(3, 4, 6, 7)
    spec.add("multiply", outputs=["double"], alpha=2.0)
    spec.add("loadConstantND", inputs=[], outputs=["c"], shape=[4, 1, 1], data=C4)
    spec.add(kind, inputs=["x", "double", "c"], **fields)
    wanted = expected(T(x), T(C4)[:, None, None]).numpy()
    np.testing.assert_allclose(spec.run(tmp_path / "a.mlmodel", x=x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "expected"), PAIRS, ids=[case[0] for case in PAIRS])
def test_layers_of_two_inputs(tmp_path, kind, expected):
    spec, x = Spec(1, 4, 6, 7), floats(3, 4, 6, 7)
    spec.add("loadConstantND", inputs=[], outputs=["c"], shape=[4, 1, 1], data=C4)
    spec.add(kind, inputs=["x", "c"])
    wanted = expected(T(x), T(C4)[:, None, None]).numpy()
    np.testing.assert_allclose(spec.run(tmp_path / "a.mlmodel", x=x), wanted, rtol=1e-5, atol=1e-6)


def test_layers_of_several_outputs(tmp_path):
    spec, x = Spec(1, 4, 6, 7), floats(3, 4, 6, 7)
    spec.add("splitND", outputs=["a", "b"], axis=1, splitSizes=[1, 3])
    spec.add("split", inputs=["x"], outputs=["p", "q"], nOutputs=2)
    spec.add("concat", inputs=["b", "q", "a", "p"])
    wanted = np.concatenate([x[:, 1:], x[:, 2:], x[:, :1], x[:, :2]], axis=1)
    np.testing.assert_array_equal(spec.run(tmp_path / "a.mlmodel", x=x), wanted)


def test_integers_become_floats_and_rows_of_an_embedding(tmp_path):
    table = floats(3, 5)  # (size, rows)
    spec = Spec(1, 4)
    spec.spec.description.input[0].type.multiArrayType.dataType = graph.INT32
    spec.add("expandDims", axes=[-1])
    spec.add("embeddingND", vocabSize=5, embeddingSize=3, hasBias=True, weights=table, bias=B5[:3])
    x = RNG.integers(0, 5, (6, 4)).astype(np.int32)
    np.testing.assert_allclose(spec.run(tmp_path / "a.mlmodel", x=x), table.T[x] + B5[:3])
