"""Cells -> artifacts -> rows: one conversion a backend, one quantization a scheme, every file read back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv import backends, evaluate, feeding, files, pixels, recipe, results, templates
from mobconv.backends.base import Backend, Runner
from mobconv.checkpoint import Checkpoint
from mobconv.data import Images
from mobconv.errors import InputError, MobconvError, OutputError
from mobconv.preprocessing import Preprocessing
from mobconv.quantize import QuantizedWeight, Weight, quantize
from mobconv.reference import reference
from mobconv.results import Cliff, Results, Row
from mobconv.schemes import Cell, Compute, Scheme
from mobconv.trace import Program

Floats = NDArray[np.float32]


class Watcher:
    """Told of progress; does nothing by itself."""

    def stage(self, text: str) -> None:
        """Something long begins."""

    def row(self, row: Row) -> None:
        """A cell is done, or cannot be."""


@dataclass
class Seconds:
    """Seconds by stage."""

    spent: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent[stage] = round(self.spent.get(stage, 0.0) + time.perf_counter() - start, 4)


@dataclass
class Quantized:
    """A scheme applied to the whole network, and what its reference computes."""

    weights: dict[str, Weight]
    outputs: Floats
    top1: float
    seconds: float
    reference_seconds: float


def quantize_all(program: Program, scheme: Scheme, rules: recipe.Recipe | None = None) -> dict[str, Weight]:
    """Every site's weight under a scheme and a recipe's layer rules. Threads: numpy and numba release the GIL."""
    values = program.floats()

    def one(name: str) -> Weight:
        own = rules.scheme_for(name, scheme) if rules else scheme
        return quantize(name, values[name], program.sites[name].axis, own)

    # the largest first, lest one be left over for a single thread at the end
    order = sorted(program.sites, key=lambda name: -values[name].size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = dict(zip(order, pool.map(one, order), strict=True))
    return {name: done[name] for name in program.sites}


def record(cell: Cell, checkpoint: Checkpoint, takes: Preprocessing | None) -> str:
    """What travels in an artifact: cell, hash of the checkpoint, labels, the network's preprocessing, and as `input`
    what of it the file leaves to its caller; as JSON."""
    content: dict[str, Any] = {"cell": cell.name, "checkpoint": checkpoint.sha256, "labels": list(checkpoint.labels)}
    if checkpoint.preprocessing is not None:
        content["preprocessing"] = checkpoint.preprocessing.to_json()
    if takes is not None:
        content["input"] = takes.to_json()
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def describe(weights: Mapping[str, Weight], scheme: Scheme) -> dict[str, int]:
    """How many weights a cell quantizes, and in how many tensors fp16 cannot hold the parameters."""
    counted = [w for w in weights.values() if scheme.mode is None or isinstance(w, QuantizedWeight)]
    return {
        "parameters": sum(int(w.codes.size if isinstance(w, QuantizedWeight) else w.values.size) for w in counted),
        "fp32_tensors": sum(isinstance(w, QuantizedWeight) and not w.fp16 for w in counted),
    }


class Sweep:
    """One run over cells. Rows come out in the order of `cells`, whatever order they are made in."""

    def __init__(
        self, plan: recipe.Recipe, checkpoint: Checkpoint, images: Images, out: Path, watcher: Watcher | None = None
    ) -> None:
        """Raises InputError when data and network do not fit together."""
        self.plan, self.checkpoint, self.images, self.out = plan, checkpoint, images, out
        self.watcher = watcher or Watcher()
        if checkpoint.preprocessing is None:
            raise InputError(
                f"{checkpoint.path} does not say how pixels are normalised; give `preprocessing` with mean and std"
            )
        self.preprocessing = checkpoint.preprocessing
        self.predictions: dict[str, NDArray[np.int64]] = {"labels": images.labels}
        if images.groups is not None:
            self.predictions["groups"] = images.groups
        self._entrances: dict[str, tuple[Program, Preprocessing | None]] = {}
        self._quantized: dict[Scheme, Quantized] = {}
        self._baselines: dict[Path, Runner] = {}

    def run(self, cells: Sequence[Cell]) -> Results:
        """Make, read back and measure every cell, and write the results beside the artifacts.

        A cell that fails is a row, and the next one follows; OutputError and interruptions end the sweep.
        """
        files.ensure_folder(self.out)
        sample = next(iter(self.checkpoint.example.values()))
        evaluate.check_shape(self.images, sample.shape, str(self.checkpoint.path))
        self.watcher.stage("float baseline")
        outputs = evaluate.predict(lambda part: self.checkpoint.run(self.preprocessing(part)), self.images.pixels)
        evaluate.check_labels(self.images, outputs.shape[1])
        self.float_top1 = evaluate.accuracy(outputs, self.images.labels).top1
        self.predictions["float"] = outputs.argmax(axis=1)
        self.watcher.stage("trace")
        self.program = self.checkpoint.trace()
        self.plan.check_layers(list(self.program.sites))
        rows: dict[str, Row] = {}
        ready = self._convert(cells, rows)
        try:
            # scheme by scheme, so that one quantization serves all backends
            for cell in sorted(ready, key=lambda cell: list(dict.fromkeys(c.scheme for c in cells)).index(cell.scheme)):
                rows[cell.name] = self._cell(cell, ready[cell])
                self.watcher.row(rows[cell.name])
        finally:
            for runner in self._baselines.values():
                runner.close()
        ordered = [rows[cell.name] for cell in cells]
        return self._write(ordered)

    def _convert(self, cells: Sequence[Cell], rows: dict[str, Row]) -> dict[Cell, tuple[Backend, Path, float]]:
        """Templates for the cells that have one; rows for those that cannot."""
        ready: dict[Cell, tuple[Backend, Path, float]] = {}
        made: dict[tuple[str, Compute], tuple[Path, float] | str] = {}
        for cell in cells:
            backend = backends.get(cell.backend)
            missing, support = backend.missing(), backend.support(cell)
            if missing or support.stored_bits is None:
                rows[cell.name] = Row.of(cell, results.UNSUPPORTED, reason=missing or support.reason)
                self.watcher.row(rows[cell.name])
                continue
            key = (cell.backend, cell.compute)
            if key not in made:
                self.watcher.stage(f"convert to {backend.name} ({cell.compute})")
                start = time.perf_counter()
                try:
                    path = templates.template(backend, self._entrance(backend)[0], cell.compute, self.out)
                    made[key] = (path, time.perf_counter() - start)
                except OutputError:
                    raise
                except Exception as error:  # a converter may raise anything; its cells say so
                    _stop_when_full(error, self.out)
                    made[key] = _reason(error)
            done = made[key]
            if isinstance(done, str):
                rows[cell.name] = Row.of(cell, results.FAILED, reason=f"conversion: {done}")
                self.watcher.row(rows[cell.name])
            else:
                ready[cell] = (backend, *done)
        return ready

    def _cell(self, cell: Cell, made: tuple[Backend, Path, float]) -> Row:
        seconds = Seconds({"convert": round(made[2], 4)})
        try:
            return self._measure(cell, made[0], made[1], seconds)
        except OutputError:
            raise
        except Exception as error:  # whatever a runtime raises: the sweep goes on
            _stop_when_full(error, self.out)
            self.predictions.pop(cell.name, None)
            # no file may stand beside a row that does not vouch for it
            with suppress(OSError):
                files.remove(self.out / cell.path(made[0].suffix))
            return Row.of(cell, results.FAILED, reason=_reason(error), seconds=seconds.spent)

    def _measure(self, cell: Cell, backend: Backend, folder: Path, seconds: Seconds) -> Row:
        quantized = self._quantize(cell.scheme)
        # of a scheme, and shared by its cells, as that of the conversion is by a backend's
        seconds.spent["quantize"] = round(quantized.seconds, 4)
        seconds.spent["reference"] = round(quantized.reference_seconds, 4)
        self.watcher.stage(f"run {cell}")
        relative = cell.path(backend.suffix)
        path = self.out / relative
        with seconds.of("encode"):
            told = record(cell, self.checkpoint, self._entrance(backend)[1])
            encoded = backend.encode(folder, quantized.weights, cell, path, told)
        with seconds.of("load"):
            runner = backend.open(path, self.plan.threads)
        verified = runner.verified
        with seconds.of("run"):
            outputs = self._outputs(backend, path, runner)
        timing = None
        if verified != "emulated":
            with seconds.of("latency"):
                timing = self._time(backend, path, self._baseline(backend, folder, cell.compute))
        self.predictions[cell.name] = outputs.argmax(axis=1)
        right = evaluate.accuracy(outputs, self.images.labels)
        near = evaluate.closeness(outputs, quantized.outputs)
        row = results.of_file(
            cell,
            encoded,
            path,
            str(relative),
            describe(quantized.weights, cell.scheme),
            verified,
            timing,
            images=len(self.images),
            top1=right.top1,
            top5=right.top5,
            reference_top1=quantized.top1,
            quantization_loss=round((self.float_top1 - quantized.top1) * 100, 4),
            conversion_loss=round((quantized.top1 - right.top1) * 100, 4),
            agreement=near.agreement,
            snr_db=near.snr_db,
            max_error=near.max_error,
            load_ms=round(seconds.spent["load"] * 1e3, 2),
            seconds=seconds.spent,
        )
        row.note = "; ".join(text for text in (row.note, self._ruled(cell.scheme)) if text)
        return row

    def _ruled(self, scheme: Scheme) -> str:
        """What the recipe's layer rules changed in a cell, to stand beside its row; empty for nothing."""
        own = [self.plan.scheme_for(name, scheme).name for name in self.program.sites]
        others = [f"{own.count(name)} at {name}" for name in dict.fromkeys(own) if name != scheme.name]
        return f"layer rules: of {len(own)} weights {', '.join(others)}" if others else ""

    def _entrance(self, backend: Backend) -> tuple[Program, Preprocessing | None]:
        """The program as a backend converts it, and what goes into its files."""
        if backend.name not in self._entrances:
            held = self.checkpoint
            made = pixels.entrance(self.program, self.preprocessing, held.labels, backend, self.plan.input)
            if self.plan.image_type is not None:
                said = self.plan.image_type
                made = pixels.scaled_by_coremltools(
                    self.program, self.preprocessing, held.labels, said.scale, tuple(said.bias)
                )
            self._entrances[backend.name] = made
        return self._entrances[backend.name]

    def _feed(self, backend: Backend, runner: Runner) -> evaluate.Feed:
        return feeding.feed(self._entrance(backend)[1] or self.preprocessing, runner.inputs[0])

    def _outputs(self, backend: Backend, path: Path, runner: Runner) -> Floats:
        """Outputs for all images; closes the runner."""
        try:
            if runner.verified == "emulated":  # torch has threads of its own, one pool for the process
                return evaluate.predict(evaluate.of_runner(runner, self._feed(backend, runner)), self.images.pixels)
            feed = self._feed(backend, runner)
        finally:
            runner.close()
        workers = self.plan.threads or os.cpu_count() or 1
        return evaluate.predict_side_by_side(lambda: backend.open(path, threads=1), self.images.pixels, workers, feed)

    def _time(self, backend: Backend, path: Path, baseline: Runner) -> evaluate.Latency:
        """On one thread: some kernels leave a second one idle, and a busy machine then decides the ratio."""
        runner = backend.open(path, threads=1)
        try:
            return evaluate.latency(runner, baseline, self._feed(backend, runner)(self.images.pixels[:1]))
        finally:
            runner.close()

    def _quantize(self, scheme: Scheme) -> Quantized:
        """Weights and reference outputs of a scheme, kept only until the next scheme comes."""
        if scheme not in self._quantized:
            self.watcher.stage(f"quantize {scheme}")
            start = time.perf_counter()
            weights = quantize_all(self.program, scheme, self.plan)
            spent = time.perf_counter() - start
            start = time.perf_counter()
            program = reference(self.program, weights, scheme)
            name, output = next(iter(program.example)), program.outputs[0]
            outputs = evaluate.predict(
                lambda part: np.asarray(program.run({name: self.preprocessing(part)})[output], np.float32),
                self.images.pixels,
            )
            top1 = evaluate.accuracy(outputs, self.images.labels).top1
            self._quantized = {scheme: Quantized(weights, outputs, top1, spent, time.perf_counter() - start)}
        return self._quantized[scheme]

    def _baseline(self, backend: Backend, folder: Path, compute: Compute) -> Runner:
        if folder not in self._baselines:
            path = templates.float_artifact(backend, folder, self._entrance(backend)[0], compute)
            self._baselines[folder] = backend.open(path, threads=1)
        return self._baselines[folder]

    def _write(self, rows: list[Row]) -> Results:
        from mobconv import __version__
        from mobconv.report import tables

        drops: list[Cliff] = results.cliffs(rows, self.float_top1, self.plan.margin)
        versions = {"mobconv": __version__, "torch": _torch_version()}
        for name in dict.fromkeys(row.backend for row in rows):
            if backends.get(name).missing() is None:
                versions.update(backends.get(name).versions())
        found = Results(
            model={
                "path": self.checkpoint.path.name,
                "sha256": self.checkpoint.sha256,
                "parameters": sum(int(p.numel()) for p in self.checkpoint.module.parameters()),
                "quantizable_weights": sum(int(np.prod(site.shape)) for site in self.program.sites.values()),
            },
            data={"source": Path(self.images.source).name, "sha256": self.images.sha256, "images": len(self.images)},
            tools=versions,
            float_top1=self.float_top1,
            cells=rows,
            cliffs=drops,
        )
        results.write(self.out, found, self.predictions, tables.markdown(found))
        return found


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _stop_when_full(error: Exception, out: Path) -> None:
    """A full disk is no failure of one cell: raise OutputError."""
    if files.disk_full(error):
        raise OutputError(f"{out}: the disk is full; free some space and run the same command again") from error


def _reason(error: Exception) -> str:
    """One line for a row: ours as they are, others with their type."""
    text = str(error).strip()
    return text if isinstance(error, MobconvError) else f"{type(error).__name__}: {text.partition(chr(10))[0]}"
