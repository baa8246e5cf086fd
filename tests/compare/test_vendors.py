"""Files that others made: every layer is found, and the steps say what such a file loses."""

import contextlib
import io
import warnings

import numpy as np
import pytest
from conftest import Bench, assert_sums_up
from support import FIXTURES

from mobconv.model.checkpoint import load

SLOW = pytest.mark.slow


@contextlib.contextmanager
def hushed():
    """Vendors print."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


def torch_onnx(bench, path, dynamo=True, **more):
    import torch

    names = {"input_names": ["pixel"], "output_names": ["logits"]}
    torch.onnx.export(bench.checkpoint.module, bench.example, str(path), dynamo=dynamo, verbose=False, **names, **more)


def torch_onnx_unfolded(bench, path):
    """Batch norm left as operations, and any batch."""
    import torch

    axes = {"pixel": {0: "n"}, "logits": {0: "n"}}
    mode = torch.onnx.TrainingMode.PRESERVE
    torch_onnx(bench, path, dynamo=False, do_constant_folding=False, training=mode, dynamic_axes=axes)


def ort_dynamic(bench, path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = path.with_suffix(".float.onnx")
    torch_onnx(bench, plain, dynamo=False)
    quantize_dynamic(str(plain), str(path), weight_type=QuantType.QUInt8)


def ort_static(bench, path, operators=False):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self):
            inputs = bench.checkpoint.preprocessing(bench.images.pixels[-32:])
            self._rest = iter([{"pixel": inputs[i : i + 1]} for i in range(32)])

        def get_next(self):
            return next(self._rest, None)

    plain = path.with_suffix(".float.onnx")
    torch_onnx(bench, plain, dynamo=False)
    form = QuantFormat.QOperator if operators else QuantFormat.QDQ
    quantize_static(str(plain), str(path), Reader(), quant_format=form, per_channel=not operators)


def litert(bench, path):
    import litert_torch

    litert_torch.convert(bench.checkpoint.module.eval(), bench.example).export(str(path))


def ai_edge(bench, path, recipe="weight_only_wi8_afp32"):
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer import recipe as recipes

    plain = bench.out / "vendor.float.tflite"
    if not plain.exists():
        litert(bench, plain)
    tool = quantizer.Quantizer(str(plain))
    tool.load_quantization_recipe(getattr(recipes, recipe)())
    calibrated = None
    if "static" in recipe:
        inputs = bench.checkpoint.preprocessing(bench.images.pixels[-32:])
        calibrated = tool.calibrate({"serving_default": [{"args_0": inputs[i : i + 1]} for i in range(32)]})
    tool.quantize(calibrated).export_model(str(path), overwrite=True)


def core_ml(bench, path, precision="FLOAT32", bits=None):
    import coremltools as ct
    import coremltools.optimize.coreml as cto
    import torch

    exported = torch.export.export(bench.checkpoint.module.eval(), bench.example).run_decompositions({})
    model = ct.convert(
        exported,
        convert_to="mlprogram",
        compute_precision=getattr(ct.precision, precision),
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=True,
    )
    if bits:
        config = cto.OpPalettizerConfig(nbits=bits, mode="kmeans", weight_threshold=0)
        model = cto.palettize_weights(model, cto.OptimizationConfig(config))
    model.save(str(path))


# name of the file -> who makes it, and the least SNR of each step against the one before it, None: exactly equal
MADE = {
    "dynamo.onnx": (torch_onnx, (80, 80, None, None)),
    "unfolded.onnx": (torch_onnx_unfolded, (80, 80, None, None)),
    "dynamic.onnx": (ort_dynamic, (20, 20, None, None)),
    "qdq.onnx": (ort_static, (20, 10, None, None)),
    "operators.onnx": (lambda bench, path: ort_static(bench, path, True), (20, 10, None, None)),
    "litert.tflite": (litert, (80, 80, None, None)),
    "weight-only.tflite": (ai_edge, (20, 80, None, None)),
    "hybrid.tflite": (lambda bench, path: ai_edge(bench, path, "dynamic_wi8_afp32"), (20, 20, None, None)),
    "static.tflite": (lambda bench, path: ai_edge(bench, path, "static_wi8_ai8"), (20, 10, None, None)),
    "fp32.mlpackage": (core_ml, (80, 80, None, None)),
    "fp16.mlpackage": (lambda bench, path: core_ml(bench, path, "FLOAT16"), (50, 50, 50, None)),
    "palettized.mlpackage": (lambda bench, path: core_ml(bench, path, "FLOAT16", 4), (5, 50, 50, None)),
}
FAST = {"unfolded.onnx", "dynamic.onnx"}
FILES = [pytest.param(name, marks=[] if name in FAST else SLOW) for name in MADE]


def check(bench, name, layers):
    make, least = MADE[name]
    path = bench.out / name
    with hushed():
        make(bench, path)
    waterfall = bench.waterfall(path, 64)
    assert_sums_up(waterfall)
    alignment = waterfall.alignment
    assert len(alignment.layers) == layers and all(layer.input and layer.output for layer in alignment.layers)
    assert alignment.matches.ops == alignment.matches.uses == ()
    for step, limit in zip(waterfall.steps[1:], least, strict=True):
        assert step.snr_db is None or (limit is not None and step.snr_db > limit), (step.name, step.snr_db)
    errors = bench.layer_errors(alignment, 8)
    assert len(errors.layers) == layers and errors.skipped == ()
    assert errors.layers[0].worst < 0.5
    if least[1] == 80:  # computed in fp32: all that a layer loses is its weights' doing
        assert all(error.graph < 1e-4 for error in errors.layers)
        assert all(error.worst < 1e-4 for error in errors.between)
    assert np.isfinite([error.worst for error in errors.layers]).all()


@pytest.mark.parametrize("name", FILES)
def test_of_the_small_fixture(bench, name):
    check(bench, name, 53)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("large"), load(FIXTURES / "digits-mobilenet-v2.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_of_the_large_one(large, name):
    check(large, name, 53)
