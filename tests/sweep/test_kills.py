"""Killed at any moment, and started again: nothing torn, nothing whole made twice, the same in the end."""

import random
import shutil
import subprocess
import sys
import time

import pytest
from killing import Sweeps, artifacts, kill, outcome, partial, records, stamps, wait
from support import CHECKPOINT, DATA, USER_MODULE

from mobconv.errors import InputError
from mobconv.results import read

RECIPE = f"""
checkpoint: {CHECKPOINT}
data: {DATA}
images: {{images}}
threads: 1
backends: [{{backends}}]
schemes: [{{schemes}}]
"""


SWEEPS = 50
TINY = """
model: user_nets:tiny
arguments: {classes: 10}
input_shape: [1, 3, 32, 32]
preprocessing: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
"""


def whole(out):
    """The results are there and of these files, or not there at all."""
    try:
        found = read(out / "results.json")
    except InputError as error:
        assert "no such results file" in str(error)
        return None
    return found


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_fifty_sweeps_killed_at_random(tmp_path, capsys):
    recipe = tmp_path / "grid.yaml"
    schemes = "fp32, w4-kmeans, w2-linear"
    recipe.write_text(RECIPE.format(images=200, backends="onnx, tflite, coreml, coreml-mlmodel", schemes=schemes))
    sweeps = Sweeps()
    first = tmp_path / "first"
    assert sweeps.run(recipe, first) == 0  # for its templates
    plain = tmp_path / "plain"
    shutil.copytree(first / ".templates", plain / ".templates")
    start = time.monotonic()
    process = sweeps.start(recipe, plain)
    wait(lambda: records(plain), process)
    until_first = time.monotonic() - start
    process.join()
    duration = time.monotonic() - start
    expected = outcome(plain)
    assert len(expected[1]) == 12
    rng = random.Random(5)
    kills = lost = kept = made = after = 0
    for number in range(SWEEPS):
        out = tmp_path / f"sweep{number}"
        shutil.copytree(first / ".templates", out / ".templates")
        for _ in range(rng.choice((1, 1, 2, 3))):
            held = stamps(out, records(out))
            process = sweeps.start(recipe, out)
            # before the first of its cells, or so long after one of them
            cells = rng.randrange(-2, 12 - len(held))
            while cells >= 0 and process.is_alive() and len(records(out)) < len(held) + cells:
                time.sleep(0.005)
            process.join(rng.uniform(0, until_first if cells < 0 else (duration - until_first) / 11))
            if not kill(process):
                break
            kills += 1
            done, there = records(out), artifacts(out)
            assert set(done) <= set(there), "a row without its file"
            lost += len(set(there) - set(done))
            assert len(set(there) - set(done)) <= 1
            assert stamps(out, held) == held, "a whole file was made again"
            if whole(out) is not None:  # killed after the last cell
                after += 1
                assert len(done) == 12
        held = stamps(out, records(out))
        assert sweeps.run(recipe, out) == 0
        assert outcome(out) == expected
        assert stamps(out, held) == held, "a whole file was made again"
        kept += len(held)
        made += 12 - len(held)
        assert partial(out) == []
        shutil.rmtree(out)
    with capsys.disabled():
        print(
            f"\n{SWEEPS} sweeps of 12 cells, {kills} kills in {duration:.0f} s ({after} after the results), then "
            f"each to its end: {kept} cells were there and stayed, {made} were made ({lost} of them had a file, no row)"
        )
    assert kills >= SWEEPS and kept and made


@pytest.mark.timeout(900)
@pytest.mark.slow
def test_killed_after_a_row_and_in_the_middle_of_one(tmp_path):
    """SIGKILL after the first record, then while the next cell is made; then a lock and remains of both are there."""
    recipe = tmp_path / "few.yaml"
    (tmp_path / "user_nets.py").write_text(USER_MODULE)
    code = "import torch, user_nets; torch.save(user_nets.tiny(classes=10).state_dict(), 'net.pt')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    schemes = "fp32, w4-kmeans, w1-symmetric, w2-linear"
    text = RECIPE.format(images=32, backends="onnx", schemes=schemes).replace(str(CHECKPOINT), "net.pt")
    recipe.write_text(text + TINY)
    sweeps, out, plain = Sweeps(), tmp_path / "out", tmp_path / "plain"
    process = sweeps.start(recipe, out)
    wait(lambda: records(out), process)
    assert kill(process) and (out / ".lock").exists()
    first = records(out)
    held = stamps(out, first)
    assert whole(out) is None
    process = sweeps.start(recipe, out)
    wait(lambda: len(records(out)) > len(first) or list((out / ".cells" / "making").glob("*/*.onnx")), process)
    assert kill(process)
    assert stamps(out, first) == held
    held = stamps(out, records(out))
    shutil.copytree(out / ".templates", plain / ".templates")
    assert sweeps.run(recipe, out) == 0 and sweeps.run(recipe, plain) == 0
    assert stamps(out, held) == held and outcome(out) == outcome(plain) and partial(out) == []
    said = (out / "log.txt").read_text()
    assert f"{len(held)} of 4 cells are as they were; {4 - len(held)} to make" in said
