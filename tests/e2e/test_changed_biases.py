"""Same biases everywhere: those that a model gives in place of the network's lie in each file, bit for bit.

The readers use nothing of mobconv.
"""

from dataclasses import replace

import numpy as np
import pytest
import read_coreml
import read_onnx
import read_tflite
from laboratory import in_fp16

from mobconv import backends
from mobconv.model.biases import bias_names
from mobconv.schemes import Cell

READERS = {"onnx": read_onnx.biases, "tflite": read_tflite.biases, "coreml": read_coreml.biases}
SCHEMES = ("fp32", "fp16", "w4-linear", "w2-kmeans", "w4-linear@native")
FAST = ("onnx/w4-linear", "tflite/w2-kmeans", "coreml/w4-linear", "coreml/w4-linear@fp16")
CELLS = [Cell.parse(f"{name}/{scheme}") for name in READERS for scheme in SCHEMES]
CELLS += [in_fp16(Cell.parse("coreml/w4-linear"))]


def changed(lab):
    """Another value for every bias; two of them equal, one zero."""
    rng, values = np.random.default_rng(0), lab.program.floats()
    biases = {name: rng.normal(size=values[name].shape).astype(np.float32) for name in bias_names(lab.program)}
    first, *others = (name for name in biases if biases[name].size == 16)
    biases[others[0]], biases[others[1]] = biases[first].copy(), np.zeros(16, np.float32)
    return biases


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, id=str(cell), marks=[] if str(cell) in FAST else pytest.mark.slow) for cell in CELLS]
)
def test_a_file_has_the_biases_of_its_model(lab, cell, tmp_path):
    backend, biases, path = backends.get(cell.backend), changed(lab), tmp_path / "file"
    path = path.with_suffix(f".{backend.suffix}")
    plain = backend.encode(lab.template(cell), lab.model(cell.scheme), cell, path)
    before = READERS[cell.backend](path)
    encoded = backend.encode(lab.template(cell), replace(lab.model(cell.scheme), biases=biases), cell, path)
    stored = READERS[cell.backend](path)
    assert len(stored) == len(biases)
    half = cell.scheme.name == "fp16" or cell.compute.value == "fp16"
    for array, original, (name, values) in zip(stored, before, biases.items(), strict=True):
        expected = values.astype(np.float16) if half else values
        assert array.dtype == expected.dtype and array.tobytes() == expected.tobytes(), name
        assert array.tobytes() != original.tobytes(), f"{name}: the reader reads something else"
    # biases count for no weight, nor do equal ones that a file stores once; offsets in a package vary in length
    assert abs(encoded.weight_bytes - plain.weight_bytes) <= (32 if cell.backend == "coreml" else 0)


def test_the_network_has_a_bias_for_every_layer(lab):
    assert len(bias_names(lab.program)) == len(lab.names) and len(set(bias_names(lab.program))) == len(lab.names)
