"""Artifacts of the Core ML backend: what they hold, weigh and compute, read with coremltools where it can."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from mobconv.backends.apple.vendor import coremltools, quiet
from mobconv.backends.coreml import backend
from mobconv.errors import BackendError, CellError, InputError, OutputError
from mobconv.model.trace import trace
from mobconv.quantize import quantize
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.weights import FloatWeight, QuantizedWeight
from mobconv.schemes import Cell, Compute, Mode, Scheme

SCHEMES = [f"w{bits}-{mode}" for mode in Mode for bits in range(8, 0, -1)]


class Net(torch.nn.Module):
    """Every kind of weight: conv, depthwise, transposed, linear, one shared by two ops."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.deep = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up = torch.nn.ConvTranspose2d(8, 12, 2, stride=2)
        self.shared = torch.nn.Conv2d(12, 12, 1, bias=False)
        self.head = torch.nn.Linear(12, 10)

    def forward(self, x):
        x = torch.relu(self.up(torch.nn.functional.relu6(self.deep(self.stem(x)))))
        return self.head(self.shared(self.shared(x)).mean((2, 3)))


def program_of(module, shape=(1, 3, 12, 12), name="image"):
    torch.manual_seed(0)
    return trace(module.eval(), {name: np.random.default_rng(0).random(shape).astype(np.float32)})


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(1)
    return program_of(Net())


@pytest.fixture(scope="module")
def templates(program, tmp_path_factory):
    found = {}
    for compute in Compute:
        found[compute] = tmp_path_factory.mktemp(compute.value)
        backend.convert(program, compute, found[compute])
    return found


def quantized(program, scheme):
    floats = program.floats()
    return {name: quantize(name, floats[name], site.axis, scheme) for name, site in program.sites.items()}


def images(rows=20, shape=(3, 12, 12)):
    return np.random.default_rng(2).normal(size=(rows, *shape)).astype(np.float32)


def program_with(program, weights):
    return program.with_values({name: weight.dequantize() for name, weight in weights.items()})


def load(path):
    with quiet():
        return coremltools().models.MLModel(str(path), skip_model_load=True)


def operations(model):
    main = model.get_spec().mlProgram.functions["main"]
    return list(main.block_specializations[main.opset].operations)


def vendor_values(path):
    """{output: (op type, {parameter: array or name of another output})} by coremltools' own reader."""
    with quiet():
        from coremltools.converters.mil.frontend.milproto import load as milproto
    model = load(path)
    context = milproto.TranscriptionContext(model.weights_dir)
    found = {}
    for op in operations(model):
        if op.type == "const" or op.type.startswith("constexpr"):
            values = {k: milproto._load_value(context, v) for k, v in op.attributes.items() if k != "name"}
            for key, argument in op.inputs.items():
                bound = argument.arguments[0]
                values[key] = bound.name or milproto._load_value(context, bound.value)
            shape = tuple(dim.constant.size for dim in op.outputs[0].type.tensorType.dimensions)
            for key in ("indices", "data", "quantized_data"):
                if key in values and not isinstance(values[key], str) and op.type != "constexpr_lut_to_dense":
                    values[key] = values[key].reshape(shape)
            found[op.outputs[0].name] = (op.type, values)
    return found


def codes_of(found, name, bits):
    """The n-bit codes below `name`, found by the layouts that the docstring of `forms` states."""
    kind, values = found[name]
    if kind == "constexpr_affine_dequantize":
        data = values["quantized_data"].astype(int)
        return data + (128 if values["quantized_data"].dtype == np.int8 else 0)
    if bits in (5, 7):
        low, high = halves(found, name)
        return low.astype(int) + (high.astype(int) << (bits - 1))
    if kind == "constexpr_lut_to_dense":
        indices = values["indices"]
        if "shape" not in values:
            return indices.astype(int)
        lanes = np.unpackbits(indices, bitorder="little")[: int(np.prod(values["shape"])) * bits]
        return (lanes.reshape(-1, bits) << np.arange(bits)).sum(1).reshape(values["shape"])
    data = values["data"]
    if isinstance(data, str):
        return found[data][1]["indices"].astype(int)
    return data.astype(int) + (2 ** (bits - 1) if "offset" not in values else 0)


def halves(found, name):
    """lo and hi of a split: the constants that all operations below `name` read."""
    low = high = None
    for value in found[name][1].values():
        if isinstance(value, str) and value in found:
            low_below, high_below = halves(found, value)
            low, high = low if low_below is None else low_below, high if high_below is None else high_below
    values = found[name][1]
    if "indices" in values:
        if values["lut"].shape[-2] == 2:
            high = values["indices"]
        else:
            low = values["indices"]
    elif isinstance(values.get("data"), np.ndarray):
        low = values["data"]
    return low, high


def places_of(template):
    return json.loads((template / "map.json").read_text())["places"]


@pytest.mark.parametrize("compute", list(Compute))
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_artifact_holds_the_quantizers_codes_weighs_what_it_says_and_computes_the_reference(
    program, templates, tmp_path, scheme, compute
):
    cell = Cell("coreml", Scheme.parse(scheme), compute=compute)
    weights = quantized(program, cell.scheme)
    path = tmp_path / "a.mlpackage"
    told = backend.encode(templates[compute], QuantizedModel(weights), cell, path)

    # codes and values, read by coremltools
    found = vendor_values(path)
    with quiet():
        plain = vendor_decompressed(path, tmp_path)
    half = np.float16 if compute is Compute.FP16 else np.float32
    for name, held in places_of(templates[compute]).items():
        for place in held:
            codes = weights[name].codes.transpose(place["perm"]).reshape(place["shape"])
            stored = codes_of(found, place["key"], cell.scheme.bits)
            np.testing.assert_array_equal(stored.reshape(place["shape"]), codes, err_msg=name)
            exact = weights[name].dequantize().transpose(place["perm"]).reshape(place["shape"])
            np.testing.assert_array_equal(plain[place["key"]], exact.astype(half), err_msg=name)

    # size: exact codes, parameters of the program's float type, and a bound on what surrounds them
    count = sum(weight.codes.size for weight in weights.values())
    width = 2 if compute is Compute.FP16 else 4
    parameters = sum(
        sum(array.size for array in (w.scale, w.table) if array is not None)
        * width
        * (2 if cell.scheme.bits == 1 and w.scale is not None else 1)
        + (0 if w.zero_point is None else 2 * w.zero_point.size)
        for w in weights.values()
    )
    bound = 220 if not told.support.note else 500 if cell.scheme.bits in (6, 3, 2) else 1900
    assert told.support.stored_bits == cell.scheme.bits
    assert told.weight_bytes <= count * cell.scheme.bits / 8 + parameters + bound * len(weights)

    # what it computes
    with_runner = backend.open(path)
    image = images()
    got = with_runner.run({"image": image})["logits"]
    wanted = program_with(program, weights).run({"image": image})["logits"]
    error = np.abs(got - wanted).max(1) / np.abs(wanted).max(1)
    assert error.max() < (1e-5 if compute is Compute.FP32 else 1e-2)
    assert with_runner.verified == "emulated"


def vendor_decompressed(path, tmp_path):
    """Weights after coremltools' own decompress_weights, by the name that they had before.

    It stores equal constants once, so they are found by the operation that takes them.
    """
    model = load(path)
    decompressed = coremltools().optimize.coreml.decompress_weights(model)
    target = tmp_path / "plain.mlpackage"
    decompressed.save(str(target))
    found = vendor_values(target)
    assert not [kind for kind, _ in found.values() if kind != "const"]
    after = {op.outputs[0].name: op for op in operations(decompressed)}
    weights = {}
    for op in operations(model):
        if "weight" in op.inputs:
            name = after[op.outputs[0].name].inputs["weight"].arguments[0].name
            weights[op.inputs["weight"].arguments[0].name] = found[name][1]["val"]
    return weights


@pytest.mark.parametrize(
    "scheme",
    [
        "w8-linear-tensor",
        "w5-linear-tensor",
        "w1-linear-tensor",
        "w4-symmetric-tensor",
        "w1-symmetric-tensor",
        "w4-kmeans-channel",
        "w3-kmeans-channel",
        "w5-kmeans-channel",
    ],
)
def test_the_other_granularity_is_held_exactly(program, templates, tmp_path, scheme):
    cell = Cell("coreml", Scheme.parse(scheme))
    weights = quantized(program, cell.scheme)
    told = backend.encode(templates[Compute.FP32], QuantizedModel(weights), cell, tmp_path / "a.mlpackage")
    with quiet():
        plain = vendor_decompressed(tmp_path / "a.mlpackage", tmp_path)
    for name, held in places_of(templates[Compute.FP32]).items():
        exact = weights[name].dequantize().transpose(held[0]["perm"]).reshape(held[0]["shape"])
        np.testing.assert_array_equal(plain[held[0]["key"]], exact, err_msg=name)
    old = scheme in ("w8-linear-tensor", "w1-linear-tensor", "w1-symmetric-tensor")
    assert told.support.requires == ("iOS16" if old else "iOS18")
    assert load(tmp_path / "a.mlpackage").get_spec().specificationVersion == (7 if old else 9)


@pytest.mark.parametrize("scheme", ["fp32", "fp16"])
@pytest.mark.parametrize("compute", list(Compute))
def test_float_schemes(program, templates, tmp_path, scheme, compute):
    cell = Cell("coreml", Scheme.parse(scheme), compute=compute)
    weights = quantized(program, cell.scheme)
    told = backend.encode(templates[compute], QuantizedModel(weights), cell, tmp_path / "a.mlpackage")
    found = vendor_values(tmp_path / "a.mlpackage")
    kinds = {kind for kind, _ in found.values()}
    count = sum(weight.values.size for weight in weights.values())
    if scheme == "fp16" and compute is Compute.FP32:
        assert "constexpr_cast" in kinds
        # weights and biases alike: the stem, the depthwise and the transposed conv, the head
        held = [v["source_val"] for kind, v in found.values() if kind == "constexpr_cast"]
        assert sorted(v.size for v in held) == sorted([216, 72, 384, 144, 120, 8, 8, 12, 10])
        assert all(v.dtype == np.float16 for v in held)
        assert 2 * count <= told.weight_bytes <= 2 * count + 100 * len(weights)
    else:
        assert "constexpr_cast" not in kinds
        assert told.weight_bytes == count * (4 if compute is Compute.FP32 else 2)
    floats = {
        n: v.astype(np.float16).astype(np.float32) if scheme == "fp16" else v for n, v in program.floats().items()
    }
    image = images()
    got = backend.open(tmp_path / "a.mlpackage").run({"image": image})["logits"]
    wanted = program.with_values(floats).run({"image": image})["logits"]
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert error < (1e-5 if compute is Compute.FP32 else 1e-2)


def test_weights_of_one_file_may_differ(program, templates, tmp_path):
    floats = program.floats()
    schemes = dict(zip(program.sites, ["w8-linear", "w3-symmetric", "w5-kmeans", "fp32", "fp16"], strict=True))
    weights = {n: quantize(n, floats[n], program.sites[n].axis, Scheme.parse(s)) for n, s in schemes.items()}
    cell = Cell("coreml", Scheme.parse("w8-linear"))
    told = backend.encode(templates[Compute.FP32], QuantizedModel(weights), cell, tmp_path / "a.mlpackage")
    assert told.support.requires == "iOS18"
    plain = sum(w.values.size * w.bits // 8 for w in weights.values() if isinstance(w, FloatWeight))
    codes = sum(w.codes.size * w.bits / 8 for w in weights.values() if isinstance(w, QuantizedWeight))
    assert codes < told.weight_bytes < codes + plain + 4000
    image = images()
    got = backend.open(tmp_path / "a.mlpackage").run({"image": image})["logits"]
    wanted = program_with(program, weights).run({"image": image})["logits"]
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def files(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_equal_artifacts_are_equal_bytes(program, templates, tmp_path):
    cell = Cell("coreml", Scheme.parse("w4-kmeans"))
    again = tmp_path / "again"
    again.mkdir()
    backend.convert(program, Compute.FP32, again)
    for name, template in (("a", templates[Compute.FP32]), ("b", templates[Compute.FP32]), ("c", again)):
        backend.encode(template, QuantizedModel(quantized(program, cell.scheme)), cell, tmp_path / f"{name}.mlpackage")
    first = files(tmp_path / "a.mlpackage")
    assert sorted(first) == [
        "Data/com.apple.CoreML/model.mlmodel",
        "Data/com.apple.CoreML/weights/weight.bin",
        "Manifest.json",
    ]
    assert files(tmp_path / "b.mlpackage") == first
    assert files(tmp_path / "c.mlpackage") == first


def test_a_record_travels_and_counts_for_nothing(program, templates, tmp_path):
    cell = Cell("coreml", Scheme.parse("w8-kmeans"))
    weights = quantized(program, cell.scheme)
    bare = backend.encode(templates[Compute.FP32], QuantizedModel(weights), cell, tmp_path / "a.mlpackage")
    told = backend.encode(
        templates[Compute.FP32], QuantizedModel(weights), cell, tmp_path / "b.mlpackage", record='{"cell": "x"}'
    )
    assert told == bare
    assert backend.open(tmp_path / "a.mlpackage").record == ""
    assert backend.open(tmp_path / "b.mlpackage").record == '{"cell": "x"}'
    assert load(tmp_path / "b.mlpackage").user_defined_metadata["mobconv"] == '{"cell": "x"}'


def test_nothing_half_written_is_left_and_the_old_artifact_stays(program, templates, tmp_path, monkeypatch):
    cell = Cell("coreml", Scheme.parse("w8-kmeans"))
    weights = quantized(program, cell.scheme)
    path = tmp_path / "a.mlpackage"
    backend.encode(templates[Compute.FP32], QuantizedModel(weights), cell, path)
    before = files(path)
    for raised, expected in (
        (OSError(28, "No space left on device"), OutputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ):

        def fail(self, data, raised=raised):
            raise raised

        with monkeypatch.context() as patched:
            patched.setattr("pathlib.Path.write_bytes", fail)
            with pytest.raises(expected):
                backend.encode(templates[Compute.FP32], QuantizedModel(weights), cell, path)
        assert [p.name for p in tmp_path.iterdir()] == ["a.mlpackage"]
        assert files(path) == before
    other = quantized(program, Scheme.parse("w2-kmeans"))
    backend.encode(templates[Compute.FP32], QuantizedModel(other), Cell("coreml", Scheme.parse("w2-kmeans")), path)
    assert files(path) != before
    assert [p.name for p in tmp_path.iterdir()] == ["a.mlpackage"]


def test_parameters_beyond_fp16_are_refused_in_fp16_programs_and_exact_in_fp32_ones(program, templates, tmp_path):
    cell = Cell("coreml", Scheme.parse("w4-linear"), compute=Compute.FP16)
    weights = quantized(program, cell.scheme)
    stem = weights["stem.weight"]
    weights["stem.weight"] = replace(stem, scale=stem.scale * np.float32(1e-9), fp16=False)
    with pytest.raises(BackendError, match=r"stem\.weight.*fp16"):
        backend.encode(templates[Compute.FP16], QuantizedModel(weights), cell, tmp_path / "a.mlpackage")
    assert not list(tmp_path.iterdir())
    plain = Cell("coreml", Scheme.parse("w4-linear"))
    backend.encode(templates[Compute.FP32], QuantizedModel(weights), plain, tmp_path / "a.mlpackage")
    with quiet():
        held = vendor_decompressed(tmp_path / "a.mlpackage", tmp_path)
    key = places_of(templates[Compute.FP32])["stem.weight"][0]["key"]
    np.testing.assert_array_equal(held[key], weights["stem.weight"].dequantize())


def test_a_subnormal_table_entry_is_rounded_in_an_fp16_program_and_the_row_says_so(program, templates, tmp_path):
    cell = Cell("coreml", Scheme.parse("w4-kmeans"), compute=Compute.FP16)
    weights = quantized(program, cell.scheme)
    table = weights["stem.weight"].table.copy()
    table[0, 3] = 1.23456e-6
    weights["stem.weight"] = replace(weights["stem.weight"], table=table, fp16=False)
    told = backend.encode(templates[Compute.FP16], QuantizedModel(weights), cell, tmp_path / "a.mlpackage")
    assert "stem.weight" in told.support.note and "rounded" in told.support.note
    plain = backend.encode(
        templates[Compute.FP32], QuantizedModel(weights), replace(cell, compute=Compute.FP32), tmp_path / "b.mlpackage"
    )
    assert not plain.support.note
    with quiet():
        held = vendor_decompressed(tmp_path / "b.mlpackage", tmp_path)
    key = places_of(templates[Compute.FP32])["stem.weight"][0]["key"]
    np.testing.assert_array_equal(held[key], weights["stem.weight"].dequantize())


def test_wrong_requests_are_errors(program, templates, tmp_path):
    scheme = Scheme.parse("w4-kmeans")
    weights = quantized(program, scheme)
    with pytest.raises(CellError, match="computes in fp32"):
        backend.encode(
            templates[Compute.FP32], QuantizedModel(weights), Cell.parse("coreml/w4-kmeans@fp16"), tmp_path / "a"
        )
    with pytest.raises(BackendError, match=r"head\.weight"):
        del weights["head.weight"]
        backend.encode(templates[Compute.FP32], QuantizedModel(weights), Cell("coreml", scheme), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_support_says_what_encode_says():
    assert {bits for s in SCHEMES if (bits := backend.support(Cell("coreml", Scheme.parse(s))).stored_bits)} == set(
        range(1, 9)
    )
    chained = {s for s in SCHEMES if "2688" in backend.support(Cell("coreml", Scheme.parse(s))).note}
    assert chained == {f"w{b}-{m}" for b in (7, 6, 5, 3, 2) for m in ("linear", "symmetric")} | {
        "w7-kmeans",
        "w5-kmeans",
    }


def test_native_is_what_one_op_decodes():
    def stored(mode, granularity=""):
        cells = [Cell.parse(f"coreml/w{bits}-{mode}{granularity}@native") for bits in range(1, 9)]
        found = [backend.support(cell) for cell in cells]
        assert all(
            bool(each.reason) == (each.stored_bits != cell.scheme.bits) for each, cell in zip(found, cells, strict=True)
        )
        assert not any(each.note for each in found), "a chain of ops"
        return [each.stored_bits for each in found]

    for granularity in ("-tensor", "-channel", "-oc16"):
        assert stored("kmeans", granularity) == [1, 2, 3, 4, 6, 6, 8, 8]
        assert stored("linear", granularity) == stored("symmetric", granularity) == [1, 4, 4, 4, 8, 8, 8, 8]


def test_groups_of_16_channels_need_ios18():
    assert backend.support(Cell.parse("coreml/w8-linear-oc16")).requires == "iOS18"
    assert backend.support(Cell.parse("coreml/w8-linear")).requires == "iOS16"
    assert backend.support(Cell.parse("coreml/w4-kmeans-oc16")).requires == "iOS18"


def test_missing_names_what_to_install(monkeypatch):
    assert backend.missing() is None
    monkeypatch.setattr("mobconv.backends.coreml.find_spec", lambda name: None)
    assert 'pip install "mobconv[coreml]"' in backend.missing()


def test_what_is_no_package_is_an_input_error(program, templates, tmp_path):
    cell = Cell("coreml", Scheme.parse("w8-kmeans"))
    good = tmp_path / "good.mlpackage"
    backend.encode(templates[Compute.FP32], QuantizedModel(quantized(program, cell.scheme)), cell, good)
    assert backend.open(good).inputs[0].shape == (1, 3, 12, 12)
    model = "Data/com.apple.CoreML/model.mlmodel"
    weights = "Data/com.apple.CoreML/weights/weight.bin"

    def spoil(name, change):
        path = tmp_path / f"{name}.mlpackage"
        shutil.copytree(good, path)
        change(path)
        return path

    def cut(file, share):
        def change(path):
            content = (path / file).read_bytes()
            (path / file).write_bytes(content[: int(len(content) * share)])

        return change

    a_file = tmp_path / "file.mlpackage"
    a_file.write_text("x")
    empty = tmp_path / "empty.mlpackage"
    empty.mkdir()
    bad = {
        "no such": tmp_path / "none.mlpackage",
        "folder": a_file,
        "Manifest": empty,
        "does not name": spoil("manifest", lambda p: (p / "Manifest.json").write_text("{}")),
        "cannot read|truncated|not a Core ML": spoil("model", cut(model, 0.5)),
        "empty": spoil("model0", cut(model, 0)),
        "truncated": spoil("weights", cut(weights, 0.5)),
        "cannot read weight.bin": spoil("noweights", lambda p: (p / weights).unlink()),
        "damaged|not the": spoil("zero", lambda p: (p / weights).write_bytes(bytes((p / weights).stat().st_size))),
    }
    for message, path in bad.items():
        with pytest.raises(InputError, match=message):
            backend.open(path)


def test_paths_in_a_package_do_not_lead_out_of_it(program, templates, tmp_path):
    cell = Cell("coreml", Scheme.parse("fp32"))
    good = tmp_path / "good.mlpackage"
    backend.encode(templates[Compute.FP32], QuantizedModel(quantized(program, cell.scheme)), cell, good)
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    outside = tmp_path / "outside.bin"
    shutil.copy(good / weights, outside)

    from coremltools.proto import Model_pb2

    depth = "../" * 4
    for i, name in enumerate(
        [f"@model_path/{depth}outside.bin", f"@model_path/{outside}", str(outside), "@model_path/"]
    ):
        path = tmp_path / f"{i}.mlpackage"
        shutil.copytree(good, path)
        file = path / "Data/com.apple.CoreML/model.mlmodel"
        spec = Model_pb2.Model.FromString(file.read_bytes())
        main = spec.mlProgram.functions["main"]
        for op in main.block_specializations[main.opset].operations:
            if op.attributes["val"].WhichOneof("value") == "blobFileValue":
                op.attributes["val"].blobFileValue.fileName = name
        file.write_bytes(spec.SerializeToString())
        with pytest.raises(InputError, match=r"out of the package|outside"):
            backend.open(path)

    linked = tmp_path / "linked.mlpackage"
    shutil.copytree(good, linked)
    (linked / weights).unlink()
    (linked / weights).symlink_to(outside)
    with pytest.raises(InputError, match="symbolic link"):
        backend.open(linked)

    for i, item in enumerate([f"{depth}x", "/etc/hostname"]):
        path = tmp_path / f"m{i}.mlpackage"
        shutil.copytree(good, path)
        manifest = json.loads((path / "Manifest.json").read_text())
        manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = item
        (path / "Manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=r"out of the package|cannot read"):
            backend.open(path)


def test_a_network_the_converter_refuses_is_a_backend_error(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x)

    with pytest.raises(BackendError, match="coremltools cannot convert"):
        backend.convert(program_of(Odd(), (1, 1, 4, 4)), Compute.FP32, tmp_path)
