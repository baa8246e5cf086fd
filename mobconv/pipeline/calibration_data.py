"""Calibration data of cells: what rows, keys and artifacts say of it, and that none of it is evaluated on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobconv.common.text import plural
from mobconv.data import chosen
from mobconv.data.arrays import Samples
from mobconv.data.chosen import CalibrationData
from mobconv.data.labelled import Images
from mobconv.errors import UsageError, setting
from mobconv.evaluate.inference import Feed, batches, rows
from mobconv.schemes import Scheme

UNUSED = "calibration data that no cell uses: schemes with an algorithm such as gptq do"


@dataclass(frozen=True)
class CalibrationFacts:
    """The samples that cells are calibrated on.

    source   name of the data; split: that was read, empty where it has none; kind: 'images' or 'arrays'
    sha256   over the samples chosen, in their order
    samples  their number; seed: that they were chosen by
    shared   how many of them are in the evaluation data, `evaluated`, too
    notes    what was chosen or left out, as sentences
    """

    source: str
    split: str
    kind: str
    sha256: str
    samples: int
    seed: int
    shared: int = 0
    evaluated: str = ""
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """As the record in an artifact has it."""
        return {"sha256": self.sha256, "samples": self.samples, "seed": self.seed}

    @property
    def note(self) -> str:
        """What stands beside the row of a cell."""
        noun = "image" if self.kind == "images" else "sample"
        text = f"calibrated on {plural(self.samples, noun)} of {self.source} (seed {self.seed})"
        if self.shared:
            text += f", of which {self.shared:,} are in the evaluation data too: its score is not that of new {noun}s"
        return text


def check_given(schemes: Iterable[Scheme], calibration: CalibrationData | None) -> None:
    """Raise UsageError for a scheme that needs calibration data where there is none."""
    for scheme in schemes:
        if scheme.calibrated and calibration is None:
            raise chosen.not_given(scheme.name)


def facts(
    wanted: CalibrationData, samples: Samples, feed: Feed, data: Samples | None, data_feed: Feed | None
) -> CalibrationFacts:
    """Describe calibration samples, compared one by one with those of the evaluation data.

    feed, data_feed: samples of either -> inputs of the network; data: None for no evaluation data. Raises UsageError
    for samples that are in both, unless that is allowed.
    """
    shared = 0
    name, noun = Path(wanted.data).name, "image" if isinstance(samples, Images) else "sample"
    if data is not None and data_feed is not None:
        if isinstance(samples, Images) and isinstance(data, Images):
            evaluated = set(chosen.digests({"": data.pixels}))
            shared = sum(digest in evaluated for digest in chosen.digests({"": samples.pixels}))
        else:
            evaluated = set(_digests_of_inputs(data, data_feed))
            shared = sum(digest in evaluated for digest in _digests_of_inputs(samples, feed))
        if shared and not wanted.allow_leak:
            raise UsageError(
                f"{wanted.data}: {shared:,} of the {plural(len(samples), noun)} to calibrate on are in the evaluation "
                f"data, {data.source}, too: scores would be better than on new {noun}s. Take others, such as those "
                f"the network was trained on, or allow it with {setting('allow_leak', True)}"
            )
    return CalibrationFacts(
        name,
        samples.split,
        samples.kind,
        samples.sha256,
        len(samples),
        wanted.seed,
        shared,
        "" if data is None else Path(data.source).name,
        samples.notes,
    )


def _digests_of_inputs(samples: Samples, feed: Feed) -> list[bytes]:
    """Sha256 of each sample as the network gets it, batch by batch."""
    return [digest for part in batches(len(samples)) for digest in chosen.digests(feed(rows(samples.fed, part)))]


def facts_from(values: Mapping[str, Any]) -> CalibrationFacts:
    """Facts of a record. Raises TypeError, KeyError for a damaged one."""
    return CalibrationFacts(**{**values, "notes": tuple(values["notes"])})
