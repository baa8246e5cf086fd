"""Calibration data in a sweep: a part of the keys of the cells that use it, shared by workers, chosen once."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from killing import outcome, partial
from safetensors.torch import save_file
from support import USER_MODULE

from mobconv import backends, recipe, results
from mobconv.schemes import Cell
from mobconv.sweep import Job, keys
from mobconv.sweep.store import Store

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
PLAN = {
    "checkpoint": "net.safetensors",
    "model": "user_nets:tiny",
    "input_shape": [1, 3, 8, 8],
    "preprocessing": {"mean": 0.5, "std": 0.25},
    "data": "test.npz",
    "threads": 1,
    "backends": ["onnx"],
    "schemes": ["w4-kmeans", "w4-kmeans-gptq"],
    "calibration": {"data": "train.npz", "images": 16},
}
MAIN = "from mobconv.cli.app import main; main()"


@pytest.fixture
def folder(cli):
    import user_nets

    torch.manual_seed(0)
    save_file(user_nets.tiny().state_dict(), "net.safetensors")
    np.savez("test.npz", image=PIXELS[:30], label=np.arange(30) % 3)
    np.savez("train.npz", image=PIXELS[30:])
    np.savez("both.npz", image=PIXELS[20:])
    return cli


def sweep(folder, *more, **changed):
    """Exit code, what was said, rows by cell."""
    (folder.folder / "job.yaml").write_text(json.dumps(PLAN | changed))
    code, _, err = folder("sweep", "job.yaml", "-o", "out", *more)
    path = folder.folder / "out" / "results.json"
    assert partial(folder.folder / "out") == []
    return code, err, {row.cell: row for row in results.read(path).cells} if path.exists() else {}


def test_only_cells_that_use_it_say_so_and_are_made_again(folder):
    code, err, rows = sweep(folder)
    assert code == 0, err
    assert "train.npz: 16 of 30 samples are chosen to calibrate on, by the seed 0" in err
    assert rows["onnx/w4-kmeans-gptq"].note.startswith("calibrated on 16 images of train.npz (seed 0)")
    assert "calibrated" not in rows["onnx/w4-kmeans"].note
    assert "2 of 2 cells are as they were" in sweep(folder)[1]
    seeded = sweep(folder, calibration={"data": "train.npz", "images": 16, "seed": 1})
    assert "1 of 2 cells" in seeded[1] and "(seed 1)" in seeded[2]["onnx/w4-kmeans-gptq"].note
    np.savez("train.npz", image=PIXELS[30:40])
    assert "1 of 2 cells" in sweep(folder)[1]
    unused = sweep(folder, schemes="w4-kmeans")
    assert "1 of 1 cells" in unused[1] and "train.npz: calibration data that no cell uses" in unused[1]


@pytest.mark.slow
def test_a_leak_is_refused_also_where_it_was_allowed_before(folder):
    leaking = {"data": "both.npz"}
    code, err, rows = sweep(folder, calibration=leaking)
    assert (code, rows) == (2, {}) and "both.npz: 10 of the 40 images" in err and "test.npz" in err
    assert "`calibration.allow_leak: true`" in err
    out = folder.folder / "out"
    assert list(out.rglob("*.onnx")) == [] and not (out / ".cells" / "baseline.npz").exists()
    code, err, rows = sweep(folder, calibration=leaking | {"allow_leak": True})
    assert code == 0, err
    assert "of which 10 are in the evaluation data too" in rows["onnx/w4-kmeans-gptq"].note
    assert sweep(folder, calibration=leaking)[0] == 2


def test_keys(folder):
    assert sweep(folder)[0] == 0

    def of(name, **changed):
        (folder.folder / "job.yaml").write_text(json.dumps(PLAN | changed))
        job = Job.of(recipe.load(folder.folder / "job.yaml", backends.formats()))
        inputs, store = keys.inputs(job), Store(folder.folder / "out")
        baseline = store.baseline(inputs.baseline)
        assert baseline is not None
        return keys.cell(inputs, baseline, job, Cell.parse(name), facts), inputs

    job = Job.of(recipe.load(folder.folder / "job.yaml", backends.formats()))
    facts = Store(folder.folder / "out").calibration(keys.inputs(job).facts)
    assert facts is not None and (facts.samples, facts.seed, facts.shared) == (16, 0, 0)
    plain, calibrated = of("onnx/w4-kmeans"), of("onnx/w4-kmeans-gptq")
    facts = None
    without = of("onnx/w4-kmeans", calibration=None, schemes="w4-kmeans")
    assert plain[0] == without[0] and plain[1].baseline == without[1].baseline
    assert calibrated[0] != of("onnx/w4-kmeans-gptq")[0]
    others = [{"seed": 1}, {"images": 8}, {"allow_leak": True}]
    hashes = [of("onnx/w4-kmeans", calibration=PLAN["calibration"] | more)[1].facts for more in others]
    assert len({plain[1].facts, without[1].facts, *hashes}) == 5


@pytest.mark.slow
def test_workers_make_what_one_process_makes(folder):
    (folder.folder / "user_nets.py").write_text(USER_MODULE)
    (folder.folder / "job.yaml").write_text(json.dumps(PLAN))
    for out, more in (("one", ()), ("two", ("--jobs", "2"))):
        command = [sys.executable, "-c", MAIN, "sweep", "job.yaml", "-o", out, *more]
        done = subprocess.run(command, cwd=folder.folder, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        assert "16 of 30 samples are chosen" in done.stderr
    assert outcome(folder.folder / "one") == outcome(folder.folder / "two")
