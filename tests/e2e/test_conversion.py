"""Conversion loses nothing: every file, run from disk, computes what the reference computes.

The two limits are those of the project's contract: fp32 sums in another order differ by about 1e-6 of
the largest logit, so 1e-4 and 80 dB leave room for kernels, and none for a wrong weight.
"""

from dataclasses import replace

import numpy as np
import pytest
from laboratory import demo_cells, in_fp16, native_cells, oc16_cells, some

from mobconv import backends
from mobconv.evaluate import tasks
from mobconv.evaluate.output_error import output_error
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell

LARGEST_ERROR = 1e-4  # of the image's largest |logit|
LOWEST_SNR = 80.0  # dB


def assert_nothing_lost(found, expected):
    assert list(found) == list(expected)
    assert all(np.isfinite(values).all() for values in found.values())
    near = output_error(found, expected)
    assert near.max_error <= LARGEST_ERROR
    assert near.snr_db is None or near.snr_db >= LOWEST_SNR  # None: exact


@pytest.mark.parametrize("cell", [*demo_cells(), *some(oc16_cells()), *some(native_cells())], ids=str)
def test_conversion_loses_nothing(lab, cell):
    assert_nothing_lost(lab.outputs(cell), lab.expected(cell.scheme))


@pytest.mark.slow
@pytest.mark.parametrize("cell", demo_cells(), ids=str)
def test_conversion_loses_nothing_on_any_image(lab, cell):
    count = len(lab.images)
    assert count == 2000
    assert_nothing_lost(lab.outputs(cell, count), lab.expected(cell.scheme, count))


@pytest.mark.parametrize("backend", ["onnx", "tflite", "coreml"])
def test_one_wrong_scale_is_a_loss(lab, backend, tmp_path):
    """The limits above can be missed: one of 10 scales of the last layer, the next fp16 number in place of it."""
    cell = Cell.parse(f"{backend}/w8-linear")
    weights = dict(lab.weights(cell.scheme))
    last = weights[lab.names[-1]]
    scale = last.scale.copy()
    scale[0] = np.nextafter(np.float16(scale[0]), np.float16(np.inf))
    weights[last.name] = replace(last, scale=scale)
    path = tmp_path / f"wrong.{backends.get(backend).suffix}"
    backends.get(backend).encode(lab.template(cell), QuantizedModel(weights), cell, path)
    with pytest.raises(AssertionError):
        assert_nothing_lost(lab.run(backend, path), lab.expected(cell.scheme))


# Compute in fp16 is reported, not promised: rounding after every op moves logits by up to 0.4 % of the largest
# (60 to 66 dB), which can turn an image that stands between two classes. On these images none turns, at
# any width; one of 64 may, before something is wrong.
FP16_AGREEMENT = 0.98
FP16_CELLS = [in_fp16(cell) for cell in demo_cells("coreml") if cell.scheme.bits >= 8]
FP16_CELLS += [in_fp16(Cell.parse(f"coreml/{name}")) for name in ("w8-linear-oc16", "w7-kmeans@native")]


@pytest.mark.parametrize("cell", FP16_CELLS, ids=str)
def test_compute_in_fp16_agrees_with_the_reference(lab, cell, record_property):
    found, expected = lab.outputs(cell), lab.expected(cell.scheme)
    near = output_error(found, expected)
    record_property("snr_db", near.snr_db)
    record_property("max_error", near.max_error)
    assert tasks.get("classification").agreement(found, expected) >= FP16_AGREEMENT
    assert near.max_error > LARGEST_ERROR, "as near as fp32: nothing was computed in fp16"
