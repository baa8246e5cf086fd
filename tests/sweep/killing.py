"""Sweeps as processes that can be killed, started from one that has the heavy imports behind it."""

import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from mobconv.common.files import sha256

HEAVY = ["torch", "datasets", "onnxruntime", "mobconv.quantize", "mobconv.sweep"]
TIMINGS = {"latency_ms", "latency_ratio", "load_ms", "seconds"}


def _sweep(arguments, folder, log):
    os.chdir(folder)
    with Path(log).open("a") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    from mobconv.cli.app import run

    code = run(arguments)
    sys.stdout.flush()
    os._exit(code)


class Sweeps:
    """Starts `mobconv sweep RECIPE -o FOLDER`; each is forked from a server that imported what is heavy."""

    def __init__(self):
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(HEAVY)

    def start(self, recipe, out, *more):
        """A running sweep."""
        out.mkdir(parents=True, exist_ok=True)
        arguments = ["sweep", str(recipe), "-o", str(out), *more]
        process = self.context.Process(target=_sweep, args=(arguments, recipe.parent, str(out / "log.txt")))
        process.start()
        return process

    def run(self, recipe, out, *more):
        """A sweep to its end -> its exit code."""
        process = self.start(recipe, out, *more)
        process.join()
        return process.exitcode


def kill(process):
    """SIGKILL; whether it was still running."""
    alive = process.is_alive()
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return alive


def wait(condition, process, seconds=300):
    """Wait for something that a process is to bring about."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive() and time.monotonic() < end, "it never came"
        time.sleep(0.005)


def records(out):
    """Names of the cells that have a record."""
    folder = out / ".cells"
    return sorted(p.relative_to(folder).with_suffix("").as_posix() for p in folder.glob("*/*.npz") if p.name[0] != ".")


def artifacts(out):
    """Cell -> path of its artifact, as they lie there."""
    kinds = {".onnx", ".tflite", ".mlpackage", ".mlmodel"}
    found = (path for path in out.glob("*/*") if path.suffix in kinds and path.parent.name[0] != ".")
    return {path.relative_to(out).with_suffix("").as_posix(): path for path in found}


def stamps(out, cells):
    """What tells a file that was written again from one that was not: inode and time, of each file of an artifact."""
    held = artifacts(out)
    found = {}
    for cell in cells:
        files = [held[cell], *held[cell].rglob("*")] if held[cell].is_dir() else [held[cell]]
        found[cell] = [(p.name, p.stat().st_ino, p.stat().st_mtime_ns) for p in sorted(files)]
    return found


def outcome(out):
    """Results of a sweep without timings, hashes of its artifacts, scores of samples."""
    found = json.loads((out / "results.json").read_text())
    for row in found["cells"]:
        for name in TIMINGS:
            row.pop(name)
    with np.load(out / "scores.npz") as archive:
        scores = {name: archive[name].tolist() for name in archive.files}
    return found, {cell: sha256(path) for cell, path in sorted(artifacts(out).items())}, scores


def partial(out):
    """What only a writer at work may have."""
    return [path for path in out.rglob("*") if "partial" in path.name or path.name in ("making", ".lock")]
