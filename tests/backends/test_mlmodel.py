"""neuralnetwork files: what they hold and weigh, read with coremltools where it can; and what the format refuses."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from test_coreml import SCHEMES, Net, images, program_of, program_with, quantized

from mobconv import backends
from mobconv.backends.apple.vendor import coremltools, quiet
from mobconv.backends.mlmodel import backend, model, params
from mobconv.errors import BackendError, InputError, OutputError
from mobconv.quantize import quantize
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.weights import FloatWeight, QuantizedWeight
from mobconv.schemes import Cell, Compute, Mode, Scheme


def cell_of(scheme):
    return Cell("coreml-mlmodel", Scheme.parse(scheme))


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(1)
    return program_of(Net())


@pytest.fixture(scope="module")
def template(program, tmp_path_factory):
    found = tmp_path_factory.mktemp("template")
    backend.convert(program, Compute.FP32, found)
    return found


def converted(module, folder, shape=(1, 3, 9, 8), **more):
    """A module's program and template."""
    torch.manual_seed(2)
    found = program_of(module, shape, **more)
    folder.mkdir()
    backend.convert(found, Compute.FP32, folder)
    return found, folder


def placed(template):
    return {key: (name, p) for name, held in model_map(template).items() for p in held for key in [p["key"]]}


def model_map(template):
    return json.loads((template / "map.json").read_text())["places"]


def layers_of(path):
    return model.network(model.read(path)).layers


def vendor_values(path):
    """{'<position>.weights': values} after coremltools' own dequantizer has gone over the file."""
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        from coremltools.models.neural_network import quantization_utils

        spec = coremltools().utils.load_spec(str(path))
        quantization_utils._dequantize_nn_spec(spec.neuralNetwork)
    return {
        field.key: np.array(field.params.floatValue, np.float32) for field in model.fields(spec.neuralNetwork.layers)
    }


# --- bits


@pytest.mark.parametrize(
    ("bits", "codes", "data"),
    [
        (1, [1, 0, 0, 0, 0, 0, 0, 0, 1], "8080"),
        (2, [3, 0, 1, 2, 1], "c640"),
        (3, [1, 2, 3], "2980"),
        (4, [0xA, 0x5, 0xF], "a5f0"),
        (5, [0b10001, 0b00100], "8900"),
        (6, [0b100001, 0b111110], "87e0"),
        (7, [0b1000001, 0b0111111], "82fc"),
        (8, [0, 255, 7], "00ff07"),
    ],
)
def test_codes_are_packed_most_significant_bit_first(bits, codes, data):
    codes = np.array(codes, np.uint8)
    assert params.pack(codes, bits).hex() == data
    assert np.array_equal(params.unpack(bytes.fromhex(data), bits, codes.size), codes)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1001])
def test_packing_there_and_back(bits, count):
    codes = np.random.default_rng(bits).integers(0, 2**bits, count).astype(np.uint8)
    data = params.pack(codes, bits)
    assert len(data) == (count * bits + 7) // 8
    assert np.array_equal(params.unpack(data, bits, count), codes)


def test_codes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        params.pack(np.array([4], np.uint8), 2)
    with pytest.raises(ValueError, match="do not fit"):
        params.unpack(b"\0", 3, 3)


# --- scale and bias


def two_valued(table, fp16=True):
    table = np.array(table, np.float32)
    codes = np.zeros((len(table), 2), np.uint8)
    return QuantizedWeight("w", 1, Mode.LINEAR, 0, codes, None, None, table, fp16)


def test_two_fp16_values_a_channel_are_exact():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(5000, 2)).astype(np.float16).astype(np.float32)
    weight = two_valued(table)
    scale, bias = params.scale_and_bias(weight)
    assert np.array_equal(bias, table[:, 0]) and np.array_equal(bias + scale, table[:, 1])
    assert params.is_exact(weight)


def test_two_fp32_values_a_channel_are_as_near_as_fp32_allows():
    table = np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)
    weight = two_valued(table, fp16=False)
    scale, bias = params.scale_and_bias(weight)
    assert np.array_equal(bias, table[:, 0])
    error = np.abs((bias + scale).astype(np.float64) - table[:, 1])
    assert (error <= 2.0**-23 * np.abs(table[:, 1] - table[:, 0])).all()
    assert not params.is_exact(weight)  # some of 5000 fall between


@pytest.mark.parametrize("mode", ["linear", "symmetric"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_zero_points_come_back_from_the_bias(mode, bits):
    values = np.random.default_rng(bits).normal(0.1, 1, (64, 9)).astype(np.float32)
    weight = quantize("w", values, 0, Scheme.parse(f"w{bits}-{mode}"))
    scale, bias = params.scale_and_bias(weight)
    zero = np.full(64, 2 ** (bits - 1)) if weight.zero_point is None else weight.zero_point
    assert np.array_equal(np.rint(-bias / scale), zero)
    assert np.array_equal(bias, -(scale.astype(np.float64) * zero))  # exact, not only near
    assert not np.signbit(bias[zero == 0]).any()
    assert params.is_exact(weight)


# --- files


@pytest.mark.parametrize("scheme", [*SCHEMES, "w4-linear-tensor", "w1-linear-tensor", "w3-symmetric-tensor"])
def test_an_artifact_holds_the_quantizers_codes_weighs_what_it_says_and_computes_the_reference(
    program, template, tmp_path, scheme
):
    cell, path = cell_of(scheme), tmp_path / "a.mlmodel"
    weights = quantized(program, cell.scheme)
    told = backend.encode(template, QuantizedModel(weights), cell, path)

    # (coremltools' reader wants a scale for each channel; the format, and its validator, allow one for all)
    values = None if scheme in ("w4-linear-tensor", "w3-symmetric-tensor") else vendor_values(path)
    for field in model.fields(layers_of(path)):
        if field.key in placed(template):
            name, place = placed(template)[field.key]
            codes = weights[name].codes.transpose(place["perm"]).reshape(-1)
            assert field.params.quantization.numberOfBits == cell.scheme.bits
            assert np.array_equal(params.unpack(field.params.rawValue, cell.scheme.bits, codes.size), codes)
            exact = weights[name].dequantize().transpose(place["perm"]).reshape(-1)
            if values is None:
                found = params.get(field.params, field.shape, field.axis).reshape(-1)
                assert len(field.params.quantization.linearQuantization.scale) == 1
            else:
                found = values[field.key]
            np.testing.assert_array_equal(found, exact, err_msg=name)

    # a weight that two layers use is held twice
    held = [weights[name] for name, places in model_map(template).items() for _ in places]
    assert len(held) == len(weights) + 1
    codes = sum(-(-weight.codes.size * weight.bits // 8) for weight in held)
    numbers = sum(weight.table.size if weight.table is not None else 2 * weight.groups for weight in held)
    assert codes < told.weight_bytes <= codes + 4 * numbers + 64 * len(held)
    assert (told.support.stored_bits, told.support.requires, told.support.note) == (cell.scheme.bits, "iOS13", "")

    runner, image = backend.open(path), images()
    got = runner.run({"image": image})["logits"]
    wanted = program_with(program, weights).run({"image": image})["logits"]
    assert (np.abs(got - wanted).max(1) / np.abs(wanted).max(1)).max() < 1e-5
    assert runner.verified == "emulated"
    assert [(spec.name, spec.shape, spec.dtype) for spec in runner.outputs] == [("logits", (1, 10), "float32")]


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
def test_float_schemes(program, template, tmp_path, scheme):
    cell, path = cell_of(scheme), tmp_path / "a.mlmodel"
    told = backend.encode(template, QuantizedModel(quantized(program, cell.scheme)), cell, path)
    width = cell.scheme.bits // 8
    assert told.weight_bytes == width * (216 + 72 + 384 + 2 * 144 + 120)
    sizes = {
        field.key.partition(".")[2]: (len(field.params.floatValue), len(field.params.float16Value) // 2)
        for field in model.fields(layers_of(path))
    }
    # a layer's floats are of one width
    assert all((whole == 0) == (width == 2) and (half == 0) == (width == 4) for whole, half in sizes.values())
    floats = program.floats()
    rounded = {n: v.astype(np.float16).astype(np.float32) if width == 2 else v for n, v in floats.items()}
    got = backend.open(path).run({"image": images()})["logits"]
    wanted = program.with_values(rounded).run({"image": images()})["logits"]
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_a_half_weight_beside_a_bias_that_fp16_rounds(program, template, tmp_path):
    floats, path = program.floats(), tmp_path / "a.mlmodel"
    schemes = dict(zip(program.sites, ["fp16", "w3-symmetric", "w5-linear", "fp32", "fp16"], strict=True))
    weights = {n: quantize(n, floats[n], program.sites[n].axis, Scheme.parse(s)) for n, s in schemes.items()}
    told = backend.encode(template, QuantizedModel(weights), cell_of("w5-linear"), path)
    codes = sum(w.codes.size * w.bits / 8 for w in weights.values() if isinstance(w, QuantizedWeight))
    assert codes < told.weight_bytes < codes + 8 * (8 + 12) + 2 * 64
    kinds = [layer.WhichOneof("layer") for layer in layers_of(path)]
    assert kinds.count("loadConstantND") == kinds.count("addBroadcastable") == 2
    for layer in layers_of(path):
        held = getattr(layer, layer.WhichOneof("layer"))
        if layer.WhichOneof("layer") in ("convolution", "innerProduct") and held.weights.float16Value:
            assert not held.hasBias and not held.HasField("bias")
    got = backend.open(path).run({"image": images()})["logits"]
    wanted = program_with(program, weights).run({"image": images()})["logits"]
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_equal_artifacts_are_equal_bytes(program, template, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    backend.convert(program, Compute.FP32, again)
    cell = cell_of("w4-kmeans")
    for name, source in (("a", template), ("b", template), ("c", again)):
        backend.encode(
            source, QuantizedModel(quantized(program, cell.scheme)), cell, tmp_path / f"{name}.mlmodel", record="{}"
        )
    first = (tmp_path / "a.mlmodel").read_bytes()
    assert (tmp_path / "b.mlmodel").read_bytes() == first == (tmp_path / "c.mlmodel").read_bytes()
    assert b"conversion_date" not in first


def test_a_record_travels_and_counts_for_nothing(program, template, tmp_path):
    cell, weights = cell_of("w8-kmeans"), quantized(program, Scheme.parse("w8-kmeans"))
    bare = backend.encode(template, QuantizedModel(weights), cell, tmp_path / "a.mlmodel")
    told = backend.encode(template, QuantizedModel(weights), cell, tmp_path / "b.mlmodel", record='{"cell": "x"}')
    assert told == bare
    assert backend.open(tmp_path / "a.mlmodel").record == ""
    assert backend.open(tmp_path / "b.mlmodel").record == '{"cell": "x"}'
    with quiet():
        found = coremltools().models.MLModel(str(tmp_path / "b.mlmodel"), skip_model_load=True)
    assert found.user_defined_metadata["mobconv"] == '{"cell": "x"}'


def test_nothing_half_written_is_left_and_the_old_artifact_stays(program, template, tmp_path, monkeypatch):
    cell, path = cell_of("w8-kmeans"), tmp_path / "a.mlmodel"
    backend.encode(template, QuantizedModel(quantized(program, cell.scheme)), cell, path)
    before = path.read_bytes()

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    other = quantized(program, Scheme.parse("w2-kmeans"))
    with pytest.raises(OutputError, match="disk is full"):
        backend.encode(template, QuantizedModel(other), cell_of("w2-kmeans"), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mlmodel"] and path.read_bytes() == before


# --- what the format cannot hold


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("w4-kmeans-channel", "one table a layer"),
        ("w4-linear@fp16", "fp16 on the GPU"),
        ("fp16@fp16", "leave @fp16 out"),
    ],
)
def test_unsupported_cells_say_why(program, template, tmp_path, name, words):
    cell = Cell.parse(f"coreml-mlmodel/{name}")
    found = backend.support(cell)
    assert found.stored_bits is None and words in found.reason
    with pytest.raises(BackendError, match=words):
        backend.encode(template, QuantizedModel(quantized(program, cell.scheme)), cell, tmp_path / "a.mlmodel")
    assert list(tmp_path.iterdir()) == []


def test_a_granularity_between_tensor_and_channel_is_refused():
    class Between:
        scheme = type("", (), {"mode": Mode.LINEAR, "granularity": "oc16", "bits": 4})
        storage, compute = None, Compute.FP32

    found = backend.support(Between)
    assert found.stored_bits is None and "one scale for each output channel or one for the tensor" in found.reason


class Rows(torch.nn.Module):
    """An embedding, whose channels are its rows, which are columns in the file."""

    def __init__(self):
        super().__init__()
        self.rows = torch.nn.Embedding(11, 6)

    def forward(self, x):
        return self.rows(x).mean(1)


def test_an_embedding_has_no_scale_for_each_row_but_a_table(tmp_path):
    program = _traced(Rows(), np.arange(4)[None] * 2)
    backend.convert(program, Compute.FP32, tmp_path)
    path = tmp_path / "a.mlmodel"
    with pytest.raises(BackendError, match=r"embedding.*rows\.weight.*11 channels.*k-means"):
        backend.encode(
            tmp_path, QuantizedModel(quantized(program, Scheme.parse("w4-linear"))), cell_of("w4-linear"), path
        )
    for scheme in ("w5-kmeans", "w4-linear-tensor"):
        weights = quantized(program, Scheme.parse(scheme))
        backend.encode(tmp_path, QuantizedModel(weights), cell_of(scheme), path)
        x = np.random.default_rng(0).integers(0, 11, (5, 4))
        runner = backend.open(path)
        assert runner.inputs[0].dtype == "int32"
        got = runner.run({"image": x})["logits"]
        np.testing.assert_allclose(got, program_with(program, weights).run({"image": x})["logits"], atol=1e-6)


def _traced(module, example):
    from mobconv.model.trace import trace

    torch.manual_seed(0)
    return trace(module.eval(), {"image": example})


def test_a_grouped_deconvolution_has_one_scale(tmp_path):
    program, template = converted(torch.nn.ConvTranspose2d(4, 6, 3, 2, groups=2), tmp_path / "t", (1, 4, 5, 6))
    with pytest.raises(BackendError, match="has no scale for each of the 3 channels"):
        backend.encode(
            template,
            QuantizedModel(quantized(program, Scheme.parse("w4-linear"))),
            cell_of("w4-linear"),
            tmp_path / "a",
        )
    weights = quantized(program, Scheme.parse("w4-linear-tensor"))
    backend.encode(template, QuantizedModel(weights), cell_of("w4-linear-tensor"), tmp_path / "a.mlmodel")
    x = images(3, (4, 5, 6))
    got = backend.open(tmp_path / "a.mlmodel").run({"image": x})["logits"]
    np.testing.assert_allclose(got, program_with(program, weights).run({"image": x})["logits"], atol=1e-5)


@pytest.mark.parametrize(("kernel", "padding", "extra"), [(3, 1, 1), (4, 1, 0), (5, 2, 1), (3, 0, 0)])
def test_a_deconvolution_is_cut_by_padding_alone(tmp_path, kernel, padding, extra):
    """With outputShape, which coremltools writes, the padding would be ignored and the cut be nobody's word."""
    module = torch.nn.ConvTranspose2d(3, 5, kernel, 2, padding, extra)
    program, template = converted(module, tmp_path / "t")
    layer = next(each for each in layers_of(template / "template.mlmodel") if each.HasField("convolution"))
    assert not layer.convolution.outputShape
    weights = {name: FloatWeight(name, program.floats()[name]) for name in program.sites}
    backend.encode(template, QuantizedModel(weights), cell_of("fp32"), tmp_path / "a.mlmodel")
    x = images(2, (3, 9, 8))
    got = backend.open(tmp_path / "a.mlmodel").run({"image": x})["logits"]
    np.testing.assert_allclose(got, program.run({"image": x})["logits"], atol=1e-5)


def test_what_coremltools_cannot_convert_is_a_backend_error(tmp_path):
    class Sorts(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.det(x)

    with pytest.raises(BackendError, match="cannot convert the network to a neuralnetwork"):
        converted(Sorts(), tmp_path / "t", (1, 3, 3))


# --- opening


def test_files_that_are_no_neural_network(program, template, tmp_path):
    cell, good = cell_of("w4-linear"), tmp_path / "good.mlmodel"
    backend.encode(template, QuantizedModel(quantized(program, cell.scheme)), cell, good)
    bad = tmp_path / "bad.mlmodel"
    for cut in (0, 1, 10, 500, len(good.read_bytes()) - 1):
        bad.write_bytes(good.read_bytes()[:cut])
        with pytest.raises(InputError, match=r"bad\.mlmodel.*(truncated|empty)"):
            backend.open(bad)
    bad.write_bytes(b"not a model at all")
    with pytest.raises(InputError, match=r"bad\.mlmodel: not a Core ML model"):
        backend.open(bad)
    with pytest.raises(InputError, match=r"nothing\.mlmodel: cannot be read"):
        backend.open(tmp_path / "nothing.mlmodel")
    with pytest.raises(InputError, match="is a folder"):
        backend.open(tmp_path)


@pytest.mark.parametrize("kind", ["pipeline", "treeEnsembleRegressor", "mlProgram"])
def test_models_of_another_type(tmp_path, kind):
    spec = coremltools().proto.Model_pb2.Model(specificationVersion=4)
    getattr(spec, kind).SetInParent()
    (tmp_path / "a.mlmodel").write_bytes(spec.SerializeToString())
    words = "ML Program without its weights" if kind == "mlProgram" else f"of type {kind}"
    with pytest.raises(InputError, match=words):
        backend.open(tmp_path / "a.mlmodel")


def test_the_backend_is_found_by_name_and_suffix(tmp_path):
    assert backends.get("coreml-mlmodel") is backend
    assert backends.for_path(tmp_path / "x.mlmodel") is backend
    assert backends.for_path(tmp_path / "x.mlpackage").name == "coreml"
