"""What cells are built from and measured on: checkpoint, data, program and templates, each loaded when first needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mobconv.backends.base import Backend, Entry, Runner, TensorSpec
from mobconv.data import arrays, labelled
from mobconv.data.arrays import Arrays, Samples
from mobconv.data.chosen import CalibrationData, not_given
from mobconv.data.labelled import Images
from mobconv.data.preprocessing import Preprocessing
from mobconv.errors import UsageError, setting
from mobconv.evaluate import class_names, tasks
from mobconv.evaluate.inference import Feed, Outputs, predict_in_torch, rows
from mobconv.evaluate.input_spec import array_feed, check_arrays, check_network_input
from mobconv.evaluate.tasks import Task, compares_with_float
from mobconv.model import image_input, labels
from mobconv.model.checkpoint import Checkpoint
from mobconv.model.program import Program
from mobconv.pipeline import calibration_data, samples, templates
from mobconv.pipeline.artifact import Artifact
from mobconv.pipeline.calibration import fit_network
from mobconv.pipeline.calibration_data import CalibrationFacts
from mobconv.pipeline.measure import Scored, score
from mobconv.pipeline.quantized import SchemeFor, calibrates, quantize_model, same_scheme
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
    task         what the outputs mean; None for classification
    input        what files take: a kind of image_input.INPUTS
    options      options of backends by their names, as `Backend.options` checks them
    scheme_for   layer rules
    threads      of runtimes, PyTorch and quantizer; 0 for all cores
    calibration  data for schemes that are fitted on some; None for none
    """

    data: str | None = None
    limit: int | None = None
    skip_bad: bool = False
    name_classes: bool = True
    task: Task | None = None
    input: str = "image"
    options: Mapping[str, Any] = field(default_factory=dict)
    scheme_for: SchemeFor = same_scheme
    threads: int = 0
    calibration: CalibrationData | None = None


@dataclass(frozen=True)
class Quantized:
    """A scheme applied to the network, and the seconds that took.

    note: for the rows of its cells; calibration: the data that codes were chosen on; None for the weights alone
    """

    model: QuantizedModel
    seconds: float
    note: str = ""
    calibration: CalibrationFacts | None = None


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

    @cached_property
    def task(self) -> Task:
        """What the outputs mean."""
        return self.plan.task or tasks.get("classification")

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
    def data(self) -> Samples:
        """Decoded samples, with the float network's outputs where the task compares with them.

        Raises InputError where they cannot be read, or do not fit the network.
        """
        data = self.load_data()
        self._check_kind(data)
        return self.with_float_outputs(data) if compares_with_float(self.task) else data

    def with_float_outputs(self, data: Samples) -> Samples:
        """The same samples with the outputs of the untouched module, run now unless they are there.

        Raises InputError where data and network do not fit.
        """
        return data if data.float_outputs is not None else replace(data, float_outputs=self._run_float(data))

    def load_data(self) -> Samples:
        """Read and decode the data set, and match its classes with the network's labels."""
        checkpoint, plan = self.checkpoint, self.plan
        assert plan.data is not None
        inputs = {name: value.shape for name, value in checkpoint.example.items()}
        content = samples.load(plan.data, inputs, lambda: self.preprocessing, plan.limit, self.task, plan.skip_bad)
        if self.task.name != "classification" or not isinstance(content, Images):
            return content
        images, doubt = class_names.match(content, checkpoint.labels, self.classes, checkpoint.reference)
        return replace(images, notes=(*images.notes, doubt)) if doubt else images

    @cached_property
    def calibration(self) -> Samples:
        """Samples that schemes are fitted on, without labels.

        Raises UsageError where the plan has none, or a split that they have not; InputError where they cannot be read.
        """
        return self.load_calibration()

    def load_calibration(self) -> Samples:
        """Choose samples of the calibration data and decode them."""
        wanted, inputs = self.plan.calibration, self.checkpoint.example
        if wanted is None:
            raise not_given("a scheme")
        self.stage("calibration data")
        shapes = {name: value.shape for name, value in inputs.items()}
        return samples.choose(wanted, shapes, lambda: self.preprocessing, self.plan.skip_bad)

    @cached_property
    def calibration_facts(self) -> CalibrationFacts:
        """What rows and artifacts say of the calibration data, compared with the data.

        Raises UsageError for samples that are in both, unless the plan allows it.
        """
        content, wanted = self.calibration, self.plan.calibration
        assert wanted is not None
        feed, data = self._feed(content), self.data if self.plan.data is not None else None
        return calibration_data.facts(wanted, content, feed, data, None if data is None else self._feed(data))

    def calibrates(self, scheme: Scheme) -> bool:
        """Whether a scheme, with the plan's layer rules, is fitted on calibration data."""
        return calibrates(self.program.sites, scheme, self.plan.scheme_for)

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
        source = self.plan.data
        if source is None or not self.plan.name_classes or self.task.name != "classification" or self.classes is None:
            return ()
        if "data" in vars(self):
            names = self.data.names
        else:
            names = () if arrays.accepts(source) else labelled.class_names(source)
        if len(names) != self.classes or all(name.isdecimal() for name in names):
            return ()
        labels.check(names, source)
        return names

    def _check_kind(self, data: Samples) -> None:
        """Raise UsageError where the data has arrays, and files would take pixels."""
        if isinstance(data, Images) or self.plan.input == "tensor":
            return
        if image_input.is_image(self.program, self.checkpoint.preprocessing):
            raise UsageError(
                f"{data.source} has arrays of {next(iter(data.inputs.values())).dtype}, the network's own tensors, and "
                f"files would take pixels of 0 to 255: say {setting('input', 'tensor')}, or give bytes (N, height, "
                "width, channels)"
            )

    def _feed(self, data: Samples) -> Feed:
        """Samples -> inputs of the network, by name. Raises InputError where they do not fit."""
        example, reference = self.checkpoint.example, self.checkpoint.reference
        if isinstance(data, Arrays):
            names = list(example) if len(example) > 1 else list(data.inputs)
            check_arrays(
                data, {name: value.shape for name, value in zip(names, example.values(), strict=True)}, reference
            )
            specs = [TensorSpec(name, value.shape, str(value.dtype)) for name, value in example.items()]
            return array_feed(specs, list(data.inputs), reference)
        check_network_input(data, next(iter(example.values())).shape, reference)
        name, preprocessing = next(iter(example)), self.preprocessing
        return lambda part: {name: preprocessing(part)}

    def fed_through(self, artifact: Artifact, otherwise: Preprocessing | None) -> Preprocessing | None:
        """What the caller of a file does to pixels of the data; None for arrays.

        otherwise: where the file does not say.
        """
        if isinstance(self.data, Arrays):
            return None
        return artifact.image_input(otherwise=otherwise).preprocessing

    @cached_property
    def program(self) -> Program:
        """Traced, batch norms folded."""
        checkpoint = self.checkpoint
        self.stage("trace")
        return checkpoint.trace()

    def run_baseline(self) -> Scored:
        """Run the untouched module on the data. Raises InputError where data, labels and network do not fit."""
        data = self.data
        self.labels  # noqa: B018  checked before the first file is written
        outputs = self._run_float(data) if data.float_outputs is None else dict(data.float_outputs)
        return score(self.task, outputs, data)

    def _run_float(self, data: Samples) -> Outputs:
        """Outputs of the untouched module."""
        checkpoint, feed = self.checkpoint, self._feed(data)
        self.stage("float baseline")
        return predict_in_torch(lambda part: checkpoint.run(feed(part)), data.fed, self.plan.threads)

    def quantized(self, scheme: Scheme) -> Quantized:
        """The network's weights under a scheme; kept until the next scheme is asked for.

        Raises UsageError for a scheme that needs calibration data where there is none.
        """
        if scheme not in self._quantized:
            self._quantized = {scheme: self._quantize(scheme)}
        return self._quantized[scheme]

    def _quantize(self, scheme: Scheme) -> Quantized:
        program, scheme_for = self.program, self.plan.scheme_for
        if not self.calibrates(scheme):
            self.stage(f"quantize {scheme}")
            start = time.perf_counter()
            model = quantize_model(program, scheme, scheme_for, self.plan.threads)
            return Quantized(model, time.perf_counter() - start)
        if self.plan.calibration is None:
            raise not_given(scheme.name)
        used, content = self.calibration_facts, self.calibration
        feed = self._feed(content)
        self.stage(f"quantize {scheme} on {len(content):,} {content.kind}")
        start = time.perf_counter()
        fitted = fit_network(
            program, scheme, scheme_for, lambda part: feed(rows(content.fed, part)), len(content), self.stage
        )
        note = "; ".join(text for text in (used.note, fitted.note) if text)
        return Quantized(fitted.model, time.perf_counter() - start, note, used)

    def reference(self, scheme: Scheme) -> Reference:
        """The reference of a scheme, run on the data; kept until the next scheme is asked for."""
        if scheme not in self._references:
            model = self.quantized(scheme).model
            start = time.perf_counter()
            program, feed = reference(self.program, model, scheme), self._feed(self.data)

            def run(part: Any) -> Outputs:
                outputs = program.run(feed(part))
                return {output: np.asarray(value, np.float32) for output, value in outputs.items()}

            scored = score(self.task, predict_in_torch(run, self.data.fed, self.plan.threads), self.data)
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

    def template_for(self, backend: Backend, compute: Compute, model: QuantizedModel) -> tuple[Path, QuantizedModel]:
        """The folder of the template for a model with other biases, and the model with all biases that it needs.

        Raises what the converter raises, and BackendError for biases that the converter computed with.
        """
        text = f"convert to {backend.name} ({compute})"
        folder, biases = templates.template_for_biases(
            backend, self.entry(backend), compute, self.folder, model.biases, lambda: self.stage(text)
        )
        return folder, replace(model, biases=biases)

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
