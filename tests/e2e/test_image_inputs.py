"""Files that take pixels: what comes out equals PyTorch on normalised ones; inputs and labels are the formats' own."""

import io
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError
from mobconv.evaluate.input_spec import image_feed
from mobconv.model import checkpoint, image_input
from mobconv.pipeline import templates
from mobconv.pipeline.artifact import open_artifact
from mobconv.pipeline.build import record
from mobconv.pipeline.quantized import quantize_model
from mobconv.schemes import Cell, Compute, Scheme

FIXTURES = Path(__file__).parents[2] / "fixtures"
# (backend, kind of input, compute): all that an export can be asked for
FORMS = [
    ("onnx", "image", "fp32"),
    ("onnx", "image-uint8", "fp32"),
    ("tflite", "image", "fp32"),
    ("tflite", "image-uint8", "fp32"),
    ("coreml", "image", "fp32"),
    ("coreml", "image", "fp16"),
    ("coreml-mlmodel", "image", "fp32"),
]
# relative to the largest logit: the figure for fp32; fp16 keeps 11 bits through some fifty layers
CLOSE = {"fp32": 1e-3, "fp16": 2e-2}


def baseline(checkpoint, inputs):
    return checkpoint.run({"image": inputs})["logits"]


@pytest.fixture(scope="module")
def small():
    return checkpoint.load(FIXTURES / "digits-fed-mobilenet-v2-w025.safetensors")


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    """(backend, kind, compute) -> fp32 file, converted once."""
    folder, program, known = tmp_path_factory.mktemp("images"), small.trace(), {}

    def one(name, kind, compute, preprocessing=None):
        key = (name, kind, compute, preprocessing)
        if key not in known:
            backend, held = backends.get(name), replace(small, preprocessing=preprocessing or small.preprocessing)
            entry = backend.image_entry(program, held.preprocessing, held.labels, kind, None)
            cell = Cell(name, Scheme(32), compute=Compute(compute))
            out = folder / str(len(known))
            template = templates.template(backend, entry, cell.compute, out)
            model = quantize_model(program, cell.scheme)
            path = out / cell.path(backend.suffix)
            backend.encode(template, model, cell, path, record(cell, held, held.labels, entry.preprocessing))
            known[key] = path
        return known[key]

    return one


def outputs(path, images):
    with open_artifact(path) as artifact:
        takes, (spec,) = artifact.image_input(), artifact.inputs
        return artifact.run(image_feed(takes.preprocessing, spec)(images))["logits"], takes, spec


@pytest.mark.parametrize(("backend", "kind", "compute"), FORMS)
def test_logits_on_pixels_equal_pytorch_on_normalised_ones(small, made, digits, backend, kind, compute):
    images = digits.pixels[:64]
    found, takes, spec = outputs(made(backend, kind, compute), images)
    expected = baseline(small, small.preprocessing(images))
    assert np.abs(found - expected).max() <= CLOSE[compute] * np.abs(expected).max()
    assert takes.source == "its record"
    assert takes.preprocessing.mean == (0.0, 0.0, 0.0)
    assert takes.preprocessing.range == (0.0, 255.0)
    assert (spec.dtype == "uint8") == (kind == "image-uint8" and not spec.dtype.startswith("float"))


@pytest.mark.parametrize("backend", ["onnx", "tflite", "coreml", "coreml-mlmodel"])
def test_a_network_of_bgr_channels_is_still_fed_rgb_pixels(small, made, digits, backend):
    own = small.preprocessing
    turned = Preprocessing(own.mean[::-1], own.std[::-1], colour="bgr")
    path = made(backend, "image", "fp32", turned)
    images = digits.pixels[:16]
    found, takes, spec = outputs(path, images)
    expected = baseline(small, turned(images))
    assert np.abs(found - expected).max() <= CLOSE["fp32"] * np.abs(expected).max()
    # Core ML says so in the type of its input; others turn the channels around inside
    native = backend.startswith("coreml")
    assert (spec.colour, takes.preprocessing.colour) == (("bgr", "bgr") if native else (spec.colour, "rgb"))


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), pytest.param(0.0, 1.0, marks=pytest.mark.slow)])
def test_one_std_for_all_channels_is_not_folded_into_the_first_layer(small, made, digits, mean, std):
    """litert-torch multiplies one into the weights of a convolution behind it, which then are not the checkpoint's."""
    same = Preprocessing((mean,) * 3, (std,) * 3)
    images = digits.pixels[:16]
    found, _, _ = outputs(made("tflite", "image", "fp32", same), images)
    expected = baseline(small, same(images))
    assert np.abs(found - expected).max() <= CLOSE["fp32"] * np.abs(expected).max()


@pytest.mark.parametrize("backend", ["coreml", "coreml-mlmodel"])
def test_core_ml_declares_image_and_classifier_as_coremltools_does(small, made, tmp_path, backend):
    import torch

    from mobconv.backends.apple.vendor import coremltools, quiet

    ct = coremltools()
    with quiet():
        theirs = ct.convert(
            torch.export.export(small.module, (torch.zeros(1, 3, 32, 32),)).run_decompositions({}),
            inputs=[ct.ImageType(name="image", shape=(1, 3, 32, 32), color_layout=ct.colorlayout.RGB)],
            classifier_config=ct.ClassifierConfig(list(small.labels)),
            convert_to="mlprogram" if backend == "coreml" else "neuralnetwork",
            minimum_deployment_target=ct.target.iOS16 if backend == "coreml" else ct.target.iOS14,
            skip_model_load=True,
        ).get_spec()
        ours = ct.utils.load_spec(str(made(backend, "image", "fp32")))
    for spec in (ours, theirs):
        spec.description.ClearField("metadata")
    if backend == "coreml-mlmodel":  # named as the layer's output is, which is 'logits' in ours
        scores = next(each for each in theirs.description.output if each.type.HasField("dictionaryType"))
        scores.name = theirs.description.predictedProbabilitiesName = "logits"
    assert sorted(map(str, ours.description.output)) == sorted(map(str, theirs.description.output))
    for spec in (ours, theirs):
        spec.description.ClearField("output")
    assert ours.description == theirs.description
    if backend == "coreml":
        blocks = [next(iter(s.mlProgram.functions["main"].block_specializations.values())) for s in (ours, theirs)]
        ops = [next(op for op in block.operations if op.type == "classify") for block in blocks]
        assert list(blocks[0].outputs) == list(blocks[1].outputs)
        assert ops[0].inputs["classes"] == ops[1].inputs["classes"]
        assert list(ops[0].outputs) == list(ops[1].outputs)
    else:
        held = [s.neuralNetworkClassifier for s in (ours, theirs)]
        assert held[0].stringClassLabels == held[1].stringClassLabels
        assert held[0].labelProbabilityLayerName == "logits"


def test_tflite_holds_its_labels_and_metadata_where_androids_libraries_look(small, made):
    data = made("tflite", "image", "fp32").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("labels.txt").decode().split() == list(small.labels)
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    entry = next(each for each in model.metadata if each.name == b"TFLITE_METADATA")
    held = bytes(model.buffers[entry.buffer].data)
    assert held[4:8] == b"M001"
    # by hand: root -> subgraph 0 -> input 0 -> process unit 0 -> NormalizationOptions -> mean, std
    graph = follow(held, vector(held, field(held, root(held), 3))[0])
    unit = follow(held, vector(held, field(held, follow(held, vector(held, field(held, graph, 2))[0]), 4))[0])
    options = follow(held, field(held, unit, 1))
    assert [floats(held, field(held, options, i)) for i in (0, 1)] == [[0.0], [1.0]]
    output = follow(held, vector(held, field(held, graph, 3))[0])
    file = follow(held, vector(held, field(held, output, 6))[0])
    name = follow(held, field(held, file, 0))
    assert held[name + 4 :].startswith(b"labels.txt\0")
    assert held[field(held, file, 2)] == 2  # TENSOR_AXIS_LABELS


def u32(data, at):
    return struct.unpack_from("<I", data, at)[0]


def root(data):
    return u32(data, 0)


def follow(data, at):
    return at + u32(data, at)


def field(data, table, number):
    """Where a field of a flatbuffer's table stands."""
    entries = table - struct.unpack_from("<i", data, table)[0]
    offset = struct.unpack_from("<H", data, entries + 4 + 2 * number)[0]
    assert offset, f"field {number} is not there"
    return table + offset


def vector(data, at):
    start = follow(data, at)
    return [start + 4 + 4 * i for i in range(u32(data, start))]


def floats(data, at):
    return [struct.unpack_from("<f", data, place)[0] for place in vector(data, at)]


def test_onnx_holds_labels_and_preprocessing_in_its_metadata_properties(small, made):
    import onnx

    props = {each.key: each.value for each in onnx.load(str(made("onnx", "image", "fp32"))).metadata_props}
    record = json.loads(props["mobconv"])
    assert record["labels"] == list(small.labels)
    assert Preprocessing.from_json(record["preprocessing"]) == small.preprocessing
    assert record["input"]["range"] == [0.0, 255.0]


def test_tensor_input_stays_what_it_was(small, made, digits):
    found, takes, _ = outputs(made("onnx", "tensor", "fp32"), digits.pixels[:8])
    expected = baseline(small, small.preprocessing(digits.pixels[:8]))
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert takes.preprocessing == small.preprocessing


def test_a_network_that_takes_no_images_is_refused_as_one(small):
    program = small.trace()
    with pytest.raises(InputError, match="input='tensor'"):
        image_input.taking_pixels(program, Preprocessing((0.5,), (0.5,)))
    gray = Preprocessing((0.5,), (0.5,))
    for name in backends.BUILT_IN:
        assert backends.get(name).image_entry(program, gray, (), "image", None) == Entry(program, gray)
