"""Run the benchmarks, each in a process of its own, one after the other, and write benchmarks/RESULTS.md.

    python benchmarks/run.py [--only NAME]... [arguments of every benchmark]

With --only, the other sections stay as they are, if they were measured on the same machine with the same tools.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
NAMES = ("size", "onnx_packed", "tflite_packed", "executor", "vendors", "grid", "overhead", "workers", "report_page")
TOOLS = [
    "mobconv",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "coremltools",
    "scikit-learn",
    "kmeans1d",
    "numpy",
]
_MARK = "<!-- {} -->"
_INTRO = """# Benchmarks

Made by `make bench`; never edited by hand. Public tools only, each as its documentation shows it. Both sides of a ratio
run in one process, in turn (A, B, A, B); given is the median of the rounds' ratios and, as spread, their quartiles.
Limits stand beside the figures, met or missed. What each script measures, and how, stands at its top."""


def machine() -> str:
    """The CPU, its cores, and versions of the tools, as a part of RESULTS.md."""
    tools = []
    for name in TOOLS:
        try:
            tools.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            tools.append(f"{name} not installed")
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{cpu()}, {os.cpu_count()} cores; {system}.\n\n{', '.join(tools)}."


def cpu() -> str:
    """Name of the CPU, with family and model number: some names alone do not identify a generation."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    entries = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    numbers = ", ".join(f"{key} {entries[key]}" for key in ("cpu family", "model") if key in entries)
    return f"{entries.get('model name', platform.machine())} ({numbers})"


def kept(text: str, about: str) -> dict[str, str]:
    """Sections of an earlier RESULTS.md by name; none if it is of another machine or other tools."""
    if about not in text:
        return {}
    parts = re.findall(r"<!-- (\w+) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    return {name: body.strip() + "\n" for name, body in parts}


def assemble(about: str, sections: dict[str, str]) -> str:
    """Text of RESULTS.md, sections in the order of NAMES."""
    parts = [f"{_INTRO}\n\n{about}\n"]
    for name in NAMES:
        if name in sections:
            parts.append(f"{_MARK.format(name)}\n{sections[name]}{_MARK.format('end')}\n")
    return "\n".join(parts)


def measure(name: str, arguments: list[str], folder: Path) -> dict | None:
    """Run one benchmark in a process of its own; None where it fails, with its messages on stderr."""
    written = folder / f"{name}.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments, "--write", str(written)]
    done = subprocess.run(command, check=False, env=environment)
    return json.loads(written.read_text()) if done.returncode == 0 and written.exists() else None


def main() -> int:
    """Run the command. The exit code is 1 where a benchmark failed to run; a missed limit is a result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=NAMES, help="one benchmark; may be given again")
    parser.add_argument("--recipe", type=Path, help="recipe of the benchmark overhead")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS, help="file to write (%(default)s)")
    options, arguments = parser.parse_known_args()
    console, about = Console(stderr=True), machine()
    sections = kept(options.out.read_text(), about) if options.out.exists() else {}
    failed = []
    names = options.only or NAMES
    with tempfile.TemporaryDirectory(prefix="mobconv-bench-") as folder:
        for number, name in enumerate(names, 1):
            console.print(f"[bold]{name}[/] ({number} of {len(names)})")
            more = ["--recipe", str(options.recipe)] if options.recipe and name == "overhead" else []
            measured = measure(name, [*arguments, *more], Path(folder))
            if measured is None:
                failed.append(name)
                console.print(f"  [red]{name} failed[/]")
                continue
            sections[name] = measured["markdown"]
            options.out.write_text(assemble(about, sections))
            for verdict in measured["verdicts"]:
                console.print("  " + line(verdict), highlight=False)
            console.print(f"  {measured['took']:.0f} s", highlight=False)
    console.print(f"{options.out} has {len(sections)} of {len(NAMES)} benchmarks")
    return 1 if failed else 0


def line(verdict: dict) -> str:
    """A verdict as a plain line."""
    if verdict["limit"] is None:
        return f"      {verdict['what']}: {verdict['value']:.3g}"
    met = verdict["value"] >= verdict["limit"] if verdict["at_least"] else verdict["value"] <= verdict["limit"]
    sign = ">=" if verdict["at_least"] else "<="
    return f"{'met  ' if met else 'MISSED'} {verdict['what']}: {verdict['value']:.3g} ({sign} {verdict['limit']:g})"


if __name__ == "__main__":
    sys.exit(main())
