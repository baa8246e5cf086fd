"""Files run in stock runtimes with nothing of ours, and coremltools takes every package."""

import contextlib
import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import read_coreml
from laboratory import demo_cells, in_fp16, is_fast, native_cells, oc16_cells, some

from mobconv.evaluate.output_error import output_error
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Compute

RUN = Path(__file__).with_name("run_stock.py")
IMAGES = 4  # enough to tell a wrong file: accuracy is measured elsewhere


def part(backend, fast):
    return [cell for cell in [*oc16_cells(backend), *native_cells(backend)] if is_fast(cell) == fast]


@pytest.mark.parametrize("fast", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["part", "rest"])
@pytest.mark.parametrize("backend", ["onnx", "tflite"])
def test_groups_and_native_files_run_without_mobconv(lab, backend, fast, tmp_path):
    cells = part(backend, fast)
    assert len(cells) >= 8
    assert_stock_runtimes_run(lab, cells, tmp_path)


@pytest.mark.parametrize("backend", ["onnx", "tflite"])
def test_every_file_runs_without_mobconv(lab, backend, tmp_path):
    assert_stock_runtimes_run(lab, demo_cells(backend), tmp_path)


def assert_stock_runtimes_run(lab, cells, tmp_path):
    """The cells' files, run where mobconv cannot be imported, compute what the references compute."""
    np.save(tmp_path / "images.npy", lab.images[:IMAGES])
    files = [str(lab.path(cell)) for cell in cells]
    command = [sys.executable, str(RUN), str(tmp_path / "images.npy"), str(tmp_path / "logits.npz"), *files]
    # in an empty folder, so that the checkout is not on the path either
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(tmp_path / "logits.npz") as found:
        errors = {}
        for position, cell in enumerate(cells):
            ((name, expected),) = lab.expected(cell.scheme).items()
            errors[cell.name] = output_error({name: found[str(position)]}, {name: expected[:IMAGES]}).max_error
    # the limit of conversion, see test_conversion
    assert {name: error for name, error in errors.items() if not error <= 1e-4} == {}


def decompressed(path, scratch):
    """The package with plain constants, as coremltools decompresses it."""
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars
        import coremltools

        model = coremltools.models.MLModel(str(path), skip_model_load=True)
        plain = coremltools.optimize.coreml.decompress_weights(model)
        plain.save(str(scratch / "plain.mlpackage"))
    return scratch / "plain.mlpackage"


COREML = demo_cells("coreml")
SLOW = [pytest.param(in_fp16(cell), marks=pytest.mark.slow, id=f"{cell}@fp16") for cell in COREML]


MORE = [*some(oc16_cells("coreml")), *some(native_cells("coreml"))]


@pytest.mark.parametrize("cell", [*(pytest.param(cell, id=str(cell)) for cell in COREML), *SLOW, *MORE])
def test_coremltools_loads_and_decompresses_every_package(lab, cell, tmp_path):
    """coremltools multiplies scales and codes itself: its weights are the dequantized ones, no tolerance."""
    held = read_coreml.read(decompressed(lab.path(cell), tmp_path))
    weights = lab.weights(cell.scheme)
    assert len(held) == len(weights)
    for stored, (name, weight) in zip(held, weights.items(), strict=True):
        expected = weight.dequantize()
        if cell.compute is Compute.FP16:  # products are rounded to the program's type
            expected = expected.astype(np.float16).astype(np.float32)
        assert stored.values is not None, f"{name} is still compressed"
        assert np.array_equal(stored.values, expected), name


def test_a_wrong_scale_does_not_pass_decompression(lab, tmp_path):
    """The comparison above can fail: one scale, the next fp16 number in place of it."""
    from mobconv.backends.coreml import backend

    cell = next(cell for cell in COREML if cell.scheme.name == "w5-symmetric")
    weights = dict(lab.weights(cell.scheme))
    name = lab.names[-1]
    scale = weights[name].scale.copy()
    scale[0] = np.nextafter(np.float16(scale[0]), np.float16(np.inf))
    weights[name] = replace(weights[name], scale=scale)
    backend.encode(lab.template(cell), QuantizedModel(weights), cell, tmp_path / "wrong.mlpackage")
    held = read_coreml.read(decompressed(tmp_path / "wrong.mlpackage", tmp_path))
    same = [
        np.array_equal(stored.values, weight.dequantize())
        for stored, weight in zip(held, lab.weights(cell.scheme).values(), strict=True)
    ]
    assert same == [True] * (len(same) - 1) + [False]
