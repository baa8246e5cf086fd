"""Same weights everywhere: what each file holds is, bit for bit, what the quantizer decided.

The readers use nothing of mobconv. ONNX carries the parameters' names; TFLite and Core ML do not, there
a parameter is known by its place in the order of the network's ops, and its shape is compared.

That the comparison can fail is tested twice: a number changed in the weights that are encoded (every
cell, so every form in which weights lie), and a bit flipped in a file.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import read_coreml
import read_onnx
import read_tflite
from laboratory import demo_cells, in_fp16, native_cells, oc16_cells, some
from stored import differences

from mobconv import backends
from mobconv.quantize import FloatWeight
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute, Storage

READERS = {"onnx": read_onnx.read, "tflite": read_tflite.read, "coreml": read_coreml.read}
FP16_CELLS = [in_fp16(cell) for cell in demo_cells("coreml")]
GROUPED, NATIVE = some(oc16_cells()), some(native_cells())


def compare(lab, cell, path):
    """What differs between a file and the quantizer, by parameter; empty when nothing does."""
    held, weights = READERS[cell.backend](path), lab.weights(cell.scheme)
    assert len(held) == len(weights), "the file has another number of weights than the network"
    # ONNX tables need no padding: a Gather takes a table of any length
    entries = "used" if cell.backend == "onnx" else "all"
    found = {}
    for stored, (name, weight) in zip(held, weights.items(), strict=True):
        expected, bits = as_held(weight, cell)
        wrong = differences(stored, expected, entries, bits)
        if stored.name and stored.name != name:
            wrong.append(f"it is called {stored.name}")
        if wrong:
            found[name] = wrong
    return found


def as_held(weight, cell):
    """The weight as the cell's file has it, and the bits that one code takes, as the backend says of the cell."""
    weight = as_computed(weight, cell.compute)
    if cell.storage is not Storage.NATIVE:
        return weight, None
    bits = backends.get(cell.backend).support(cell).stored_bits
    if cell.backend == "tflite" and weight.table is not None:  # XNNPACK reads no tables
        assert bits == 16
        return FloatWeight(weight.name, weight.dequantize(), 16 if weight.fp16 else 32), None
    return weight, bits


def as_computed(weight, compute):
    """A program that computes in fp16 has fp16 tables and floats: the few that fp16 rounds are rounded in it."""
    if compute is Compute.FP32:
        return weight
    if isinstance(weight, FloatWeight):
        return replace(weight, values=half(weight.values), bits=16)
    return replace(weight, scale=half(weight.scale), table=half(weight.table))


def half(values):
    return None if values is None else values.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("cell", [*demo_cells(), *FP16_CELLS, *GROUPED, *NATIVE], ids=str)
def test_a_file_holds_the_quantizers_weights(lab, cell):
    assert compare(lab, cell, lab.path(cell)) == {}


@pytest.mark.parametrize("cell", [*(cell for cell in demo_cells() if cell.scheme.mode), *GROUPED, *NATIVE], ids=str)
def test_one_changed_number_is_noticed_in_every_form(lab, cell, tmp_path):
    weights = dict(lab.weights(cell.scheme))
    changed = dict(zip(("codes", "zero_points", "scales", "table"), lab.names[10:14], strict=True))
    for part, name in list(changed.items()):
        weights[name] = with_one_changed(weights[name], part)
        if weights[name] is None:  # this form has no such part
            weights[name] = lab.weights(cell.scheme)[name]
            del changed[part]
    assert len(changed) >= 2
    path = tmp_path / f"changed.{backends.get(cell.backend).suffix}"
    backends.get(cell.backend).encode(lab.template(cell), QuantizedModel(weights), cell, path)
    found = compare(lab, cell, path)
    assert set(found) == set(changed.values())
    for part, name in changed.items():
        values = isinstance(as_held(weights[name], cell)[0], FloatWeight)  # held as what codes and table stand for
        assert [wrong.partition(":")[0] for wrong in found[name]] == ["values" if values else part]
        affected = np.count_nonzero(weights[name].dequantize() != lab.weights(cell.scheme)[name].dequantize())
        assert found[name][0].partition(": ")[2].startswith(f"{affected if values else 1} of ")


def with_one_changed(weight, part):
    """The weight with one number changed by the least that its type allows; None without that part.

    A code goes to its neighbour; a scale or table entry, fp16 all of them, to the next fp16 number.
    """
    field = {"codes": "codes", "zero_points": "zero_point", "scales": "scale", "table": "table"}[part]
    values = getattr(weight, field)
    if values is None:
        return None
    values = values.copy()
    flat = values.reshape(-1)
    if values.dtype == np.uint8:
        flat[-1] ^= 1
    else:
        flat[0] = np.nextafter(np.float16(flat[0]), np.float16(np.inf))
    return replace(weight, **{field: values})


# The 1x1 convolution before the classifier: [320, 80, 1, 1] lies in the same order in every layout.
WIDEST = "features.20.weight"
FILES = {"onnx": "", "tflite": "", "coreml": "Data/com.apple.CoreML/model.mlmodel"}
BLOBS = "Data/com.apple.CoreML/weights/weight.bin"


@pytest.mark.parametrize("part", ["codes", "scales", "table", "values"])
@pytest.mark.parametrize("backend", READERS)
def test_one_flipped_bit_of_a_file_is_noticed(lab, backend, part, tmp_path):
    scheme = {"table": "w4-kmeans", "values": "fp32"}.get(part, "w8-linear")
    cell = Cell.parse(f"{backend}/{scheme}")
    weight = lab.weights(cell.scheme)[WIDEST]
    needle = {
        # TFLite's int8 codes are 128 less: their top bit is flipped
        "codes": lambda: (weight.codes ^ np.uint8(128 if backend == "tflite" else 0)).reshape(-1)[1000:1064],
        "scales": lambda: weight.scale.astype(np.float16 if backend == "onnx" else np.float32),
        "table": lambda: weight.table.astype(np.float16 if backend == "onnx" else np.float32),
        "values": lambda: weight.values.reshape(-1)[1000:1064],
    }[part]()
    copy = tmp_path / lab.path(cell).name
    shutil.copytree(lab.path(cell), copy) if backend == "coreml" else shutil.copy(lab.path(cell), copy)
    inside = BLOBS if part in ("codes", "values") and backend == "coreml" else FILES[backend]
    target = copy / inside if inside else copy
    data = bytearray(target.read_bytes())
    assert data.count(needle.tobytes()) == 1
    data[data.index(needle.tobytes())] ^= 1
    target.write_bytes(data)
    found = compare(lab, cell, copy)
    assert list(found) == [WIDEST]
    assert [wrong.split(" of ")[0] for wrong in found[WIDEST]] == [f"{part}: 1"]


@pytest.mark.parametrize("backend", READERS)
def test_codes_stored_wider_than_asked_are_noticed(lab, backend, tmp_path):
    """The same values in 5 bits where 4 were asked."""
    cell = Cell.parse(f"{backend}/w4-kmeans")
    weights = dict(lab.weights(cell.scheme))
    narrow = weights[WIDEST]
    weights[WIDEST] = replace(narrow, bits=5, table=np.pad(narrow.table, ((0, 0), (0, 16)), mode="edge"))
    path = tmp_path / f"wide.{backends.get(backend).suffix}"
    backends.get(backend).encode(lab.template(cell), QuantizedModel(weights), cell, path)
    found = compare(lab, cell, path)
    assert list(found) == [WIDEST]
    # (ONNX tells by the stream alone: its tables hold the entries in use)
    assert found[WIDEST][0] == "5 bits in place of 4"
