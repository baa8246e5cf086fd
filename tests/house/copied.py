"""A copy of the package that something is added to, and then used by `export`, `sweep` and `check`.

An addition touches one new file or folder and one line. Each kind of addition has a test file, so that they run side by
side.
"""

import filecmp
import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

from support import USER_MODULE

ROOT = Path(__file__).parents[2]
MODEL = """
model: nets:tiny
arguments: {classes: 10}
input_shape: [1, 3, 32, 32]
preprocessing: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}
"""
DATA = ROOT / "fixtures" / "digits-test.parquet"


# reads arguments, a JSON list a line, and answers with exit code and output
SERVER = """
import contextlib, io, json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what vendors print
from mobconv.cli.app import run
for line in sys.stdin:
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = run(json.loads(line))
    print(json.dumps([code, output.getvalue()]), file=answers, flush=True)
"""


class Copy:
    """A copy of the package in a temporary folder, and a folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package = folder, folder / "copy" / "mobconv"
        shutil.copytree(ROOT / "mobconv", self.package)  # with the compiled kernels beside the sources
        self._process = None
        self._network()

    def _network(self) -> None:
        """A small network of the user's, with weights as they are drawn."""
        import torch
        from safetensors.torch import save_file

        (self.folder / "nets.py").write_text(USER_MODULE)
        names: dict = {}
        exec(USER_MODULE, names)
        torch.manual_seed(0)
        save_file(names["tiny"](classes=10).state_dict(), self.folder / "net.safetensors")

    def add(self, path: str, text: str) -> None:
        (self.package / path).write_text(text.lstrip())

    def register(self, path: str, after: str, line: str) -> None:
        """Insert one line behind the line that begins with `after`."""
        lines = (self.package / path).read_text().splitlines(keepends=True)
        place = next(number for number, text in enumerate(lines) if text.startswith(after))
        lines.insert(place + 1, line + "\n")
        (self.package / path).write_text("".join(lines))

    def touched(self) -> tuple[list[str], list[str]]:
        """New files or folders; changed files, each with its number of added lines."""
        new, changed = [], []

        def compare(sides: filecmp.dircmp, prefix: str) -> None:
            new.extend(prefix + name for name in sides.right_only if name != "__pycache__")
            assert not [name for name in sides.left_only if name != "__pycache__"]
            for name in sides.diff_files:
                before, after = (Path(side, name).read_text().splitlines() for side in (sides.left, sides.right))
                added = len([line for line in after if line not in before])
                assert len(after) == len(before) + 1
                changed.append(f"{prefix}{name}: {added}")
            for name, below in sides.subdirs.items():
                if name != "__pycache__":
                    compare(below, f"{prefix}{name}/")

        compare(filecmp.dircmp(ROOT / "mobconv", self.package), "")
        return new, changed

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run the copy's command line -> what it printed. One process runs all commands of a test."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-c", SERVER],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": str(self.package.parent)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        exit_code, output = json.loads(self._process.stdout.readline())
        assert exit_code == code, output
        return output

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()

    def sweep(self, text: str) -> list[dict]:
        """Sweep a recipe on 64 images -> its rows."""
        (self.folder / "recipe.yaml").write_text(f"{MODEL}data: {DATA}\nimages: 64\n" + textwrap.dedent(text))
        self.run("sweep", "recipe.yaml", "-o", "out/sweep")
        return json.loads((self.folder / "out" / "sweep" / "results.json").read_text())["cells"]

    def export(self, checkpoint: str, *more: str) -> str:
        """Export a checkpoint of the network."""
        options = ["--model", "nets:tiny", "--model-arg", "classes=10", "--input-shape", "1,3,32,32"]
        return self.run("export", checkpoint, *options, *more)

    def check(self, rules: str, code: int = 0) -> str:
        """Check the sweep against a budget for all cells."""
        (self.folder / "budget.yaml").write_text(f'budgets: [{{cells: "*", {rules}}}]')
        return self.run("check", "out/sweep", "--budget", "budget.yaml", code=code)
