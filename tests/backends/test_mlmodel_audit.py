"""The audit of neural networks against the messages of the file."""

import math

import pytest
import vendor_files as vendor
from mlmodel_spec import RNG, Spec
from vendor_files import WEIGHTS

from mobconv import backends
from mobconv.backends.size_audit import OTHER, judged
from mobconv.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("mlmodel-audit")


def values(message):
    """Bytes of all numbers in WeightParams below a message, whatever they are."""
    total = 0
    for descriptor, held in message.ListFields():
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
            continue
        for one in held if descriptor.is_repeated else [held]:
            if descriptor.message_type.name == "WeightParams":
                linear, table = one.quantization.linearQuantization, one.quantization.lookupTableQuantization
                total += len(one.float16Value) + len(one.rawValue) + len(one.int8RawValue)
                total += 4 * sum(map(len, (one.floatValue, linear.scale, linear.bias, table.floatValue)))
            else:
                total += values(one)
    return total


def audited(path):
    import coremltools as ct

    found = backends.get("coreml-mlmodel").size_audit(path)
    numbers = values(ct.utils.load_spec(str(path)))
    rest = dict(found.rest)
    assert found.file_bytes == path.stat().st_size == found.weight_bytes + sum(rest.values())
    assert found.weight_bytes + rest.get(OTHER, 0) == numbers
    return found


@pytest.mark.parametrize(
    "scheme", ["fp32", "fp16", "w8-symmetric", "w5-kmeans", "w3-linear", "w1-linear", "w4-linear-tensor"]
)
def test_our_files(folder, scheme):
    path, weight_bytes = vendor.ours(f"coreml-mlmodel/{scheme}", folder)
    found = {tensor.weights: tensor for tensor in audited(path).tensors}
    bits = int(scheme.partition("-")[0].strip("wfp"))
    assert sorted(found) == sorted(WEIGHTS.values())
    for weights, tensor in found.items():
        assert tensor.stored == bits and tensor.code_bytes == math.ceil(weights * bits / 8)
        assert tensor.op in ("conv", "linear")
    # messages around the numbers, which `encode` counts
    assert 0 <= weight_bytes - sum(tensor.bytes for tensor in found.values()) <= 32 * len(WEIGHTS)
    first = found[WEIGHTS["first"]]
    expected = {
        "w5-kmeans": (32 * 4, 0, 0, "lookup table 32 x float32, 5-bit codes"),
        "w3-linear": (0, 512, 512, "affine 3-bit codes per channel"),
        "w4-linear-tensor": (0, 4, 4, "affine 4-bit codes per tensor"),
    }
    if scheme in expected:
        held = (first.table_bytes, first.scale_bytes, first.zero_point_bytes, first.encoding)
        assert held == expected[scheme]


def test_layer_rules(folder):
    path, _ = vendor.ours("coreml-mlmodel/w4-kmeans", folder, layers=vendor.LAYERS)
    found = {tensor.weights: tensor for tensor in judged(audited(path), 4).tensors}
    assert (
        found[WEIGHTS["first"]].reason
        == "exported in float: by a layer rule, or because the network does not use it as the weight of a layer"
    )
    assert found[WEIGHTS["pointwise"]].reason == "a layer rule of the recipe keeps it at 8 bits"


def test_coremltools_quantizes_what_it_can(folder):
    """Its quantize_weights works on neural networks, in linear mode of 8 bits."""
    import coremltools as ct
    from coremltools.models.neural_network.quantization_utils import quantize_weights

    path, _ = vendor.ours("coreml-mlmodel/fp32", folder)
    with vendor.hushed():
        made = quantize_weights(ct.models.MLModel(str(path), skip_model_load=True), 8, "linear")
        spec = made.get_spec() if hasattr(made, "get_spec") else made
        ct.utils.save_spec(spec, str(folder / "eight.mlmodel"))
    found = audited(folder / "eight.mlmodel")
    assert {tensor.stored for tensor in found.tensors} == {8}
    assert {tensor.encoding for tensor in found.tensors} == {"affine 8-bit codes per channel"}


def test_recurrent_layers_and_constants(tmp_path):
    spec = Spec(3, 1, 4)
    held = spec.add("simpleRecurrent", inputVectorSize=4, outputVectorSize=2)
    held.weightMatrix.floatValue.extend(RNG.normal(size=8))
    held.recursionMatrix.floatValue.extend(RNG.normal(size=4))
    held.biasVector.floatValue.extend([0, 0])
    spec.add("loadConstantND", inputs=[], shape=[5]).data.floatValue.extend([1] * 5)
    spec.save(tmp_path / "a.mlmodel")
    found = audited(tmp_path / "a.mlmodel")
    assert [(tensor.op, tensor.bytes) for tensor in found.tensors] == [("recurrent", 32), ("recurrent", 16)]
    assert dict(found.rest)[OTHER] == 8 + 20


class TestDamaged:
    """One message, whatever is wrong."""

    @pytest.mark.parametrize("content", [b"", bytes(64), b"<html>404</html>", b"\x08\x01"])
    def test_no_model(self, tmp_path, content):
        (tmp_path / "net.mlmodel").write_bytes(content)
        with pytest.raises(InputError, match=r"net\.mlmodel"):
            backends.get("coreml-mlmodel").size_audit(tmp_path / "net.mlmodel")

    @pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
    def test_cut_short(self, folder, tmp_path, share):
        data = vendor.ours("coreml-mlmodel/fp32", folder)[0].read_bytes()
        (tmp_path / "net.mlmodel").write_bytes(data[: int(len(data) * share)])
        with pytest.raises(InputError, match="truncated"):
            backends.get("coreml-mlmodel").size_audit(tmp_path / "net.mlmodel")

    def test_no_file(self, tmp_path):
        for path in (tmp_path, tmp_path / "gone.mlmodel"):
            with pytest.raises(InputError):
                backends.get("coreml-mlmodel").size_audit(path)

    def test_codes_that_are_too_few(self, tmp_path):
        spec = Spec(1, 4)
        held = spec.add("innerProduct", inputChannels=4, outputChannels=2)
        held.weights.floatValue.extend([1] * 7)
        spec.save(tmp_path / "a.mlmodel")
        with pytest.raises(InputError, match=r"a\.mlmodel: layer .*28 bytes are not its 8 weights of 32 bits"):
            backends.get("coreml-mlmodel").size_audit(tmp_path / "a.mlmodel")
