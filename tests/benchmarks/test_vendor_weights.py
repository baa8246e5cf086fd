"""The weights that are read from a vendor's file are those that the vendor computes with."""

import common
import numpy as np
import pytest
import with_ai_edge
import with_coremltools
import with_onnxruntime

from mobconv import backends
from mobconv.backends.base import Entry
from mobconv.pipeline import templates
from mobconv.schemes import Cell, Compute, Scheme

pytestmark = pytest.mark.slow  # of the benchmarks alone

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the float model of ai-edge-quantizer is, once it is made."""
    return tmp_path_factory.mktemp("ai-edge")


@pytest.mark.parametrize(
    "scheme", ["w4-linear", pytest.param("w2-kmeans", marks=SLOW), pytest.param("w8-symmetric", marks=SLOW)]
)
def test_of_coremltools_they_are_what_it_decompresses_itself(program, tmp_path, scheme):
    import coremltools as ct
    import coremltools.optimize.coreml as cto

    (rival,) = with_coremltools.rivals(program, [Cell("coreml", Scheme.parse(scheme), compute=Compute.FP16)])
    path, plain = tmp_path / "a.mlpackage", tmp_path / "b.mlpackage"
    with common.hushed():
        rival.compress(path)
        cto.decompress_weights(ct.models.MLModel(str(path), skip_model_load=True)).save(str(plain))
    found, expected = rival.decode(path), with_coremltools.decode(plain, program)
    for name, values in expected.items():
        assert np.array_equal(found[name], values), name
        assert np.unique(values).size <= 2**rival.ours.scheme.bits * (1 if scheme.endswith("kmeans") else len(values))


@pytest.mark.parametrize("bits", with_ai_edge.BITS)
def test_of_ai_edge_quantizer_they_are_what_the_interpreter_dequantizes(program, folder, bits):
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    (rival, _) = with_ai_edge.rivals(program, [Cell.parse(f"tflite/w{bits}-symmetric")], folder)
    path = folder / "a.tflite"
    with common.hushed():
        rival.compress(path)
        interpreter = Interpreter(
            str(path),
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
        interpreter.invoke()
    dequantized = [
        interpreter.get_tensor(op["outputs"][0])
        for op in interpreter._get_ops_details()
        if op["op_name"] == "DEQUANTIZE"
    ]
    computed = {values.tobytes() for values in dequantized}
    floats = program.floats()
    changed = {name: values for name, values in rival.decode(path).items() if not np.array_equal(values, floats[name])}
    assert len(changed) == len(dequantized) > 0
    for name, values in changed.items():
        layouts = [values, values.transpose(0, 2, 3, 1), values.transpose(1, 2, 3, 0)] if values.ndim == 4 else [values]
        assert any(layout.tobytes() in computed for layout in layouts), name


@pytest.mark.parametrize("scheme", ["w8-symmetric-tensor", "w8-linear-tensor"])
def test_of_onnxruntime_they_are_what_its_convolution_multiplies(program, tmp_path, scheme):
    """On whole numbers from 0 to 255 its own quantization of the input changes nothing."""
    import onnx
    import onnxruntime
    import torch

    backend = backends.get("onnx")
    folder = templates.template(backend, Entry(program), Compute.FP32, tmp_path)
    plain = templates.float_artifact(backend, folder, program, Compute.FP32)
    (rival,) = with_onnxruntime.rivals(program, [Cell.parse(f"onnx/{scheme}")], plain)
    path = tmp_path / "a.onnx"
    with common.hushed():
        rival.compress(path)
    weights = rival.decode(path)
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "ConvInteger")
    model.graph.output.add(name=node.output[0]).type.tensor_type.elem_type = onnx.TensorProto.INT32
    name = next(iter(program.sites))
    scale = next(onnx.numpy_helper.to_array(i) for i in model.graph.initializer if i.name == f"{name}_scale")
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32)).astype(np.float32)
    pixels[0, 0, 0, :2] = 0, 255
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run([node.output[0]], {session.get_inputs()[0].name: pixels})[0] * scale
    expected = torch.nn.functional.conv2d(torch.from_numpy(pixels), torch.from_numpy(weights[name]), padding=1).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
