"""Where cells are made and measured: checkpoint, images, program and templates, each loaded when it is needed.

A sweep has one in its own process, and each of its workers one of its own. Big things come from files, not messages.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobconv import backends, recipe, results
from mobconv.backends.base import Backend, Encoded, Runner
from mobconv.common import files
from mobconv.data import labelled
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import InputError, MobconvError, OutputError, UsageError
from mobconv.evaluate import inference, input_spec, latency, output_error
from mobconv.evaluate.tasks import classification
from mobconv.model import image_input
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.trace import Program
from mobconv.pipeline import templates
from mobconv.pipeline.network import describe, quantize_all, record
from mobconv.pipeline.reference import reference
from mobconv.quantize import Weight
from mobconv.results import OK, Row
from mobconv.schemes import Cell, Compute, Scheme
from mobconv.sweep import keys
from mobconv.sweep.job import Job
from mobconv.sweep.store import Network, Record, Store

Floats = NDArray[np.float32]
Stage = Callable[[str], None]


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


class Bench:
    """One process's share of a sweep.

    threads: of runtimes, PyTorch and quantizer; 0 for all cores. stage: told when something long begins.
    """

    def __init__(
        self, job: Job, inputs: keys.Inputs, store: Store, threads: int = 0, stage: Stage | None = None
    ) -> None:
        self.job, self.plan, self.inputs, self.store, self.threads = job, job.plan, inputs, store, threads
        self.stage = stage or (lambda text: None)
        self._entrances: dict[str, tuple[Program, Preprocessing | None]] = {}
        self._quantized: dict[Scheme, Quantized] = {}
        self._baselines: dict[Path, Runner] = {}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Loaded. Raises InputError, also for a file that changed since the sweep began."""
        found = self.job.load()
        if found.sha256 != self.inputs.checkpoint:
            raise InputError(f"{self.plan.checkpoint} changed while the sweep ran; run the same command again")
        return found

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Of the network. Raises UsageError where it is not known."""
        if self.checkpoint.preprocessing is None:
            raise UsageError(
                f"{self.checkpoint.path} does not say how pixels are normalised; give `preprocessing` with mean and "
                "std, or `raw` for a network that takes pixels of 0 to 255"
            )
        return self.checkpoint.preprocessing

    @cached_property
    def images(self) -> Images:
        """Decoded, or as another process of this sweep decoded them."""
        held = self._pixels
        if held.exists():
            found = self.network
            return Images(found.source, np.load(held, mmap_mode="r"), found.labels, (), found.pixels, found.groups)
        with recipe.in_its_words():
            loaded = labelled.load(self.plan.data, self.plan.images, self.preprocessing.fit)
        if keys.images(self.plan.data, self.plan.images) not in (None, self.inputs.data):
            raise InputError(f"{self.plan.data} changed while the sweep ran; run the same command again")
        return loaded

    @property
    def _pixels(self) -> Path:
        return self.store.making / "pixels.npy"

    def share_images(self) -> None:
        """Leave the pixels where the sweep's other processes find them."""
        images = self.images
        with files.aside(self._pixels) as partial, partial.open("wb") as stream:
            np.save(stream, images.pixels)

    @property
    def network_key(self) -> str:
        """What the float baseline is kept under."""
        if self.inputs.data is None:  # from the hub: known once it is loaded
            return replace(self.inputs, data=self.images.sha256).network
        return self.inputs.network

    @cached_property
    def network(self) -> Network:
        """The float baseline, from an earlier sweep or run now. Raises InputError where data and network do not fit."""
        kept = self.store.network(self.network_key)
        if kept is not None:
            return kept
        held, images = self.checkpoint, self.images
        sample = next(iter(held.example.values()))
        input_spec.check_network_shape(images, sample.shape, str(held.path))
        self.stage("float baseline")
        outputs = inference.predict_in_torch(
            lambda part: held.run(self.preprocessing(part)), images.pixels, self.threads
        )
        classification.check_labels(images, outputs.shape[1])
        sites = self.program.sites
        top1 = classification.accuracy(outputs, images.labels).top1
        notes = list(held.notes)
        if guesses := classification.guessing(top1, outputs.shape[1]):
            notes.append(guesses)
        found = Network(
            path=held.path.name,
            sha256=held.sha256,
            parameters=sum(int(p.numel()) for p in held.module.parameters()),
            quantizable_weights=sum(int(np.prod(site.shape)) for site in sites.values()),
            sites=list(sites),
            notes=notes,
            float_top1=top1,
            source=Path(images.source).name,
            pixels=images.sha256,
            predictions=outputs.argmax(axis=1),
            labels=images.labels,
            groups=images.groups,
        )
        self.store.put_network(self.network_key, found)
        return found

    @cached_property
    def program(self) -> Program:
        """Traced and folded."""
        held = self.checkpoint
        self.stage("trace")
        return held.trace()

    def template(self, backend: Backend, compute: Compute) -> Path:
        """The folder of a template, converted now unless it is there. Raises whatever a converter raises."""
        program = self._entrance(backend)[0]
        told = f"convert to {backend.name} ({compute})"
        return templates.template(backend, program, compute, self.store.out, lambda: self.stage(told))

    def make(self, cell: Cell, key: str, template: str, convert_seconds: float, timing: bool = True) -> Row:
        """Make a cell, read it back, measure it, and keep it; a cell that fails is a row.

        template: name of its folder; timing: also time it, now. Raises OutputError, SupersededError for
        one where another sweep has begun.
        """
        seconds = Seconds({"convert": round(convert_seconds, 4)})
        try:
            with self.store.workplace() as place:
                return self._measure(cell, key, template, place, seconds, timing)
        except Exception as error:  # whatever a runtime raises: the sweep goes on
            self.stop_when_full(error)
            row = Row.of(cell, results.FAILED, reason=reason(error), seconds=seconds.spent)
            self.store.put(cell, Record(key, row))
            return row

    def time(self, cell: Cell, key: str) -> Row:
        """Take the timings of a cell that was made without, and keep them. Raises InputError where it is not there."""
        kept = self.store.get(cell, key)
        if kept is None:
            raise InputError(f"{self.store.out / cell.name} changed while the sweep ran; run the same command again")
        backend, seconds = backends.get(cell.backend), Seconds(kept.row.seconds)
        path = self.store.out / str(kept.row.path)
        try:
            start = time.perf_counter()
            backend.open(path, self.threads).close()
            load_ms = round((time.perf_counter() - start) * 1e3, 2)
            with seconds.of("latency"):
                timing = self._time(backend, path, self._baseline(backend, cell.compute))
            row = replace(kept.row, latency_ms=timing.ms, latency_ratio=timing.ratio, load_ms=load_ms)
            row.seconds = seconds.spent
        except Exception as error:
            self.stop_when_full(error)
            row = Row.of(cell, results.FAILED, reason=reason(error), seconds=seconds.spent)
        self.store.put(cell, Record(key, row, True, kept.predictions if row.status == OK else None))
        return row

    def fail(self, cell: Cell, key: str, why: str) -> Row:
        """Keep a row for a cell that cannot be tried again."""
        row = Row.of(cell, results.FAILED, reason=why)
        self.store.put(cell, Record(key, row))
        return row

    def close(self) -> None:
        """Let go of the runners that stay open."""
        for runner in self._baselines.values():
            runner.close()
        self._baselines.clear()

    def stop_when_full(self, error: Exception) -> None:
        """Raise what ends the sweep: a full disk is no failure of one cell."""
        if isinstance(error, OutputError):
            raise error
        if files.disk_full(error):
            out = self.store.out
            raise OutputError(f"{out}: the disk is full; free some space and run the same command again") from error

    def _measure(self, cell: Cell, key: str, template: str, place: Path, seconds: Seconds, timing: bool) -> Row:
        backend = backends.get(cell.backend)
        quantized = self._quantize(cell.scheme)
        # of a scheme, and shared by its cells, as that of the conversion is by a backend's
        seconds.spent["quantize"] = round(quantized.seconds, 4)
        seconds.spent["reference"] = round(quantized.reference_seconds, 4)
        self.stage(f"run {cell}")
        relative = cell.path(backend.suffix)
        path = place / relative.name
        with seconds.of("encode"):
            told = record(cell, self.checkpoint, self._entrance(backend)[1], self.plan.image_type)
            encoded = backend.encode(self.store.out / templates.FOLDER / template, quantized.weights, cell, path, told)
        with seconds.of("load"):
            runner = backend.open(path, self.threads)
        verified = runner.verified
        with seconds.of("run"):
            outputs = self._outputs(backend, path, runner)
        timed = verified == "emulated" or timing
        latency = None
        if verified != "emulated" and timing:
            with seconds.of("latency"):
                latency = self._time(backend, path, self._baseline(backend, cell.compute))
        row = self._row(cell, encoded, path, str(relative), quantized, outputs, verified, latency, seconds)
        row.note = "; ".join(text for text in (row.note, self._ruled(cell.scheme)) if text)
        self.store.put(cell, Record(key, row, timed, outputs.argmax(axis=1)), path)
        return row

    def _row(
        self,
        cell: Cell,
        encoded: Encoded,
        path: Path,
        shown: str,
        quantized: Quantized,
        outputs: Floats,
        verified: str,
        latency: latency.Latency | None,
        seconds: Seconds,
    ) -> Row:
        right = classification.accuracy(outputs, self.images.labels)
        near = output_error.closeness(outputs, quantized.outputs)
        return results.of_file(
            cell,
            encoded,
            path,
            shown,
            describe(quantized.weights, cell.scheme),
            verified,
            latency,
            images=len(self.images),
            top1=right.top1,
            top5=right.top5,
            reference_top1=quantized.top1,
            quantization_loss=round((self.network.float_top1 - quantized.top1) * 100, 4),
            conversion_loss=round((quantized.top1 - right.top1) * 100, 4),
            agreement=near.agreement,
            snr_db=near.snr_db,
            max_error=near.max_error,
            load_ms=round(seconds.spent["load"] * 1e3, 2),
            seconds=seconds.spent,
        )

    def _ruled(self, scheme: Scheme) -> str:
        """What the recipe's layer rules changed in a cell, to stand beside its row; empty for nothing."""
        own = [self.plan.scheme_for(name, scheme).name for name in self.program.sites]
        others = [f"{own.count(name)} at {name}" for name in dict.fromkeys(own) if name != scheme.name]
        return f"layer rules: of {len(own)} weights {', '.join(others)}" if others else ""

    def _entrance(self, backend: Backend) -> tuple[Program, Preprocessing | None]:
        """The program as a backend converts it, and what goes into its files."""
        if backend.name not in self._entrances:
            held = self.checkpoint
            made = image_input.entrance(self.program, self.preprocessing, held.labels, backend, self.plan.input)
            if self.plan.image_type is not None:
                said = self.plan.image_type
                made = image_input.scaled_by_coremltools(
                    self.program, self.preprocessing, held.labels, said.scale, tuple(said.bias)
                )
            self._entrances[backend.name] = made
        return self._entrances[backend.name]

    def _feed(self, backend: Backend, runner: Runner) -> inference.Feed:
        return input_spec.feed(self._entrance(backend)[1] or self.preprocessing, runner.inputs[0])

    def _outputs(self, backend: Backend, path: Path, runner: Runner) -> Floats:
        """Outputs for all images; closes the runner."""
        try:
            if runner.verified == "emulated":
                if self.threads > 1:  # predict_in_torch has as many, and each would take as many again
                    runner.close()
                    runner = backend.open(path, threads=1)
                run = inference.of_runner(runner, self._feed(backend, runner))
                return inference.predict_in_torch(run, self.images.pixels, self.threads)
            feed = self._feed(backend, runner)
        finally:
            runner.close()
        workers = self.threads or os.cpu_count() or 1
        return inference.predict_side_by_side(lambda: backend.open(path, threads=1), self.images.pixels, workers, feed)

    def _time(self, backend: Backend, path: Path, baseline: Runner) -> latency.Latency:
        """On one thread: some kernels leave a second one idle, and a busy machine then decides the ratio."""
        runner = backend.open(path, threads=1)
        try:
            return latency.latency(runner, baseline, self._feed(backend, runner)(self.images.pixels[:1]))
        finally:
            runner.close()

    def _quantize(self, scheme: Scheme) -> Quantized:
        """Weights and reference outputs of a scheme, kept only until the next scheme comes."""
        if scheme not in self._quantized:
            self.stage(f"quantize {scheme}")
            start = time.perf_counter()
            weights = quantize_all(self.program, scheme, self.plan, self.threads)
            spent = time.perf_counter() - start
            start = time.perf_counter()
            program = reference(self.program, weights, scheme)
            name, output = next(iter(program.example)), program.outputs[0]
            outputs = inference.predict_in_torch(
                lambda part: np.asarray(program.run({name: self.preprocessing(part)})[output], np.float32),
                self.images.pixels,
                self.threads,
            )
            top1 = classification.accuracy(outputs, self.images.labels).top1
            self._quantized = {scheme: Quantized(weights, outputs, top1, spent, time.perf_counter() - start)}
        return self._quantized[scheme]

    def _baseline(self, backend: Backend, compute: Compute) -> Runner:
        folder = self.template(backend, compute)
        if folder not in self._baselines:
            path = templates.float_artifact(backend, folder, self._entrance(backend)[0], compute)
            self._baselines[folder] = backend.open(path, threads=1)
        return self._baselines[folder]


def reason(error: Exception) -> str:
    """One line for a row: ours as they are, others with their type."""
    text = str(error).strip()
    return text if isinstance(error, MobconvError) else f"{type(error).__name__}: {text.partition(chr(10))[0]}"
