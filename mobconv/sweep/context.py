"""A process's share of a sweep: the lazily loaded inputs of its cells, some of them from an earlier sweep's records."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from mobconv.data import stored
from mobconv.data.arrays import Samples
from mobconv.errors import InputError, worded
from mobconv.model.checkpoint import Checkpoint
from mobconv.pipeline.calibration_data import CalibrationFacts
from mobconv.pipeline.context import Context, Plan, Stage
from mobconv.recipe import calibration_of
from mobconv.sweep import keys
from mobconv.sweep.job import Job
from mobconv.sweep.store import FloatBaseline, Store


class SweepContext(Context):
    """The context of a sweep's cells, in its own process or in one of its workers.

    threads: of runtimes, PyTorch and quantizer; 0 for all cores. stage: called with a line when a long step begins.
    """

    def __init__(
        self, job: Job, inputs: keys.Inputs, store: Store, threads: int = 0, stage: Stage | None = None
    ) -> None:
        recipe = job.recipe
        plan = Plan(
            data=recipe.data,
            limit=recipe.images,
            skip_bad=recipe.skip_bad,
            name_classes=recipe.labels is None,
            task=job.task,
            input=recipe.input,
            options=recipe.options,
            scheme_for=recipe.scheme_for,
            threads=threads,
            calibration=calibration_of(recipe),
        )
        super().__init__(self._load_checkpoint, plan, store.out, stage)
        self.job, self.inputs, self.store, self.threads = job, inputs, store, threads

    def _load_checkpoint(self) -> Checkpoint:
        checkpoint = self.job.load()
        if checkpoint.sha256 != self.inputs.checkpoint:
            raise InputError(f"{self.job.recipe.checkpoint} changed while the sweep ran; run the same command again")
        return checkpoint

    def load_data(self) -> Samples:
        """Read and decode the data set, or what another process of this sweep decoded."""
        if stored.exists(self.store.shared):
            return stored.read(self.store.shared)
        samples = super().load_data()
        recipe = self.job.recipe
        if keys.data(recipe.data, recipe.images) not in (None, self.inputs.data):
            raise InputError(f"{recipe.data} changed while the sweep ran; run the same command again")
        return samples

    def share_data(self) -> None:
        """Write the samples where the sweep's other processes look for them."""
        stored.write(self.store.shared, self.data)

    def load_calibration(self) -> Samples:
        """Choose and decode calibration samples, or map those that another process of this sweep decoded."""
        if stored.exists(self.store.shared_calibration):
            return stored.read(self.store.shared_calibration)
        samples = super().load_calibration()
        if keys.calibration(self.job.recipe) not in (None, self.inputs.calibration):
            raise InputError(f"{samples.source} changed while the sweep ran; run the same command again")
        return samples

    def share_calibration(self) -> None:
        """Write the calibration samples where the sweep's other processes look for them."""
        stored.write(self.store.shared_calibration, self.calibration)

    @cached_property
    def calibration_facts(self) -> CalibrationFacts:
        """The facts of the calibration data, from a record or compared with the data now. Raises UsageError."""
        inputs = self.inputs
        if inputs.data is None:
            inputs = replace(inputs, data=self.data.sha256)
        if inputs.calibration is None:  # from the hub: known once it is loaded
            inputs = replace(inputs, calibration=self.calibration.sha256)
        recorded = self.store.calibration(inputs.facts)
        if recorded is not None:
            return recorded
        facts = super().calibration_facts
        self.store.put_calibration(inputs.facts, facts)
        return facts

    @property
    def baseline_key(self) -> str:
        """The key of the float baseline's record."""
        if self.inputs.data is None:  # from the hub: known once it is loaded
            return replace(self.inputs, data=self.data.sha256).baseline
        return self.inputs.baseline

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes, as the float baseline's record has them; before there is one as in any context."""
        return tuple(self.baseline.class_names) if "baseline" in vars(self) else super().labels

    @cached_property
    def baseline(self) -> FloatBaseline:
        """The float baseline, from a record or run now. Raises InputError where data and network do not fit."""
        recorded = self.store.baseline(self.baseline_key)
        if recorded is not None:
            return recorded
        checkpoint, scored, sites = self.checkpoint, self.run_baseline(), self.program.sites
        notes = [*checkpoint.notes, *(f"{self.data.source}: {note}" for note in self.data.notes)]
        notes += [*self.program.notes, *filter(None, [self.program.unquantized()])]
        if warning := self.task.warning(scored.score, scored.outputs):
            notes.append(warning)
        baseline = FloatBaseline(
            name=checkpoint.name,
            sha256=checkpoint.sha256,
            parameters=sum(int(p.numel()) for p in checkpoint.module.parameters()),
            quantizable_weights=sum(int(np.prod(site.shape)) for site in sites.values()),
            sites=list(sites),
            notes=[worded(note, "recipe") for note in notes],
            score=scored.score,
            source=Path(self.data.source).name,
            kind=self.data.kind,
            samples=len(self.data),
            data_sha256=self.data.sha256,
            scores=scored.scores,
            groups=self.data.groups,
            split=self.data.split,
            skipped=self.data.skipped,
            class_names=list(self.labels),
        )
        self.store.put_baseline(self.baseline_key, baseline)
        return baseline
