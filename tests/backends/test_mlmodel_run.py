"""Running neuralnetwork files: images, older versions, batches, Core ML itself; and what is refused."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mlmodel_spec import RNG, Spec, fill, floats

from mobconv.backends.apple.vendor import proto
from mobconv.backends.mlmodel import model, runner
from mobconv.errors import BackendError, InputError

WEIGHT = floats(5, 4 * 6 * 7)
DECONV = {"outputChannels": 5, "kernelChannels": 4, "kernelSize": [3, 3], "stride": [2, 2], "isDeconvolution": True}
DECONV |= {"weights": floats(4, 5, 3, 3), "valid": {}}


# --- images and older versions


def image(color, scaler, shape=(2, 3)):
    spec = Spec(exact=False)
    feature = spec.spec.description.input.add(name="x")
    feature.type.imageType.height, feature.type.imageType.width = shape
    feature.type.imageType.colorSpace = color
    fill(spec.net.preprocessing.add(), {"featureName": "x", "scaler": scaler})
    return spec


@pytest.mark.parametrize(
    ("color", "bias"), [(20, [-1.0, -2.0, -3.0]), (30, [-3.0, -2.0, -1.0]), (10, [-4.0])], ids=["rgb", "bgr", "gray"]
)
def test_image_inputs_are_scaled_in_the_order_of_their_colours(tmp_path, color, bias):
    scaler = {"channelScale": 0.5, "redBias": -1.0, "greenBias": -2.0, "blueBias": -3.0, "grayBias": -4.0}
    spec = image(color, scaler)
    spec.add("activation", linear={"alpha": 1.0})
    x = RNG.integers(0, 256, (4, len(bias), 2, 3)).astype(np.float32)
    found = spec.run(tmp_path / "a.mlmodel", x=x)
    np.testing.assert_allclose(found, x / 2 + np.array(bias, np.float32)[:, None, None])


def test_a_classifier_of_an_older_version_gives_its_probabilities_as_a_vector(tmp_path):
    built = Spec(4, 6, 7, exact=False)
    built.add("innerProduct", inputChannels=168, outputChannels=5, weights=WEIGHT)
    built.add("softmax", outputs=["probabilities"])
    spec = built.spec
    net = model.copied(spec.neuralNetwork)
    spec.neuralNetworkClassifier.layers.extend(net.layers)
    spec.neuralNetworkClassifier.stringClassLabels.vector.extend("abcde")
    spec.description.predictedFeatureName, spec.description.predictedProbabilitiesName = "label", "dictionary"
    path, x = tmp_path / "a.mlmodel", floats(3, 4, 6, 7)
    path.write_bytes(model.serialize(spec))
    opened = runner.open_model(path, platform="linux")
    assert opened.inputs[0].shape == (1, 4, 6, 7)
    found = opened.run({"x": x})["probabilities"]
    np.testing.assert_allclose(
        found, F.linear(torch.from_numpy(x).flatten(1), torch.from_numpy(WEIGHT)).softmax(1), rtol=1e-5
    )
    with pytest.raises(BackendError, match="shapes"):
        runner.open_model(path, platform="darwin")


# --- batches, and Core ML itself


def test_rows_that_mix_run_one_by_one(tmp_path):
    spec, x = Spec(1, 4), floats(5, 4)
    spec.add("reduceMean", outputs=["mean"], axes=[0], keepDims=True)
    spec.add("multiplyBroadcastable", inputs=["x", "mean"])
    np.testing.assert_allclose(spec.run(tmp_path / "a.mlmodel", x=x), x * x, rtol=1e-6)


def test_core_ml_runs_the_file_on_a_mac(tmp_path, monkeypatch):
    spec = Spec(1, 4)
    spec.add("multiply", alpha=2.0)
    path = spec.save(tmp_path / "a.mlmodel")

    class Model:
        def predict(self, feeds):
            return {spec.last: feeds["x"] * 3}  # not what our executor would give

    monkeypatch.setattr(runner, "native_model", lambda given: Model() if given == path else None)
    opened, x = runner.open_model(path, platform="darwin"), floats(3, 4)
    assert opened.verified == "macos"
    np.testing.assert_array_equal(opened.run({"x": x})[spec.last], x * 3)


# --- what is refused


def refused(spec, tmp_path, words, error=BackendError):
    with pytest.raises(error, match=words):
        runner.open_model(spec.save(tmp_path / "a.mlmodel"), platform="linux")


def test_an_unknown_layer_is_named(tmp_path):
    spec = Spec(1, 4)
    spec.add("add", alpha=1.0)
    spec.add("custom", className="Mine")
    refused(spec, tmp_path, r"a\.mlmodel: layer 1 'custom 1' of type custom: mobconv does not know layers of this type")


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (
            "convolution",
            DECONV | {"outputShape": [14, 15]},
            "to the shape .14, 15., which its padding does not",
        ),
        ("convolution", DECONV | {"dilationFactor": [2, 2]}, "with dilation"),
        ("permute", {"axis": [1, 0, 2, 3]}, "sequence"),
        ("flatten", {"mode": 1}, "CHANNEL_LAST"),
        ("innerProduct", {"int8DynamicQuantize": True}, "int8DynamicQuantize"),
        ("resizeBilinear", {"targetSize": [3, 3], "mode": {"samplingMethod": 3}}, "ROI_ALIGN_MODE"),
    ],
)
def test_what_is_not_run_says_so(tmp_path, kind, fields, words):
    spec = Spec(1, 4, 6, 7)
    spec.add(kind, **fields)
    refused(spec, tmp_path, rf"layer 0 '{kind} 0' of type {kind}: .*{words}")


def quantization(bits, raw, **held):
    weights = proto().NeuralNetwork_pb2.WeightParams(rawValue=raw)
    weights.quantization.numberOfBits = bits
    fill(weights.quantization, held)
    return weights


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (quantization(8, bytes(7), linearQuantization={"scale": [1.0]}), "8 codes of 8 bits do not fit"),
        (quantization(9, bytes(99), linearQuantization={"scale": [1.0]}), "codes of 9 bits"),
        (quantization(4, bytes(4)), "without parameters"),
        (quantization(2, bytes(2), lookupTableQuantization={"floatValue": [1.0]}), "a table of 1 entries for 2 bits"),
        (quantization(4, bytes(4), linearQuantization={"scale": [1.0] * 3}), "3 scales and 0 biases for 2 channels"),
        (proto().NeuralNetwork_pb2.WeightParams(floatValue=[1.0] * 7), "7 values for the shape"),
        (proto().NeuralNetwork_pb2.WeightParams(), "without values"),
    ],
)
def test_damaged_weights_are_input_errors(tmp_path, weights, words):
    spec = Spec(1, 4)
    spec.add("innerProduct", inputChannels=4, outputChannels=2).weights.CopyFrom(weights)
    refused(spec, tmp_path, rf"layer 0 'innerProduct 0' of type innerProduct: .*{words}", InputError)


def test_codes_without_a_bias_are_read(tmp_path):
    spec, x = Spec(1, 4), floats(3, 4)
    held = quantization(4, bytes.fromhex("12345678"), linearQuantization={"scale": [0.5, 2.0]})
    spec.add("innerProduct", inputChannels=4, outputChannels=2).weights.CopyFrom(held)
    wanted = x @ np.array([[0.5, 1, 1.5, 2], [10, 12, 14, 16]], np.float32).T
    np.testing.assert_allclose(spec.run(tmp_path / "a.mlmodel", x=x), wanted, rtol=1e-5)


def test_networks_whose_edges_make_no_sense(tmp_path):
    spec = Spec(1, 4)
    refused(spec, tmp_path, "without layers", InputError)
    spec.add("add", inputs=["y"], alpha=1.0)
    refused(spec, tmp_path, "reads 'y', which no layer before it computes", InputError)
    spec = Spec(1, 4)
    spec.add("add", alpha=1.0)
    spec.spec.description.output.add(name="nowhere").type.multiArrayType.SetInParent()
    refused(spec, tmp_path, "returns nowhere", InputError)
    spec = Spec(name="x")
    spec.spec.description.input.add(name="x").type.stringType.SetInParent()
    spec.add("add", alpha=1.0)
    refused(spec, tmp_path, "the input x is of type stringType")
