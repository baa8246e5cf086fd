"""The demo's recipe through the command line: a few cells in every run, all 78 in the slow suite."""

import csv
import json
import re

import numpy as np
import pytest
import yaml
from laboratory import RECIPE, demo_cells

from mobconv.cli.app import run
from mobconv.common.files import sha256, size
from mobconv.schemes import Mode

# The results contract, as DESIGN.md has it: fields are added, not renamed.
TOP = "schema model data tools float_top1 cells cliffs"
CELL = """cell backend scheme bits mode granularity algorithm storage compute stored_bits status reason requires
    verified path sha256 file_bytes weight_bytes effective_bits parameters images top1 top5 reference_top1
    quantization_loss conversion_loss agreement snr_db max_error latency_ms latency_ratio load_ms seconds"""
CLIFF = "backend mode granularity storage algorithm bits margin top1"
FEW = 256  # images of the small sweep
STAGES = {"convert", "quantize", "reference", "encode", "load", "run", "latency"}


def assert_files_agree(out, cells, images):
    """results.json has every field of the contract, and .csv, .md and .npz say the same; returns the JSON."""
    found = json.loads((out / "results.json").read_text())
    assert set(TOP.split()) <= set(found) and found["schema"] == 1
    assert re.fullmatch("[0-9a-f]{64}", found["model"]["sha256"])
    assert re.fullmatch("[0-9a-f]{64}", found["data"]["sha256"])
    assert [row["cell"] for row in found["cells"]] == [cell.name for cell in cells]
    assert all(set(CLIFF.split()) <= set(cliff) for cliff in found["cliffs"])
    for row in found["cells"]:
        assert_row(out, row, images)
    with (out / "results.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["cell"] for row in table] == [cell.name for cell in cells]
    assert set(CELL.split()) - {"seconds"} <= set(table[0])
    assert [float(row["top1"]) for row in table] == [row["top1"] for row in found["cells"]]
    text = (out / "results.md").read_text()
    assert all(re.search(rf"\b{re.escape(cell.scheme.name)}\b", text) for cell in cells)
    with np.load(out / "predictions.npz") as predictions:
        labels = predictions["labels"]
        assert set(predictions) == {"labels", "float", "groups", *(cell.name for cell in cells)}
        for row in found["cells"]:
            assert row["top1"] == pytest.approx((predictions[row["cell"]] == labels).mean(), abs=1e-12)
        assert found["float_top1"] == pytest.approx((predictions["float"] == labels).mean(), abs=1e-12)
    return found


def assert_row(out, row, images):
    """Every field is there, and what can be checked from the artifact is true of it."""
    assert set(CELL.split()) <= set(row)
    assert (row["status"], row["reason"]) == ("ok", "")
    assert row["stored_bits"] == row["bits"]
    path = out / row["path"]
    assert row["path"].rpartition(".")[0] == row["cell"]
    assert (row["sha256"], row["file_bytes"]) == (sha256(path), size(path))
    assert row["effective_bits"] == pytest.approx(8 * row["weight_bytes"] / row["parameters"], abs=1e-4)
    assert row["effective_bits"] >= row["bits"]
    assert row["images"] == images and 0 <= row["top1"] <= row["top5"] <= 1
    # a tenth of a point is two images of all 2,000
    assert abs(row["conversion_loss"]) <= 0.1
    assert row["conversion_loss"] == pytest.approx(100 * (row["reference_top1"] - row["top1"]), abs=1e-3)
    assert row["max_error"] <= 1e-4 and (row["snr_db"] is None or row["snr_db"] >= 80)
    assert row["verified"] in (("emulated", "macos") if row["backend"] == "coreml" else ("runtime",))
    timed = row["verified"] != "emulated"
    assert (row["latency_ms"] is not None) == (row["latency_ratio"] is not None) == timed
    assert set(row["seconds"]) == (STAGES if timed else STAGES - {"latency"})


def test_a_small_sweep_writes_what_the_contract_says(tmp_path, capsys):
    # all 2,000 images take a minute; the recipe is the demo's but for that
    plan = yaml.safe_load(RECIPE.read_text())
    plan |= {key: str(RECIPE.parent / plan[key]) for key in ("checkpoint", "data")} | {"images": FEW}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(plan))
    out = tmp_path / "out"
    assert run(["sweep", str(tmp_path / "few.yaml"), "-o", str(out), "--only", "onnx/w4-*"]) == 0
    cells = [cell for cell in demo_cells("onnx") if cell.scheme.bits == 4]
    assert len(cells) == len(Mode)
    found = assert_files_agree(out, cells, FEW)
    assert {(cliff["mode"], cliff["margin"]) for cliff in found["cliffs"]} == {(mode.value, 5.0) for mode in Mode}
    shown = capsys.readouterr().out
    assert all(cell.scheme.name in shown for cell in cells)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # five minutes on two free cores, eight on busy ones
def test_the_whole_demo(tmp_path):
    assert run(["sweep", str(RECIPE), "-o", str(tmp_path)]) == 0
    cells = demo_cells()
    assert len(cells) == 78
    found = assert_files_agree(tmp_path, cells, 2000)
    assert found["float_top1"] >= 0.95
    backends = ("onnx", "tflite", "coreml")
    assert [(cliff["backend"], cliff["mode"]) for cliff in found["cliffs"]] == [
        (backend, mode.value) for backend in backends for mode in Mode
    ]
    by_cell = {row["cell"]: row for row in found["cells"]}
    for cliff in found["cliffs"]:
        # 1 bit is beyond this network in every mode, so there is a cliff; above it no width falls so far
        assert cliff["bits"] is not None
        for bits in range(1, 9):
            fall = 100 * (found["float_top1"] - by_cell[f"{cliff['backend']}/w{bits}-{cliff['mode']}"]["top1"])
            assert bits <= cliff["bits"] or fall <= 5
            assert bits != cliff["bits"] or fall > 5
    # one quantizer, so three files of a scheme have one reference
    for row in found["cells"]:
        assert row["reference_top1"] == by_cell[f"onnx/{row['scheme']}"]["reference_top1"]
