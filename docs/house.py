"""The map of the house in CONTRIBUTING.md: floors from import-linter, words from docstrings of packages."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def floors() -> list[list[str]]:
    """Packages and modules below `mobconv`, floor by floor, the highest first; those of one floor side by side."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip().removeprefix("mobconv.") for name in layer.replace(":", "|").split("|")] for layer in layers]


def summary(name: str) -> str:
    """The first sentence of a package's or module's docstring."""
    path = ROOT / "mobconv" / name
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    docstring = ast.get_docstring(ast.parse(source.read_text())) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def house() -> list[str]:
    """A table of the floors."""
    lines = ["| floor | package | what it does |", "| ---: | --- | --- |"]
    count = len(floors())
    for number, names in enumerate(floors()):
        for name in names:
            lines.append(f"| {count - number} | `{name}` | {summary(name)} |")
    return lines
