"""neuralnetwork files of the trained fixture, at every width and mode: same weights, same logits, bits as asked.

The recipe of the demo has no such cells; these are its schemes.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import read_mlmodel
import yaml
from laboratory import FAST, RECIPE, demo_cells
from stored import differences
from test_conversion import assert_nothing_lost
from test_layer_rules import RULES, ruled  # noqa: F401
from test_size import counted, weight_count
from test_weights import with_one_changed

from mobconv import backends
from mobconv.cli.app import run
from mobconv.evaluate.output_error import output_error
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Mode, Storage

NAME = "coreml-mlmodel"
CELLS = [replace(cell, backend=NAME) for cell in demo_cells("onnx")]
QUANTIZED = [cell for cell in CELLS if cell.scheme.mode]
WIDEST = "features.20.weight"


def compare(lab, cell, path):
    """What differs between a file and the quantizer, by parameter; empty when nothing does."""
    held, weights = read_mlmodel.read(path), lab.weights(cell.scheme)
    assert len(held) == len(weights), "the file has another number of weights than the network"
    found = {}
    for stored, (name, weight) in zip(held, weights.items(), strict=True):
        if stored.table is not None and stored.table.shape[0] > 1 and not weight.fp16:
            stored.table = snapped(stored.table, weight.table)
        wrong = differences(stored, weight)
        if wrong:
            found[name] = wrong
    return found


def snapped(table, wanted):
    """A second value of a channel that is off by a rounding of fp32 in place of it: all that bias + scale can give
    where the two are not fp16 numbers (see `mobconv.backends.mlmodel.params`)."""
    limit = 2.0**-23 * np.abs(wanted[:, 1:] - wanted[:, :1])
    near = np.abs(table[:, 1:].astype(np.float64) - wanted[:, 1:]) <= limit
    return np.concatenate([table[:, :1], np.where(near, wanted[:, 1:], table[:, 1:])], axis=1)


def test_the_cells_are_every_width_and_mode():
    assert len(CELLS) == 26 and len(QUANTIZED) == 8 * len(Mode)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_file_holds_the_quantizers_weights(lab, cell):
    assert compare(lab, cell, lab.path(cell)) == {}


@pytest.mark.parametrize("cell", QUANTIZED, ids=str)
def test_values_that_are_rounded_are_told(lab, cell):
    """Of 53 tensors few have parameters that fp16 cannot hold; the note names those whose values move."""
    note = lab.encoded(cell).support.note
    moved = []
    for stored, (name, weight) in zip(read_mlmodel.read(lab.path(cell)), lab.weights(cell.scheme).items(), strict=True):
        rounded = stored.table is not None and not np.array_equal(stored.table, weight.levels())
        if rounded:
            assert not weight.fp16
            moved.append(name)
    assert [name for name in lab.names if name in note] == moved


@pytest.mark.parametrize("cell", QUANTIZED, ids=str)
def test_one_changed_number_is_noticed(lab, cell, tmp_path):
    weights = dict(lab.weights(cell.scheme))
    changed = dict(zip(("codes", "zero_points", "scales", "table"), lab.names[10:14], strict=True))
    for part, name in list(changed.items()):
        one = with_one_changed(weights[name], part)
        if one is None:  # this form has no such part
            del changed[part]
        else:
            weights[name] = one
    assert len(changed) >= 2
    path = tmp_path / "changed.mlmodel"
    backends.get(NAME).encode(lab.template(cell), QuantizedModel(weights), cell, path)
    found = compare(lab, cell, path)
    assert set(found) == set(changed.values())
    for part, name in changed.items():
        assert [wrong.partition(":")[0] for wrong in found[name]] == [part]
        assert found[name][0].partition(": ")[2].startswith("1 of ")


@pytest.mark.parametrize("part", ["codes", "scales", "table", "values"])
def test_one_flipped_bit_of_a_file_is_noticed(lab, part, tmp_path):
    cell = Cell.parse(f"{NAME}/{({'table': 'w4-kmeans', 'values': 'fp32'}).get(part, 'w8-symmetric')}")
    weight = lab.weights(cell.scheme)[WIDEST]
    needle = {
        "codes": lambda: weight.codes.reshape(-1)[1000:1064],
        "scales": lambda: weight.scale,
        "table": lambda: weight.table,
        "values": lambda: weight.values.reshape(-1)[1000:1064],
    }[part]().tobytes()
    data = bytearray(lab.path(cell).read_bytes())
    assert data.count(needle) == 1
    # the lowest bit of a code, or of the exponent's neighbour in a scale: that one is no multiple of its bias any more
    data[data.index(needle)] ^= 1
    copy = tmp_path / "flipped.mlmodel"
    copy.write_bytes(data)
    if part == "scales":
        with pytest.raises(AssertionError, match="no multiple"):
            compare(lab, cell, copy)
        return
    found = compare(lab, cell, copy)
    assert list(found) == [WIDEST]
    assert [wrong.split(" of ")[0] for wrong in found[WIDEST]] == [f"{part}: 1"]


def test_codes_stored_wider_than_asked_are_noticed(lab, tmp_path):
    cell = Cell.parse(f"{NAME}/w4-kmeans")
    weights = dict(lab.weights(cell.scheme))
    narrow = weights[WIDEST]
    weights[WIDEST] = replace(narrow, bits=5, table=np.pad(narrow.table, ((0, 0), (0, 16)), mode="edge"))
    backends.get(NAME).encode(lab.template(cell), QuantizedModel(weights), cell, tmp_path / "wide.mlmodel")
    found = compare(lab, cell, tmp_path / "wide.mlmodel")
    assert list(found) == [WIDEST] and found[WIDEST][0] == "5 bits in place of 4"


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_conversion_loses_nothing(lab, cell):
    assert_nothing_lost(lab.outputs(cell), lab.expected(cell.scheme))


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_conversion_loses_nothing_on_any_image(lab, cell):
    count = len(lab.images)
    assert_nothing_lost(lab.outputs(cell, count), lab.expected(cell.scheme, count))


def test_one_wrong_scale_is_a_loss(lab, tmp_path):
    cell = Cell.parse(f"{NAME}/w8-linear")
    weights = dict(lab.weights(cell.scheme))
    weights[lab.names[-1]] = with_one_changed(weights[lab.names[-1]], "scales")
    path = tmp_path / "wrong.mlmodel"
    backends.get(NAME).encode(lab.template(cell), QuantizedModel(weights), cell, path)
    with pytest.raises(AssertionError):
        assert_nothing_lost(lab.run(NAME, path), lab.expected(cell.scheme))


def codes_bytes(weights):
    return sum(-(-weight.codes.size * weight.bits // 8) for weight in weights)


def bound(weights):
    """Codes at n bits, 4 bytes a scale, bias and table entry, and 64 bytes a tensor for the messages around them.

    (9 to 16 are used: the width, the kind of quantization, and the lengths of five nested messages.)
    """
    # tables of several channels are of two entries, and held as a scale and a bias
    numbers = sum(weight.table.size if weight.table is not None else 2 * weight.groups for weight in weights)
    return codes_bytes(weights) + 4 * numbers + 64 * len(weights)


@pytest.mark.parametrize("cell", QUANTIZED, ids=str)
def test_weights_take_the_bits_that_were_asked(lab, cell):
    weights = lab.weights(cell.scheme).values()
    found = counted(lab, cell)
    assert codes_bytes(weights) < found <= bound(weights)
    encoded = lab.encoded(cell)
    assert (encoded.weight_bytes, encoded.support.stored_bits) == (found, cell.scheme.bits)


@pytest.mark.parametrize("asked", range(1, 8))
@pytest.mark.parametrize("mode", Mode)
def test_no_bound_lets_a_wider_file_pass(lab, mode, asked):
    narrow, wide = (Cell.parse(f"{NAME}/w{bits}-{mode}") for bits in (asked, asked + 1))
    assert counted(lab, wide) > bound(lab.weights(narrow.scheme).values())


@pytest.mark.parametrize("bits", [32, 16])
def test_float_weights_take_their_bytes(lab, bits):
    cell = Cell.parse(f"{NAME}/fp{bits}")
    assert lab.encoded(cell).weight_bytes == bits // 8 * weight_count(lab)
    if bits == 16:  # biases are fp16 too, which is not the weights' doing
        assert counted(lab, cell) < lab.encoded(cell).weight_bytes


def test_native_is_the_same_file(lab, tmp_path):
    cell = Cell.parse(f"{NAME}/w5-linear")
    native = replace(cell, storage=Storage.NATIVE)
    packed, told = (
        backends.get(NAME).encode(lab.template(each), lab.model(cell.scheme), each, tmp_path / f"{i}.mlmodel")
        for i, each in enumerate((cell, native))
    )
    assert (tmp_path / "0.mlmodel").read_bytes() == (tmp_path / "1.mlmodel").read_bytes()
    assert told.support.stored_bits == 5 and told.weight_bytes == packed.weight_bytes
    assert "every width is native" in told.support.note and not packed.support.note


@pytest.mark.parametrize("name", ["w4-kmeans", "w4-linear"])
def test_layer_rules_reach_the_file(lab, ruled, tmp_path, name):  # noqa: F811
    """Some layers at another width, one fp32, and one fp16, whose 32-bit bias has to stand beside it."""
    model, expected = ruled[name]
    weights = model.weights
    cell, path = Cell.parse(f"{NAME}/{name}"), tmp_path / "ruled.mlmodel"
    encoded = backends.get(NAME).encode(lab.template(cell), model, cell, path)
    assert {rule.get("keep") for rule in RULES} >= {"fp16", "fp32"}
    held = read_mlmodel.read(path)
    assert {
        key: w for one, (key, weight) in zip(held, weights.items(), strict=True) if (w := differences(one, weight))
    } == {}
    assert output_error(lab.run(NAME, path), expected).max_error <= 1e-4
    narrow = [weight for weight in weights.values() if weight.bits <= 8]
    assert codes_bytes(narrow) < encoded.weight_bytes <= bound(narrow)


def test_a_sweep_has_rows_for_what_the_format_cannot_hold(tmp_path, capsys):
    plan = {key: str(RECIPE.parent / yaml.safe_load(RECIPE.read_text())[key]) for key in ("checkpoint", "data")}
    plan |= {"backends": [NAME], "schemes": ["w4-linear", "w4-kmeans-channel"], "images": FAST}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(plan))
    assert run(["sweep", str(tmp_path / "few.yaml"), "-o", str(tmp_path / "out")]) == 0
    rows = {row["cell"]: row for row in json.loads((tmp_path / "out" / "results.json").read_text())["cells"]}
    held, refused = rows[f"{NAME}/w4-linear"], rows[f"{NAME}/w4-kmeans-channel"]
    assert (held["status"], held["verified"], held["requires"]) == ("ok", "emulated", "iOS13")
    assert held["path"] == f"{NAME}/w4-linear.mlmodel" and held["effective_bits"] > 4
    assert held["max_error"] <= 1e-4
    assert refused["status"] == "unsupported" and "one table a layer" in refused["reason"]
    capsys.readouterr()
    shutil.copy(tmp_path / "out" / held["path"], tmp_path / "alone.mlmodel")
    assert (
        run(["evaluate", str(tmp_path / "alone.mlmodel"), "--data", plan["data"], "--images", str(FAST), "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["cell"], found["score"]) == (held["cell"], held["score"])
