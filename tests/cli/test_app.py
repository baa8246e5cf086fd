"""The command line as a process: quick to answer, and one message with the documented code for every end."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import CHECKPOINT, DATA, leftovers

from mobconv.common import files
from mobconv.errors import BackendError, CellError, InputError, OutputError, UsageError

HEAVY = (
    "torch numpy pydantic rich yaml coremltools onnx onnxruntime onnxscript litert_torch ai_edge_litert datasets PIL "
    "safetensors scipy"
)
DEMO = Path(__file__).parents[2] / "docs" / "demo-results.json"
COMMANDS = ("export", "evaluate", "compare", "sweep", "check", "baseline", "inspect", "backends")


def test_help_imports_nothing_heavy():
    """What keeps `mobconv --help` under 0.3 s: a list of modules, for a clock would depend on the machine."""
    code = (
        "import sys, mobconv.cli.app\n"
        f"print(*(name for name in {HEAVY.split()!r} if name in sys.modules))\n"
        "sys.exit(mobconv.cli.app.run(['--version-of-nothing']))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.split() == []
    assert found.returncode == 2 and "Traceback" not in found.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(cli, command):
    code, out, err = cli(command, "--help")
    assert code == 0 and err == "" and f"mobconv {command}" in out


def test_help_names_every_command_and_code(cli):
    code, out, _ = cli("--help")
    assert code == 0 and all(command in out for command in COMMANDS)
    flat = " ".join(out.split())
    for meaning in (
        "0 fine",
        "2 wrong usage",
        "3 bad input",
        "4 backend",
        "6 cannot write",
        "130 interrupted",
        "141",
        "143",
    ):
        assert meaning in flat


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["exprot"], ["No such command 'exprot'", "Did you mean 'export'"]),
        (["export"], ["Missing argument"]),
        (["export", CHECKPOINT], ["--to"]),
        (["export", CHECKPOINT, "--too", "onnx"], ["--too", "--to"]),
        (["export", CHECKPOINT, "--to", "onxx"], ["Unknown backend 'onxx'", "did you mean 'onnx'?"]),
        (["export", CHECKPOINT, "--to", ","], ["--to names no format"]),
        (["export", CHECKPOINT, "--to", "onnx", "--scheme", "w4-kmean"], ["did you mean 'kmeans'?"]),
        (
            ["export", CHECKPOINT, "--to", "onnx", "--scheme", "fp32,w4-kmeans"],
            ["one scheme an export", "schemes: [fp32, w4-kmeans]"],
        ),
        (["export", CHECKPOINT, "--to", "onnx", "--compute", "fp8"], ["--compute fp8: fp32 or fp16"]),
        (["export", CHECKPOINT, "--to", "onnx", "--scheme", "w4-linear@nativ"], ["@native, @fp32, @fp16"]),
        (
            ["export", CHECKPOINT, "--to", "coreml", "--scheme", "fp32@fp16", "--compute", "fp32"],
            ["do not go together"],
        ),
        (["evaluate", "a.onnx"], ["--data"]),
        (["evaluate", "a.onnx", "--data", DATA, "--images", "0"], ["--images"]),
        (["evaluate", "a.onnx", "--data", DATA, "--images", "many"], ["--images", "valid integer"]),
    ],
)
def test_wrong_usage(cli, arguments, words):
    cli.refuses(2, *words, arguments=arguments)


def test_what_a_backend_cannot_do(cli):
    arguments = ["export", CHECKPOINT, "--to", "onnx", "--compute", "fp16", "-o", "out"]
    cli.refuses(4, "onnx/fp32@fp16", "slower than fp32", arguments=arguments)
    for scheme in ("w4-kmeans@native", "w1-linear@native"):
        arguments = ["export", CHECKPOINT, "--to", "onnx", "--scheme", scheme, "-o", "out"]
        cli.refuses(4, f"onnx/{scheme}", "no type for a lookup table", "leave out @native", arguments=arguments)


def test_the_cells_of_an_export():
    from mobconv.pipeline.export import cells

    def named(formats, *settings):
        return [cell.name for cell in cells(formats.split(","), *settings)]

    assert named("onnx, coreml", "w4-linear", None) == ["onnx/w4-linear", "coreml/w4-linear"]
    assert named("onnx,tflite,coreml", "w4-linear-oc16@native", "fp32") == [
        f"{name}/w4-linear-oc16@native" for name in ("onnx", "tflite", "coreml")
    ]
    assert named("coreml", "w4-linear@native", None) == ["coreml/w4-linear@native"]
    assert named("onnx, coreml", "w4-linear", "fp16") == ["onnx/w4-linear@fp16", "coreml/w4-linear@fp16"]
    assert named("coreml", "w4-linear@native@fp16", None) == ["coreml/w4-linear@native@fp16"]
    assert named("coreml", "fp32@fp16", "fp16") == ["coreml/fp32@fp16"]


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError, 2), (InputError, 3), (BackendError, 4), (CellError, 5), (OutputError, 6)]
)
def test_the_code_of_each_error(cli, monkeypatch, error, code):
    def fails():
        raise error("what to do next")

    monkeypatch.setattr("mobconv.backends.names", fails)
    assert cli("backends") == (code, "", "mobconv: what to do next\n")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_where_nobody_expects_it(cli, monkeypatch, code):
    def fails():
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("mobconv.backends.names", fails)
    cli.refuses(6, "the disk is full", arguments=["backends"])


def test_our_own_mistakes_are_not_hidden(cli, monkeypatch):
    def fails():
        raise ZeroDivisionError

    monkeypatch.setattr("mobconv.backends.names", fails)
    with pytest.raises(ZeroDivisionError):
        cli("backends")


_RUN = "from mobconv.cli.app import main; main()"


def _unread(arguments, both, code=_RUN):
    """The command with an output that nobody reads; `both`: nor its messages."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize("both", [False, True], ids=["stdout", "both"])
@pytest.mark.parametrize("arguments", [["--help"], ["schema", "recipe"], ["report", DEMO, DEMO]], ids=lambda a: a[0])
def test_nobody_reads_the_output(arguments, both):
    """Help (by rich), print and a table of rich's: each has its own way to fail, all with exit code 1."""
    found = _unread([str(each) for each in arguments], both)
    assert found.returncode == 141 and not found.stderr


def test_nobody_reads_an_error():
    assert _unread(["exprot"], both=True).returncode == 141
    found = _unread(["exprot"], both=False)
    assert found.returncode == 2 and "No such command 'exprot'" in found.stderr


def test_the_pipe_of_another_program_is_an_error():
    fails = (
        "import mobconv.backends as b\ndef names(): raise BrokenPipeError(32, 'the worker is gone')\nb.names = names\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", fails + _RUN, "backends"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 1 and "BrokenPipeError: [Errno 32] the worker is gone" in found.stderr


def test_so_it_is_where_a_file_took_the_output(tmp_path):
    fails = (
        "import mobconv.backends as b\ndef names():\n print('begun', flush=True)\n"
        " raise BrokenPipeError(32, 'the worker is gone')\nb.names = names\n"
    )
    with (tmp_path / "out.txt").open("w") as stdout:
        found = subprocess.run(
            [sys.executable, "-c", fails + _RUN, "backends"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert found.returncode == 1 and "the worker is gone" in found.stderr
    assert (tmp_path / "out.txt").read_text() == "begun\n"


def test_backends(cli):
    code, out, _ = cli("backends")
    assert code == 0 and all(name in out for name in ("onnx", "tflite", "coreml", ".mlpackage", ".mlmodel"))
    code, out, _ = cli("backends", "--json")
    found = {entry["backend"]: entry for entry in json.loads(out)}
    assert code == 0 and list(found) == ["onnx", "tflite", "coreml", "coreml-mlmodel"]
    assert found["onnx"]["missing"] is None and found["onnx"]["stored_bits"]["kmeans"]["3"] == 3


@pytest.mark.parametrize("command", [["inspect"], ["evaluate", "--data", DATA]], ids=lambda command: command[0])
def test_a_folder_in_place_of_an_artifact(cli, command):
    """Sweeps call a folder `onnx`."""
    (cli.folder / "out" / "onnx").mkdir(parents=True)
    cli.refuses(3, "out/onnx is a folder; name an artifact in it, one of .onnx", arguments=[*command, "out/onnx"])
    (cli.folder / "out" / "tflite").mkdir()
    (cli.folder / "out" / "tflite" / "fp32.tflite").touch()
    code, _, err = cli(*command, "out/tflite")
    assert code == 3 and "name an artifact in it: out/tflite/fp32.tflite, for example" in err
    (cli.folder / "weights").touch()
    code, _, err = cli(*command, "weights")
    assert code == 3 and "this name has no ending" in err


class TestOutput:
    export = ("export", CHECKPOINT, "--to", "onnx", "-o", "out")

    def test_a_full_disk(self, cli, monkeypatch):
        """The folder takes half a file, then nothing."""
        real = type(cli.folder).write_bytes

        def write_bytes(path, content):
            if cli.folder / "out" not in (cli.folder / path).parents:
                return real(path, content)
            real(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(type(cli.folder), "write_bytes", write_bytes)
        cli.refuses(6, "out/onnx/fp32.onnx: the disk is full", "free some space", arguments=self.export)

    @pytest.mark.parametrize("there", ["out", "out/onnx"])
    def test_a_file_in_the_way(self, cli, there):
        files.write_whole(cli.folder / there, "mine")
        cli.refuses(6, "cannot be written", "-o", arguments=self.export)
        assert (cli.folder / there).read_text() == "mine"

    @pytest.mark.parametrize("mark", [".cells", "results.json"])
    def test_the_folder_of_a_sweep(self, cli, mark):
        """Finished (it has both), or killed before its results were written."""
        artifact = cli.folder / "out" / "onnx" / "fp32.onnx"
        artifact.parent.mkdir(parents=True)
        artifact.write_bytes(b"measured")
        (cli.folder / "out" / mark).mkdir() if mark == ".cells" else (cli.folder / "out" / mark).touch()
        code, out, err = cli(*self.export)
        assert (code, out) == (2, "") and "Traceback" not in err
        assert f"out is the folder of a sweep (it has {mark})" in err and "another folder with -o" in err
        assert artifact.read_bytes() == b"measured"
        assert sorted(path.name for path in (cli.folder / "out").iterdir()) == sorted([mark, "onnx"])

    def test_a_limit_on_the_size_of_files(self, tmp_path):
        """The kernel's own refusal, in the middle of a write."""
        code = (
            "import resource, sys\n"
            "from mobconv.cli.app import main\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "main()"
        )
        command = [sys.executable, "-c", code, *map(str, self.export)]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert found.returncode == 6, found.stderr
        assert "the disk is full" in found.stderr and "Traceback" not in found.stderr
        assert leftovers(tmp_path) == []
