"""Runs the benchmarks, one process each and one after the other, and writes benchmarks/RESULTS.md.

    python benchmarks/run.py [--only NAME]... [arguments that every benchmark takes]

With --only, the sections of the others stay as they are, if they were measured on the same machine with the same tools.
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
NAMES = ("size", "onnx_packed", "tflite_packed", "executor", "vendors", "grid", "overhead", "workers")
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
    """The CPU, its cores, and versions, as a part of RESULTS.md."""
    tools = []
    for name in TOOLS:
        try:
            tools.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            tools.append(f"{name} not installed")
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return f"{cpu()}, {os.cpu_count()} cores; {system}.\n\n{', '.join(tools)}."


def cpu() -> str:
    """Model name, with family and model number, which tell generations apart where names are bare."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", text, re.MULTILINE))
    numbers = ", ".join(f"{key} {found[key]}" for key in ("cpu family", "model") if key in found)
    return f"{found.get('model name', platform.machine())} ({numbers})"


def kept(text: str, about: str) -> dict[str, str]:
    """The sections of an earlier RESULTS.md, if it is of this machine and these tools."""
    if about not in text:
        return {}
    parts = re.findall(r"<!-- (\w+) -->\n(.*?)<!-- end -->", text, re.DOTALL)
    return {name: body.strip() + "\n" for name, body in parts}


def assemble(about: str, sections: dict[str, str]) -> str:
    """RESULTS.md, sections in their order."""
    parts = [f"{_INTRO}\n\n{about}\n"]
    for name in NAMES:
        if name in sections:
            parts.append(f"{_MARK.format(name)}\n{sections[name]}{_MARK.format('end')}\n")
    return "\n".join(parts)


def measure(name: str, arguments: list[str], folder: Path) -> dict | None:
    """One benchmark in a process of its own; None where it fails, its own words on stderr."""
    written = folder / f"{name}.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments, "--write", str(written)]
    done = subprocess.run(command, check=False, env=environment)
    return json.loads(written.read_text()) if done.returncode == 0 and written.exists() else None


def main() -> int:
    """Exit code 1 where a benchmark failed to run; a limit that is missed is a result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", choices=NAMES, help="one benchmark; may be given again")
    parser.add_argument("--recipe", type=Path, help="of overhead")
    parser.add_argument("-o", "--out", type=Path, default=RESULTS, help="where to write (%(default)s)")
    options, arguments = parser.parse_known_args()
    console, about = Console(stderr=True), machine()
    sections = kept(options.out.read_text(), about) if options.out.exists() else {}
    failed = []
    names = options.only or NAMES
    with tempfile.TemporaryDirectory(prefix="mobconv-bench-") as folder:
        for number, name in enumerate(names, 1):
            console.print(f"[bold]{name}[/] ({number} of {len(names)})")
            more = ["--recipe", str(options.recipe)] if options.recipe and name == "overhead" else []
            found = measure(name, [*arguments, *more], Path(folder))
            if found is None:
                failed.append(name)
                console.print(f"  [red]{name} failed[/]")
                continue
            sections[name] = found["markdown"]
            options.out.write_text(assemble(about, sections))
            for verdict in found["verdicts"]:
                console.print("  " + line(verdict), highlight=False)
            console.print(f"  {found['took']:.0f} s", highlight=False)
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
