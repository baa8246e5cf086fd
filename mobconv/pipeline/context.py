"""What cells are built from and measured on: checkpoint, data, program and templates, each loaded when first needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mobconv.backends.base import Backend, Entry, Runner
from mobconv.data import labelled
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import UsageError, setting
from mobconv.evaluate import class_names, tasks
from mobconv.evaluate.inference import Outputs, predict_in_torch
from mobconv.evaluate.input_spec import check_network_input
from mobconv.evaluate.tasks import Task
from mobconv.model import labels
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.program import Program
from mobconv.pipeline import templates
from mobconv.pipeline.measure import Scored, score
from mobconv.pipeline.quantized import SchemeFor, quantize_model, same_scheme
from mobconv.pipeline.reference import reference
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Compute, Scheme

Stage = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How cells are made from a checkpoint.

    data, limit  reference of a data set, and how many samples of it are taken; None for no data, all samples
    skip_bad     leave out images that cannot be decoded
    name_classes whether a network without labels gets the data's class names
    input        what files take: a kind of image_input.INPUTS
    options      options of backends by their names, as `Backend.options` checks them
    scheme_for   layer rules
    threads      of runtimes, PyTorch and quantizer; 0 for all cores
    """

    data: str | None = None
    limit: int | None = None
    skip_bad: bool = False
    name_classes: bool = True
    task: str = "classification"
    input: str = "image"
    options: Mapping[str, Any] = field(default_factory=dict)
    scheme_for: SchemeFor = same_scheme
    threads: int = 0


@dataclass(frozen=True)
class Quantized:
    """A scheme applied to the network, and the seconds that took."""

    model: QuantizedModel
    seconds: float


@dataclass(frozen=True)
class Reference:
    """The program with a scheme's dequantized weights, run in PyTorch on the data, and the seconds that took."""

    scored: Scored
    seconds: float


class Context:
    """Lazily loaded inputs of cells.

    load: the checkpoint; folder: where templates are kept; stage: called with a line when a long step begins.
    A process of a sweep has one, and so has an export.
    """

    def __init__(self, load: Callable[[], Checkpoint], plan: Plan, folder: Path, stage: Stage | None = None) -> None:
        self._load, self.plan, self.folder = load, plan, folder
        self.stage = stage or (lambda text: None)
        self._entries: dict[str, Entry] = {}
        self._quantized: dict[Scheme, Quantized] = {}
        self._references: dict[Scheme, Reference] = {}
        self._float_runners: dict[Path, Runner] = {}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Loaded. Raises what loading raises."""
        return self._load()

    @property
    def task(self) -> Task:
        """What the outputs mean."""
        return tasks.get(self.plan.task)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Of the network. Raises UsageError where it is not known."""
        preprocessing = self.checkpoint.preprocessing
        if preprocessing is None:
            raise UsageError(
                f"{self.checkpoint.reference} does not say how pixels are normalised; give {setting('preprocessing')} "
                "with mean and std, or `raw` for a network that takes pixels of 0 to 255"
            )
        return preprocessing

    @cached_property
    def data(self) -> Images:
        """Decoded samples. Raises InputError where they cannot be read."""
        return self.load_data()

    def load_data(self) -> Images:
        """Read and decode the data set, and match its classes with the network's labels."""
        assert self.plan.data is not None
        preprocessing = self.preprocessing
        images = labelled.load(
            self.plan.data, self.plan.limit, preprocessing.fit, preprocessing.channels, self.plan.skip_bad
        )
        if self.plan.task != "classification":
            return images
        checkpoint = self.checkpoint
        images, doubt = class_names.match(images, checkpoint.labels, self.classes, checkpoint.reference)
        return replace(images, notes=(*images.notes, doubt)) if doubt else images

    @cached_property
    def classes(self) -> int | None:
        """Number of the network's classes; None for other outputs."""
        outputs = self.checkpoint.run(self.checkpoint.example)
        return labels.classes({name: value.shape for name, value in outputs.items()})

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, checked: the checkpoint's, else the data's where there is one for each output.

        Raises InputError for labels that are equal, or not as many as the network has outputs.
        """
        checkpoint = self.checkpoint
        if checkpoint.labels:
            labels.check(checkpoint.labels, checkpoint.reference)
            outputs = checkpoint.run(checkpoint.example)
            shapes = {name: value.shape for name, value in outputs.items()}
            labels.check_number(checkpoint.labels, shapes, checkpoint.reference)
            return checkpoint.labels
        if self.plan.data is None or not self.plan.name_classes or self.classes is None:
            return ()
        names = labelled.class_names(self.plan.data)
        if len(names) != self.classes or all(name.isdecimal() for name in names):
            return ()
        labels.check(names, self.plan.data)
        return names

    @cached_property
    def program(self) -> Program:
        """Traced, batch norms folded."""
        checkpoint = self.checkpoint
        self.stage("trace")
        return checkpoint.trace()

    def run_baseline(self) -> Scored:
        """Run the untouched module on the data. Raises InputError where data, labels and network do not fit."""
        checkpoint, data = self.checkpoint, self.data
        self.labels  # noqa: B018  checked before the first file is written
        name, example = next(iter(checkpoint.example.items()))
        check_network_input(data, example.shape, checkpoint.reference)
        preprocessing = self.preprocessing
        self.stage("float baseline")
        outputs = predict_in_torch(
            lambda part: checkpoint.run({name: preprocessing(part)}), data.pixels, self.plan.threads
        )
        return score(self.task, outputs, data)

    def quantized(self, scheme: Scheme) -> Quantized:
        """The network's weights under a scheme; kept until the next scheme is asked for."""
        if scheme not in self._quantized:
            self.stage(f"quantize {scheme}")
            start = time.perf_counter()
            model = quantize_model(self.program, scheme, self.plan.scheme_for, self.plan.threads)
            self._quantized = {scheme: Quantized(model, time.perf_counter() - start)}
        return self._quantized[scheme]

    def reference(self, scheme: Scheme) -> Reference:
        """The reference of a scheme, run on the data; kept until the next scheme is asked for."""
        if scheme not in self._references:
            model = self.quantized(scheme).model
            start = time.perf_counter()
            program, preprocessing = reference(self.program, model, scheme), self.preprocessing
            name = next(iter(program.example))

            def run(part: Any) -> Outputs:
                outputs = program.run({name: preprocessing(part)})
                return {output: np.asarray(value, np.float32) for output, value in outputs.items()}

            scored = score(self.task, predict_in_torch(run, self.data.pixels, self.plan.threads), self.data)
            self._references = {scheme: Reference(scored, time.perf_counter() - start)}
        return self._references[scheme]

    def entry(self, backend: Backend) -> Entry:
        """The program as a backend converts it, and what callers of its files do to pixels."""
        if backend.name not in self._entries:
            checkpoint, options = self.checkpoint, self.options(backend)
            self._entries[backend.name] = backend.image_entry(
                self.program, checkpoint.preprocessing, self.labels, self.plan.input, options
            )
        return self._entries[backend.name]

    def options(self, backend: Backend) -> Any:
        """The backend's own options, checked; None where it has none. Raises UsageError."""
        return backend.options(self.plan.options.get(backend.name, {}))

    def template(self, backend: Backend, compute: Compute) -> Path:
        """The folder of a template, converted now unless it is there. Raises what the converter raises."""
        entry = self.entry(backend)
        text = f"convert to {backend.name} ({compute})"
        return templates.template(backend, entry, compute, self.folder, lambda: self.stage(text))

    def float_runner(self, backend: Backend, compute: Compute) -> Runner:
        """A runner of the fp32 file of a template, on one thread: the baseline of latency ratios. Stays open."""
        folder = self.template(backend, compute)
        if folder not in self._float_runners:
            path = templates.float_artifact(backend, folder, self.entry(backend).program, compute)
            self._float_runners[folder] = backend.open(path, threads=1)
        return self._float_runners[folder]

    def close(self) -> None:
        """Close the runners that are open."""
        for runner in self._float_runners.values():
            runner.close()
        self._float_runners.clear()
