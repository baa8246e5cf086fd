"""The fenced blocks of a page, and what a reader who types them gets."""

import io
import os
import re
import shlex
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from mobconv.cli.app import run

DOCS = Path(__file__).parents[2] / "docs"
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
# figures of this machine and this moment: times, ratios of times, and rounding noise
VARIES = re.compile(r"\b\d+(\.\d+)?(x\b| ms\b| s\b)|\b1[23]\d(\.\d)?(?= )|\b\d(\.\d+)?e-\d+")


@dataclass
class Block:
    language: str
    title: str
    text: str


@dataclass
class Command:
    """A line after `$`, what the page shows of its output, and the exit code that it says."""

    line: str
    shown: list[str]
    code: int = 0


def blocks(page):
    return [Block(found[1], found[2] or "", found[3]) for found in FENCE.finditer((DOCS / page).read_text())]


def commands(block):
    found = []
    for line in re.sub(r"\\\n\s*", "", block.text).splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], []))
        else:
            found[-1].shown.append(line)
    kept = []
    for command in found:
        if command.line == "echo $?":
            kept[-1].code = int(command.shown[0])
        else:
            kept.append(command)
    return kept


class Reader:
    """Somebody in a folder, outside of GitHub. `mobconv` runs in this process, all else in bash."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        self.before = Path.cwd()
        self.hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("GITHUB_")}
        os.chdir(self.folder)
        return self

    def __exit__(self, *_):
        os.chdir(self.before)
        os.environ.update(self.hidden)

    def types(self, command):
        """Exit code and all output."""
        name, *arguments = shlex.split(command.line, comments=True)
        if name == "cd":
            self.folder = self.folder / arguments[0]
            os.chdir(self.folder)
            return 0, ""
        if name == "mobconv":
            printed = io.StringIO()
            with redirect_stdout(printed), redirect_stderr(printed):
                code = run(arguments)
            return code, printed.getvalue()
        found = subprocess.run(["bash", "-c", command.line], check=False, capture_output=True, text=True)
        return found.returncode, found.stdout + found.stderr


def plain(line):
    return re.sub(r"\s+", " ", VARIES.sub("#", line)).strip()


def missing(shown, output):
    """Lines that the page shows and the output has not, in order; `...` stands for any lines."""
    lines = iter([plain(line) for line in output.splitlines()])
    return [line for line in shown if plain(line) not in ("...", "") and plain(line) not in lines]
