"""A sweep goes on past what fails or cannot be, and stops cleanly when it is told to."""

import json
import os
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
from support import CHECKPOINT, DATA, leftovers

from mobconv.errors import BackendError, OutputError

RECIPE = f"""
checkpoint: {CHECKPOINT}
data: {DATA}
images: 32
threads: 1
backends: [{{backends}}]
schemes: [{{schemes}}]
"""


@pytest.fixture
def sweep(cli):
    def run(backends, schemes, *more):
        (cli.folder / "job.yaml").write_text(RECIPE.format(backends=backends, schemes=schemes))
        code, out, err = cli("sweep", "job.yaml", "-o", "out", *more)
        path = cli.folder / "out" / "results.json"
        rows = json.loads(path.read_text())["cells"] if path.exists() else []
        return code, {row["cell"]: row for row in rows}, out, err

    return run


def partial(folder):
    return [p for p in folder.rglob("*") if "partial" in p.name]


def test_cells_that_fail_are_rows(cli, sweep, monkeypatch):
    from mobconv.backends import onnx

    real = type(onnx.backend).encode
    errors = {2: BackendError("no room for w2"), 1: RuntimeError("a kernel\nwith a long story")}

    def encode(self, template, model, cell, path, record=""):
        if cell.scheme.bits in errors:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"half of a file")
            raise errors[cell.scheme.bits]
        return real(self, template, model, cell, path, record)

    monkeypatch.setattr(type(onnx.backend), "encode", encode)
    code, rows, out, err = sweep("onnx", "w4-linear, w2-linear, w1-linear, w3-linear")
    assert code == 5
    assert [row["status"] for row in rows.values()] == ["ok", "failed", "failed", "ok"]
    reasons = [row["reason"] for row in rows.values()][1:3]
    assert reasons == ["no room for w2", "RuntimeError: a kernel"] and all(reason in out for reason in reasons)
    assert "2 of 4 cells failed: onnx/w2-linear, onnx/w1-linear" in err and "Traceback" not in err
    assert "2 failed" in out
    assert sorted(p.name for p in (cli.folder / "out" / "onnx").iterdir()) == ["w3-linear.onnx", "w4-linear.onnx"]
    assert partial(cli.folder) == []


def test_a_conversion_that_fails_is_a_row_for_each_cell(sweep, monkeypatch):
    from mobconv.backends import onnx

    def convert(self, program, compute, directory, options=None):
        raise BackendError("no op for this")

    monkeypatch.setattr(type(onnx.backend), "convert", convert)
    code, rows, _, err = sweep("onnx", "w3-linear, fp32")
    assert code == 5 and "2 of 2 cells failed" in err
    assert {row["reason"] for row in rows.values()} == {"conversion: no op for this"}


def test_a_full_disk_ends_the_sweep(cli, sweep, monkeypatch):
    from mobconv.backends import onnx

    def encode(self, template, model, cell, path, record=""):
        raise OutputError(f"{path}: the disk is full")

    monkeypatch.setattr(type(onnx.backend), "encode", encode)
    code, rows, out, err = sweep("onnx", "w3-linear, w2-linear")
    assert code == 6 and rows == {} and "the disk is full" in err and out == ""
    assert partial(cli.folder) == []


def test_a_file_where_the_results_go(cli, sweep):
    (cli.folder / "out").write_text("mine")
    code, _, _, err = sweep("onnx", "fp32")
    assert code == 6 and "cannot be written" in err and "Traceback" not in err
    assert (cli.folder / "out").read_text() == "mine"


def test_unsupported_cells_are_rows(cli, sweep):
    only = ("--only", "onnx/*", "--only", "tflite/fp32@fp16")
    schemes = "w4-linear, w4-linear@native, w4-kmeans@native, w1-linear@native, fp32@fp16"
    code, rows, out, _ = sweep("onnx, tflite", schemes, *only)
    assert code == 0
    assert {cell: row["status"] for cell, row in rows.items()} == {
        "onnx/w4-linear": "ok",
        "onnx/w4-linear@native": "ok",
        "onnx/w4-kmeans@native": "unsupported",
        "onnx/w1-linear@native": "unsupported",
        "onnx/fp32@fp16": "unsupported",
        "tflite/fp32@fp16": "unsupported",
    }
    unsupported = [row for row in rows.values() if row["status"] == "unsupported"]
    assert all(row["path"] is row["stored_bits"] is row["score"] is None for row in unsupported)
    for cell in ("onnx/w4-kmeans@native", "onnx/w1-linear@native"):
        assert "ONNX has no type for a lookup table" in rows[cell]["reason"]
    assert "4 unsupported" in out and "no type for a lookup table" in " ".join(out.split())
    written = sorted(path.name for path in (cli.folder / "out" / "onnx").iterdir())
    assert written == ["w4-linear.onnx", "w4-linear@native.onnx"]
    assert not (cli.folder / "out" / "tflite").exists()


def test_native_cells_say_what_they_hold(sweep):
    code, rows, out, _ = sweep("onnx", "w5-linear@native, w4-symmetric@native, w4-linear-oc16")
    assert code == 0
    five, four, groups = rows.values()
    assert [row["stored_bits"] for row in (five, four, groups)] == [8, 4, 4]
    assert "there are no 5-bit ones" in five["reason"] and four["reason"] == "" == groups["reason"]
    assert "does not fold it" in five["note"] and "5-bit" in " ".join(out.split())
    assert [row["requires"] for row in (five, four, groups)] == ["opset 18", "opset 21", "opset 18"]
    assert [row["storage"] for row in (five, four, groups)] == ["native", "native", "packed"]
    assert groups["granularity"] == "oc16"


HIDDEN = """
import importlib.machinery as machinery, sys
real = machinery.PathFinder.find_spec
def find_spec(cls, name, *more, **named):
    return None if name.partition(".")[0] == "coremltools" else real(name, *more, **named)
machinery.PathFinder.find_spec = classmethod(find_spec)
"""
MAIN = "from mobconv.cli.app import main; main()"
# a job in the background of a script is started deaf to Ctrl-C, and so would be what it starts
FOREGROUND = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def without_coremltools(python, code, folder):
    """What a machine without coremltools shows: its cells are rows with a hint, the others run."""
    (folder / "job.yaml").write_text(RECIPE.format(backends="onnx, coreml", schemes="w4-linear"))

    def run(*arguments):
        command = [str(python), "-c", code + MAIN, *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    hint = 'pip install "mobconv[coreml]"'
    swept = run("sweep", "job.yaml", "-o", "out")
    assert swept.returncode == 0, swept.stderr
    ours, theirs = json.loads((folder / "out" / "results.json").read_text())["cells"]
    assert ours["status"] == "ok" and ours["score"] > 80
    assert theirs["status"] == "unsupported" and hint in theirs["reason"]
    assert hint in " ".join(swept.stdout.split())
    shown = run("backends")
    assert shown.returncode == 0 and hint in shown.stdout
    exported = run("export", str(CHECKPOINT), "--to", "onnx,coreml", "-o", "exported")
    assert exported.returncode == 4 and hint in exported.stderr and "Traceback" not in exported.stderr
    assert [path.name for path in (folder / "exported").iterdir()] == ["onnx"]
    (folder / "net.mlpackage").mkdir()
    measured = run("evaluate", "net.mlpackage", "--data", str(DATA))
    assert measured.returncode == 4 and hint in measured.stderr


@pytest.mark.slow
@pytest.mark.slow
def test_a_backend_that_is_not_installed(tmp_path):
    without_coremltools(sys.executable, HIDDEN, tmp_path)


@pytest.mark.slow
def test_a_backend_that_is_not_installed_in_a_real_environment(tmp_path):
    """An environment with everything that is here but coremltools, linked, so that no index is needed."""
    made = tmp_path / "venv"
    venv.create(made, with_pip=False, symlinks=True)
    (there,) = made.glob("lib/python*/site-packages")
    for here in {Path(folder) for folder in sys.path if folder.endswith("site-packages")}:
        for entry in here.iterdir():
            if not entry.name.startswith("coremltools") and not (there / entry.name).exists():
                (there / entry.name).symlink_to(entry)
    python = made / "bin" / "python"
    import mobconv

    source = f"import sys; sys.path.insert(0, {str(Path(mobconv.__file__).parents[1])!r})\n"
    absent = subprocess.run([python, "-c", "import coremltools"], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in absent.stderr
    without_coremltools(python, source, tmp_path)


def started(folder, backends):
    """A sweep of many cells as a process of its own."""
    schemes = "fp32, fp16, " + ", ".join(f"w{bits}-kmeans-channel" for bits in range(8, 0, -1))
    (folder / "job.yaml").write_text(RECIPE.format(backends=backends, schemes=schemes))
    command = [sys.executable, "-c", FOREGROUND + MAIN, "sweep", "job.yaml", "-o", "out"]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_for(process, condition):
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    pytest.fail("it never came")


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow)],
)
def test_told_to_stop_between_cells(tmp_path, number, code, word):
    process = started(tmp_path, "onnx")
    wait_for(process, (tmp_path / "out" / "onnx" / "fp32.onnx").exists)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert f"mobconv: {word}; whole files stay" in err and "Traceback" not in err and out == ""
    assert partial(tmp_path) == [] and not (tmp_path / "out" / "results.json").exists()
    import onnxruntime

    artifacts = list((tmp_path / "out" / "onnx").iterdir())
    assert 1 <= len(artifacts) < 10
    for artifact in artifacts:
        onnxruntime.InferenceSession(str(artifact), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("number", "code", "later"),
    [pytest.param(signal.SIGINT, 130, 0.0, marks=pytest.mark.slow), (signal.SIGTERM, 143, 2.0)],
)
def test_told_to_stop_in_the_middle_of_a_conversion(tmp_path, number, code, later):
    """At once: while packages are imported, where an exception would end the process in C++; and after that."""
    process = started(tmp_path, "onnx")
    wait_for(process, lambda: partial(tmp_path))
    time.sleep(later)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err and leftovers(tmp_path) == []
