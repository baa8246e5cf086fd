"""The audit of packages against weight.bin, walked with struct, and the immediate values of the program."""

import json
import math
import os
import shutil
import struct
from pathlib import Path

import pytest
import vendor_files as vendor
from vendor_files import WEIGHTS

from mobconv import backends
from mobconv.backends.coreml import package
from mobconv.backends.size_audit import OTHER, PROGRAM, judged, verdict
from mobconv.errors import InputError
from mobconv.schemes import Compute

PADDING = "padding and blob headers of other constants"
MODEL = "Data/com.apple.CoreML/model.mlmodel"
BIN = "Data/com.apple.CoreML/weights/weight.bin"
WIDTHS = {1: 16, 2: 32, 3: 8, 4: 8, 8: 4, 9: 1, 10: 2, 11: 4, 12: 3, 13: 6}  # type of a blob -> bits
# parameters that the audit counts by themselves; masks, shapes and axes are part of "other"
COUNTED = ("val", "quantized_data", "nonzero_data", "indices", "indices_nonzero_data", "data", "lut", "scale", "offset")
COUNTED += ("zero_point", "source_val")


def blobs(path):
    """(type, bytes of data, bytes with header and padding) of all records, one after another."""
    data = (path / BIN).read_bytes()
    count, at, found = struct.unpack_from("<I", data)[0], 64, []
    for _ in range(count):
        sentinel, kind, size, start, _ = struct.unpack_from("<IIQQQ", data, at)
        assert sentinel == 0xDEADBEEF and start == at + 64
        end = min(len(data), -(-(start + size) // 64) * 64)
        found.append((kind, size, end - at))
        at = end
    assert at == len(data)
    return found


def immediates(path):
    """Bytes of numbers that the program holds itself, in the places that are counted."""
    import coremltools as ct

    spec = ct.utils.load_spec(str(path))
    total = 0
    for function in spec.mlProgram.functions.values():
        for op in function.block_specializations[function.opset].operations:
            held = {key: value for key, value in op.attributes.items() if key != "name"}
            bound = {key: argument.arguments[0] for key, argument in op.inputs.items()}
            if op.type.startswith("constexpr"):
                held |= {key: value.value for key, value in bound.items() if value.HasField("value")}
            elif op.type != "const":
                continue
            for value in (value for key, value in held.items() if key in COUNTED):
                tensor = value.immediateValue.tensor
                total += 4 * len(tensor.floats.values) + len(tensor.bytes.values) + len(tensor.bools.values)
                if tensor.WhichOneof("value") == "ints":
                    total += tensor.ints.ByteSize()
    return total


def size(path):
    return sum((Path(folder) / name).stat().st_size for folder, _, names in os.walk(path) for name in names)


def audited(path, masks=False):
    """The audit, held to the folder. masks: pruned, so that constants are part of "other" too."""
    found = backends.get("coreml").size_audit(path)
    rest = dict(found.rest)
    assert found.file_bytes == size(path) == found.weight_bytes + sum(rest.values())
    assert rest["Manifest.json"] == (path / "Manifest.json").stat().st_size
    held = blobs(path)
    data, inside = sum(size for _, size, _ in held), immediates(path)
    values = sum(t.code_bytes + t.table_bytes + t.scale_bytes + t.zero_point_bytes for t in found.tensors)
    ops = sum(t.other_bytes for t in found.tensors)
    assert values + rest[OTHER] == data + inside if not masks else values + rest[OTHER] < data + inside
    # all of weight.bin but data is headers and padding: the weights' own, and a line
    overhead = (path / BIN).stat().st_size - data
    assert rest[PADDING] <= overhead <= rest[PADDING] + ops
    # and the program is what is left of model.mlmodel
    model = (path / MODEL).stat().st_size
    if not masks:
        assert rest[PROGRAM] == model - inside - (ops - (overhead - rest[PADDING]))
    for tensor in found.tensors:
        if "-bit" not in tensor.encoding and not masks:
            assert tensor.code_bytes == math.ceil(tensor.weights * tensor.stored / 8), tensor
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("coreml-audit")


def by_size(found):
    return {tensor.weights: tensor for tensor in found.tensors}


# one op of iOS16, of iOS18, a chain, splits of codes and of a table, tables and groups
FORMS = ["w8-linear", "w4-kmeans", "w4-linear", "w3-symmetric", "w7-linear", "w5-kmeans", "w1-linear", "w2-kmeans-oc16"]


@pytest.mark.parametrize("scheme", ["fp32", "fp16", *FORMS, "w5-linear@native", "fp32@fp16", "w4-linear@fp16"])
def test_our_files(folder, scheme):
    path, weight_bytes = vendor.ours(f"coreml/{scheme}", folder)
    found = audited(path)
    bits = {"w5-linear@native": 8, "fp32@fp16": 16}.get(
        scheme, int(scheme.partition("-")[0].strip("wfp@")[:2].strip("@"))
    )
    assert sorted(by_size(found)) == sorted(WEIGHTS.values())
    for weights, tensor in by_size(found).items():
        assert tensor.stored == bits, tensor
        # a split is two blobs, each of whole bytes
        assert 0 <= tensor.code_bytes - weights * bits / 8 <= 2, tensor
        assert tensor.op in ("conv", "linear") and tensor.name.startswith("p_")
    # beside what `encode` counts: the header and the padding that a float blob has too
    assert 0 <= found.weight_bytes - weight_bytes <= 128 * len(WEIGHTS)


def test_parameters_of_our_files(folder):
    first = by_size(audited(vendor.ours("coreml/w3-linear", folder)[0]))[WEIGHTS["first"]]
    assert first.scale_bytes == 128 * 4 and first.zero_point_bytes == 128 and first.table_bytes == 8
    assert first.encoding == "affine uint3 per channel by a table 8 x uint8"
    first = by_size(audited(vendor.ours("coreml/w5-kmeans", folder)[0]))[WEIGHTS["first"]]
    assert first.table_bytes == 32 * 4 + 6 * 4 and first.scale_bytes == 0 and "uint4" in first.encoding


def test_layer_rules(folder):
    found = by_size(judged(audited(vendor.ours("coreml/w4-kmeans", folder, layers=vendor.LAYERS)[0]), 4))
    assert (
        found[WEIGHTS["first"]].reason
        == "exported in float: by a layer rule, or because the network does not use it as the weight of a layer"
    )
    assert found[WEIGHTS["pointwise"]].reason == "a layer rule of the recipe keeps it at 8 bits"
    assert found[WEIGHTS["second"]].reason == ""


def saved(model, path):
    with vendor.hushed():
        model.save(str(path))
    return path


def compressed(folder, name, target, *steps):
    """A package after steps of coremltools.optimize: (function, configuration, its arguments)."""
    import coremltools.optimize.coreml as cto

    model = vendor.ml_program(target)
    with vendor.hushed():
        for number, (function, config, arguments) in enumerate(steps):
            whole = cto.OptimizationConfig(global_config=getattr(cto, config)(**arguments))
            model = getattr(cto, function)(model, whole, **({"joint_compression": True} if number else {}))
    return saved(model, folder / f"{name}.mlpackage")


def palettize(**arguments):
    return "palettize_weights", "OpPalettizerConfig", {"mode": "kmeans", **arguments}


def linear(**arguments):
    return "linear_quantize_weights", "OpLinearQuantizerConfig", {"mode": "linear_symmetric", **arguments}


PRUNE = "prune_weights", "OpMagnitudePrunerConfig", {"target_sparsity": 0.6}
LARGE = (WEIGHTS["pointwise"], WEIGHTS["first"])


@pytest.mark.parametrize("compute", [Compute.FP16, Compute.FP32])
def test_the_plain_converter(folder, compute):
    found = judged(audited(saved(vendor.ml_program("iOS16", compute), folder / f"{compute}.mlpackage")), 8)
    assert {tensor.stored for tensor in found.tensors} == {16 if compute is Compute.FP16 else 32}
    assert verdict(found).endswith("because: the file has no quantized weights at all")
    assert any("executorch" in what for what, _ in found.rest)  # every file of the folder counts


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_palettize_weights(folder, target):
    """Attributes, and inputs. The threshold of coremltools is the answer to a file that did not shrink."""
    found = judged(audited(compressed(folder, f"palette {target}", target, palettize(nbits=4))), 4)
    for weights, tensor in by_size(found).items():
        small = weights not in LARGE
        assert tensor.stored == (16 if small else 4)
        assert tensor.code_bytes == weights * tensor.stored // 8 and tensor.table_bytes == (0 if small else 16 * 2)
        assert ("weight_threshold" in tensor.reason) == small
    assert "3 (4.8 % of the weights) stored in 16 bits: 13 % of the file" in verdict(found)


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_linear_quantize_weights(folder, target):
    found = by_size(audited(compressed(folder, f"linear {target}", target, linear(weight_threshold=0))))
    for name, channels in (("stem", 16), ("depthwise", 16), ("pointwise", 256), ("first", 128), ("second", 10)):
        tensor = found[WEIGHTS[name]]
        assert (tensor.stored, tensor.code_bytes, tensor.scale_bytes) == (8, WEIGHTS[name], 2 * channels), tensor
        assert tensor.encoding == "symmetric int8 per channel" and tensor.op in ("conv", "linear")


def test_blocks(folder):
    step = linear(mode="linear", dtype="int4", granularity="per_block", block_size=16, weight_threshold=0)
    found = by_size(judged(audited(compressed(folder, "blocks", "iOS18", step)), 4))
    first, stem = found[WEIGHTS["first"]], found[WEIGHTS["stem"]]
    assert first.encoding == "affine int4 in blocks of 16"
    assert (first.scale_bytes, first.zero_point_bytes) == (32768 // 16 * 2, 32768 // 16 // 2)
    assert stem.stored == 16 and "3 input channels are not a multiple of the blocks of 16" in stem.reason


@pytest.mark.parametrize(
    ("name", "arguments", "bits", "encoding", "table"),
    [
        (
            "groups",
            {"nbits": 3, "granularity": "per_grouped_channel", "group_size": 8},
            3,
            "in blocks of 2048",
            16 * 8 * 2,
        ),
        ("vectors", {"nbits": 4, "cluster_dim": 2}, 2, "lookup table 16 x 2 x float16, uint4", 16 * 2 * 2),
    ],
)
def test_tables(folder, name, arguments, bits, encoding, table):
    first = by_size(audited(compressed(folder, name, "iOS18", palettize(**arguments))))[WEIGHTS["first"]]
    assert first.stored == bits and encoding in first.encoding and first.table_bytes == table


@pytest.mark.parametrize("target", ["iOS16", "iOS18"])
def test_prune_weights(folder, target):
    found = audited(compressed(folder, f"prune {target}", target, PRUNE), masks=True)
    first = by_size(found)[WEIGHTS["first"]]
    assert first.stored == 16 and "sparse (40% of the weights" in first.encoding and not first.is_float
    assert 0.39 < first.code_bytes / (2 * first.weights) < 0.41 and first.other_bytes > first.weights // 8
    assert judged(found, 8).tensors[0].wider


@pytest.mark.parametrize(
    ("name", "steps", "bits", "masks"),
    [
        ("quantized table", (palettize(nbits=4), linear(granularity="per_tensor")), 4, False),
        ("pruned, with a table", (PRUNE, palettize(nbits=4)), 4, True),
        ("pruned, then linear", (PRUNE, linear()), 8, True),
    ],
)
def test_joint_compression(folder, name, steps, bits, masks):
    found = by_size(audited(compressed(folder, name, "iOS18", *steps), masks))
    for weights in LARGE:
        tensor = found[weights]
        assert tensor.stored == bits and ("sparse" in tensor.encoding) == masks
        assert tensor.code_bytes == pytest.approx(weights * bits / 8 * (0.4 if masks else 1), rel=0.01)
    if not masks:
        assert tensor.encoding == "lookup table 16 x int8, uint4" and tensor.table_bytes == 16 + 2


class TestDamaged:
    """One message, whatever is wrong, and nothing outside of the folder is read."""

    @pytest.fixture
    def path(self, folder, tmp_path):
        return shutil.copytree(vendor.ours("coreml/w4-kmeans", folder)[0], tmp_path / "net.mlpackage")

    def refused(self, path, words):
        with pytest.raises(InputError, match=words) as caught:
            backends.get("coreml").size_audit(path)
        assert str(path) in str(caught.value)

    def test_no_package(self, tmp_path):
        path = tmp_path / "net.mlpackage"
        self.refused(path, "no such .mlpackage")
        path.write_bytes(b"x")
        self.refused(path, "is a folder, and this is a file")
        path.unlink()
        path.mkdir()
        self.refused(path, r"no Manifest\.json")

    @pytest.mark.parametrize("name", [MODEL, BIN])
    @pytest.mark.parametrize("keep", [0, 70, 0.5, 0.98])
    def test_cut_short(self, path, name, keep):
        data = (path / name).read_bytes()
        (path / name).write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
        self.refused(path, "net.mlpackage")

    def test_other_bytes_in_place_of_constants(self, path):
        (path / BIN).write_bytes(b"\xff" * (path / BIN).stat().st_size)
        self.refused(path, "no blob starts here")

    @pytest.mark.parametrize("item", ["../../../secret", "/etc/passwd"])
    def test_the_model_stays_in_the_folder(self, path, item):
        manifest = json.loads((path / "Manifest.json").read_text())
        manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"] = item
        (path / "Manifest.json").write_text(json.dumps(manifest))
        self.refused(path, "leads out of the package")

    @pytest.mark.parametrize("name", ["@model_path/../../../../secret", "/etc/passwd", "@model_path//etc/passwd"])
    def test_constants_stay_in_the_folder(self, path, name):
        spec = package.read(path).spec
        block = next(iter(spec.mlProgram.functions["main"].block_specializations.values()))
        op = next(op for op in block.operations if op.type == "constexpr_lut_to_dense")
        op.attributes["indices"].blobFileValue.fileName = name
        (path / MODEL).write_bytes(spec.SerializeToString())
        self.refused(path, "outside of the package|leads out of the package")

    def test_no_links(self, path, tmp_path):
        (tmp_path / "secret").write_bytes(b"x")
        (path / "Data" / "extra").symlink_to(tmp_path / "secret")
        self.refused(path, "symbolic link")

    def test_files_that_nothing_reads_are_lines(self, path):
        (path / "Data" / "notes.txt").write_bytes(bytes(321))
        with (path / BIN).open("ab") as file:
            file.write(bytes(640))
        rest = dict(backends.get("coreml").size_audit(path).rest)
        assert rest["Data/notes.txt"] == 321 and 576 <= rest["constants that nothing reads"] <= 640
