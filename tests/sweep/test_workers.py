"""Workers make what one process makes, and survive the death of any of them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killing import outcome, partial, records
from safetensors.torch import save_file
from support import DATA

from mobconv import backends, results

NETS = """
import os, pathlib, signal
from torch import nn

HERE = pathlib.Path(__file__).parent

def tiny(classes=10, width=4):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(width, classes),
    )

# A cell that ends its process, as one that takes too much memory does: as often as the file has bytes.
from mobconv.backends import onnx
real = type(onnx.backend).encode

def encode(self, template, model, cell, path, record=""):
    planted = HERE / f"kills {cell.name.replace('/', ' ')}"
    if record and planted.exists() and (held := planted.read_bytes()):
        planted.write_bytes(held[1:])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, template, model, cell, path, record)

type(onnx.backend).encode = encode
"""
RECIPE = {
    "checkpoint": "net.safetensors",
    "model": "killer_nets:tiny",
    "input_shape": [1, 3, 32, 32],
    "preprocessing": {"mean": [0.5] * 3, "std": [0.25] * 3},
    "data": str(DATA),
    "images": 100,
    "backends": ["onnx", "coreml-mlmodel"],
    "schemes": ["fp32", "w4-kmeans", "w2-linear"],
}
CELLS = [f"{backend}/{scheme}" for backend in RECIPE["backends"] for scheme in RECIPE["schemes"]]
MAIN = "from mobconv.cli.app import main; main()"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "killer_nets.py").write_text(NETS)
    (tmp_path / "job.yaml").write_text(json.dumps(RECIPE))
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), None, None, None, torch.nn.Linear(4, 10)]
    state = {f"{i}.{n}": v for i, layer in enumerate(layers) if layer for n, v in layer.state_dict().items()}
    save_file(state, tmp_path / "net.safetensors")
    return tmp_path


def sweep(folder, out, *more):
    """Exit code and what was said."""
    command = [sys.executable, "-c", MAIN, "sweep", "job.yaml", "-o", str(out), *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=500)
    assert "Traceback" not in done.stderr, done.stderr
    assert partial(folder / out) == []
    return done.returncode, done.stderr


def plant(folder, cell, times):
    (folder / f"kills {cell.replace('/', ' ')}").write_bytes(b"." * times)


def rows(out):
    return {row.cell: row for row in results.read(out / "results.json").cells}


def test_two_workers_make_what_one_process_makes_and_one_dies(folder):
    (folder / "job.yaml").write_text(json.dumps(RECIPE | {"backends": ["onnx"], "schemes": ["fp32", "w4-kmeans"]}))
    plant(folder, "onnx/w4-kmeans", 1)
    code, _ = sweep(folder, "out", "--jobs", "2")
    assert code == 0 and (folder / "kills onnx w4-kmeans").read_bytes() == b""
    assert all(row.latency_ms for row in rows(folder / "out").values())
    # with all cores, where a worker has its share
    shutil.copytree(folder / "out" / ".templates", folder / "alone" / ".templates")
    assert sweep(folder, "alone")[0] == 0
    assert outcome(folder / "out") == outcome(folder / "alone")


@pytest.mark.slow
def test_two_workers_one_cell_that_kills_and_one_that_kills_once(folder):
    assert sweep(folder, "alone")[0] == 0
    plain = outcome(folder / "alone")
    plant(folder, "onnx/w4-kmeans", 2)
    plant(folder, "onnx/w2-linear", 1)
    code, said = sweep(folder, "out", "--jobs", "2")
    assert code == 5 and "1 of 6 cells failed: onnx/w4-kmeans" in said
    found = rows(folder / "out")
    assert list(found) == CELLS
    assert "died twice" in found["onnx/w4-kmeans"].reason
    assert [cell for cell in CELLS if found[cell].status != "ok"] == ["onnx/w4-kmeans"]
    assert {len(each.read_bytes()) for each in folder.glob("kills *")} == {0}
    assert sorted(line.split()[1] for line in said.splitlines() if line.startswith("[")) == sorted(CELLS)
    # it is tried again, and then the same in every bit, whoever made it
    code, said = sweep(folder, "out", "--jobs", "2")
    assert code == 0 and "5 of 6 cells are as they were; 1 to make" in said
    assert outcome(folder / "out") == plain
    assert all(row.latency_ms for cell, row in rows(folder / "out").items() if cell.startswith("onnx/"))


def processes_of(out):
    """Ids of the processes that work in a folder."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and int(each.name) != os.getpid():
            try:
                if str(out) in str((each / "cwd").readlink()):
                    found.append(int(each.name))
            except OSError:
                continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_a_killed_sweep_leaves_no_worker_behind(folder):
    command = [sys.executable, "-c", MAIN, "sweep", "job.yaml", "-o", "out", "--jobs", "2"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while not records(folder / "out"):
        assert process.poll() is None
        time.sleep(0.02)
    assert len(processes_of(folder)) >= 3
    process.kill()
    process.wait()
    end = time.monotonic() + 20
    while processes_of(folder) and time.monotonic() < end:
        time.sleep(0.2)
    assert processes_of(folder) == []
    held = records(folder / "out")
    code, said = sweep(folder, "out", "--jobs", "2")
    assert code == 0 and (len(held) == 6 or "to make" in said)
    assert sweep(folder, "plain")[0] == 0 and outcome(folder / "out") == outcome(folder / "plain")


def cluster(folder, tmp):
    """A scheduler and two workers, as people start them: (address, processes)."""
    dask = [sys.executable, "-m", "dask"]
    log = (tmp / "dask.txt").open("w")
    scheduler_file = tmp / "scheduler.json"
    quiet = {"stdout": log, "stderr": log, "cwd": tmp, "env": os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}}
    command = [*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(scheduler_file)]
    processes = [subprocess.Popen(command, **quiet)]
    while not (scheduler_file.exists() and scheduler_file.read_text().rstrip().endswith("}")):
        assert processes[0].poll() is None, (tmp / "dask.txt").read_text()
        time.sleep(0.1)
    address = json.loads(scheduler_file.read_text())["address"]
    worker = [*dask, "worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(tmp)]
    processes += [subprocess.Popen([*worker, "--no-nanny"], **quiet) for _ in range(2)]
    from distributed import Client

    with Client(address) as client:
        client.wait_for_workers(2, timeout=60)
    return address, processes


@pytest.fixture
def dask(folder, tmp_path_factory):
    address, processes = cluster(folder, tmp_path_factory.mktemp("dask"))
    yield address, processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_dask_cluster_of_two_one_of_them_killed(folder, dask):
    """A real scheduler, two real worker processes; one is killed at its work, and its cell is made by the other."""
    address, processes = dask
    assert sweep(folder, "alone")[0] == 0
    command = [sys.executable, "-c", MAIN, "sweep", "job.yaml", "-o", "out", "--cluster", address]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    while not list((folder / "out").glob(".cells/making/attempts/*")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGKILL)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    assert sum(line.startswith("[") for line in said.splitlines()) == 6
    assert outcome(folder / "out") == outcome(folder / "alone")


@pytest.mark.slow
def test_a_cell_that_kills_two_dask_workers_is_a_row(folder, tmp_path_factory):
    plant(folder, "onnx/w4-kmeans", 2)
    address, processes = cluster(folder, tmp_path_factory.mktemp("dask"))
    third = subprocess.Popen([sys.executable, "-m", "dask", "worker", address, "--nthreads", "1", "--no-nanny"])
    try:
        code, said = sweep(folder, "out", "--cluster", address)
        assert code == 5 and "1 of 6 cells failed: onnx/w4-kmeans" in said
        assert "died twice" in rows(folder / "out")["onnx/w4-kmeans"].reason
        assert [process.poll() for process in (*processes, third)].count(None) == 2  # the scheduler and one worker
    finally:
        for process in (*processes, third):
            process.kill()
            process.wait()


@pytest.mark.slow
def test_a_cluster_that_is_not_there(folder):
    code, said = sweep(folder, "out", "--cluster", "tcp://127.0.0.1:9")
    assert code == 4 and "no Dask scheduler answers there" in said
    code, said = sweep(folder, "out", "--cluster", "tcp://127.0.0.1:9", "--jobs", "2")
    assert code == 2 and "do not go together" in said


def test_without_the_extra(folder):
    hidden = "import sys; sys.modules['distributed'] = None\n"
    command = [sys.executable, "-c", hidden + MAIN, "sweep", "job.yaml", "-o", "out", "--cluster", "tcp://127.0.0.1:9"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and 'pip install "mobconv[cluster]"' in done.stderr


def test_a_worker_that_does_not_see_the_folder(tmp_path):
    from mobconv import recipe
    from mobconv.errors import InputError
    from mobconv.sweep import Job, keys, workers
    from mobconv.sweep.parts import Chunk, Prepare

    (tmp_path / "job.yaml").write_text(json.dumps(RECIPE))
    job = Job.of(recipe.load(tmp_path / "job.yaml", backends.formats()))
    assignment = workers.Assignment(job, keys.Inputs("", "", ""), Path("/nowhere/at all"), "0123", [], 1, 0)
    with pytest.raises(InputError, match=r"does not see this sweep's folder.*on a file system that all share"):
        workers.work(assignment, Chunk((Prepare(True),)))
