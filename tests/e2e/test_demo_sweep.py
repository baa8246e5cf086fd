"""The demo's recipe through the command line: a few cells in every run, all 78 in the slow suite."""

import csv
import json
import re

import numpy as np
import pytest
import yaml
from laboratory import RECIPE, demo_cells

from mobconv import results
from mobconv.cli.app import run
from mobconv.common.files import sha256, size
from mobconv.pipeline.inspection import inspect
from mobconv.schemes import Mode

# The results contract, as docs/results.md has it: fields are added, not renamed.
TOP = "schema model data tools task float_score cells cliffs notes"
CELL = """cell backend scheme bits mode granularity algorithm storage compute stored_bits status reason requires
    verified path sha256 file_bytes weight_bytes effective_bits parameters samples metric score float_score
    reference_score metrics quantization_loss conversion_loss agreement snr_db max_error
    latency_ms latency_ratio load_ms seconds"""
CLIFF = "backend mode granularity storage algorithm compute bits margin score"
FEW = 256  # images of the small sweep
STAGES = {"convert", "quantize", "reference", "encode", "load", "run", "latency"}


def assert_files_agree(out, cells, images):
    """results.json has every field of the contract, and .csv, .md and .npz say the same; returns the JSON."""
    found = json.loads((out / "results.json").read_text())
    assert set(TOP.split()) <= set(found) and found["schema"] == 2
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
    for column in ("score", "float_score", "reference_score"):
        assert [float(row[column]) for row in table] == [row[column] for row in found["cells"]]
    further = [row["metrics"] for row in found["cells"]]
    assert [row["metrics"] for row in table] == [f"top-5={each['top-5']:g} F1={each['F1']:g}" for each in further]
    text = (out / "results.md").read_text()
    assert all(re.search(rf"\b{re.escape(cell.scheme.name)}\b", text) for cell in cells)
    with np.load(out / "scores.npz") as archive:
        assert set(archive) == {"float", "groups", *(cell.name for cell in cells)}
        assert {archive[name].shape for name in archive} == {(images,)}
    whole = results.read(out / "results.json")
    scores = results.read_scores(out / "results.json", whole)
    for row in whole.cells:
        assert_mean(scores.of(row), row.score)
        assert row.float_score == found["float_score"]
    assert_mean(scores.float_baseline, found["float_score"])
    assert scores.groups.shape == (images,)
    return found


def assert_mean(scores, score):
    """Every image is right, 100, or wrong, 0, and the score is the percentage of right ones."""
    assert set(scores.tolist()) <= {0.0, 100.0}
    assert score == pytest.approx(scores.mean(), abs=1e-10)


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
    assert row["effective_bits"] == inspect(path).audit.effective_bits
    assert (row["samples"], row["metric"]) == (images, "top-1")
    assert 0 <= row["score"] <= row["metrics"]["top-5"] <= 100
    # a tenth of a point is two images of all 2,000
    assert abs(row["conversion_loss"]) <= 0.1
    assert row["conversion_loss"] == pytest.approx(row["reference_score"] - row["score"], abs=1e-3)
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
    assert found["float_score"] >= 95
    backends = ("onnx", "tflite", "coreml")
    assert [(cliff["backend"], cliff["mode"]) for cliff in found["cliffs"]] == [
        (backend, mode.value) for backend in backends for mode in Mode
    ]
    by_cell = {row["cell"]: row for row in found["cells"]}
    for cliff in found["cliffs"]:
        # 1 bit is beyond this network in every mode, so there is a cliff; above it no width falls so far
        assert cliff["bits"] is not None
        for bits in range(1, 9):
            fall = found["float_score"] - by_cell[f"{cliff['backend']}/w{bits}-{cliff['mode']}"]["score"]
            assert bits <= cliff["bits"] or fall <= 5
            assert bits != cliff["bits"] or fall > 5
    # one quantizer, so three files of a scheme have one reference
    for row in found["cells"]:
        assert row["reference_score"] == by_cell[f"onnx/{row['scheme']}"]["reference_score"]
