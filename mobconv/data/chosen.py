"""Samples without labels, chosen at random from a data set: calibration data.

Samples are ordered by the sha256 of their content before a permutation of the seed chooses among them, so that the
choice, and the order of the samples chosen, are the same in whatever order the files or rows are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.common.text import plural
from mobconv.data import labelled
from mobconv.data.arrays import Arrays
from mobconv.data.encoded import EncodedImages, split_to_calibrate_on
from mobconv.data.images import Fit
from mobconv.data.labelled import Images
from mobconv.errors import UsageError, did_you_mean, setting

COUNT = 1024


@dataclass(frozen=True)
class CalibrationData:
    """Which samples a network is calibrated on.

    data        reference of a data set, without or with labels, which are not read
    split       of those that the data has; None for calibration, else train, validation, test
    images      number of samples that are chosen at random, all where there are fewer
    seed        of that choice, 0 or more
    allow_leak  whether samples may be in the evaluation data too
    """

    data: str
    split: str | None = None
    images: int = COUNT
    seed: int = 0
    allow_leak: bool = False

    @classmethod
    def of(
        cls,
        data: str | None,
        images: int | None = None,
        seed: int | None = None,
        split: str | None = None,
        allow_leak: bool = False,
    ) -> CalibrationData | None:
        """Make it of the settings `calibrate` and `calibrate_...`, None for a default.

        None without data. Raises UsageError for other settings without data, and for numbers out of range.
        """
        if data is None:
            stated = {"images": images, "seed": seed, "split": split}
            names = [f"calibrate_{name}" for name, value in stated.items() if value is not None]
            names += ["allow_leak"] * allow_leak
            if names:
                raise UsageError(f"{setting(names[0])} is for calibration data: give {setting('calibrate', 'DATA')}")
            return None
        images, seed = COUNT if images is None else images, seed or 0
        if images < 1:
            raise UsageError(f"{setting('calibrate_images', images)}: 1 or more")
        if seed < 0:
            raise UsageError(f"{setting('calibrate_seed', seed)}: 0 or more")
        return cls(data, split, images, seed, allow_leak)

    def pick(self, names: Sequence[str]) -> str:
        """Of several splits the one to read. Raises UsageError for a split that is not there."""
        if self.split is None:
            return split_to_calibrate_on(names)
        if self.split not in names:
            raise UsageError(
                f"{self.data} has no split {self.split!r}{did_you_mean(self.split, names)}: {', '.join(names)} "
                f"({setting('calibrate_split')})"
            )
        return self.split

    def check_split(self, split: str) -> None:
        """Raise UsageError where a split is asked for, and the data was read whole: it has none."""
        if self.split is not None and split != self.split:
            raise UsageError(
                f"{self.data} has no splits: leave out {setting('calibrate_split', self.split)}. A data set of the "
                "hub has splits, and a folder of the folders train, val, test or calibration"
            )

    def choice(self, digests: Sequence[bytes]) -> list[int]:
        """Positions of the samples chosen, in the order in which they are used; digests: of the samples' content."""
        order = sorted(range(len(digests)), key=lambda position: digests[position])
        places = np.random.default_rng(self.seed).permutation(len(order))[: self.images]
        return [order[place] for place in places]

    def note(self, chosen: int, there: int, noun: str) -> str:
        """Say how many samples were chosen, of how many."""
        if chosen < there:
            return f"{chosen:,} of {plural(there, noun)} are chosen to calibrate on, by the seed {self.seed}"
        fewer = f", fewer than the {self.images:,} that are asked for" if there < self.images else ""
        return f"all of its {plural(there, noun)} are taken to calibrate on{fewer}"


def not_given(scheme: str) -> UsageError:
    """The error of a scheme that needs calibration data where there is none."""
    return UsageError(
        f"{scheme} needs calibration data: inputs of the kind that the network gets, without labels, and none that it "
        f"is evaluated on. Give {setting('calibrate', 'DATA')}"
    )


def images(wanted: CalibrationData, fit: Fit | None = None, channels: int = 3, skip_bad: bool = False) -> Images:
    """Choose images of a data set and decode them, and no others.

    fit, channels, skip_bad: as in labelled.load. The files are read twice: their content is hashed to choose among
    them. Raises InputError where the data cannot be read, UsageError for a split that it has not.
    """
    encoded = labelled.open_encoded(wanted.data, False, wanted.pick)
    wanted.check_split(encoded.split)
    there = len(encoded.labels)
    chosen = wanted.choice([_digest(name, content) for name, content in encoded.read(there)])
    pixels, kept, notes = labelled.decode_all(_some(encoded, chosen), len(chosen), wanted.data, fit, channels, skip_bad)
    # images were decoded in the order of the file
    used = {position: place for place, position in enumerate(chosen)}
    in_file = sorted(chosen)
    order = sorted(range(len(kept)), key=lambda row: used[in_file[kept[row]]])
    pixels = pixels[order]
    return Images(
        wanted.data,
        pixels,
        np.zeros(0, np.int64),
        (),
        content_hash({"pixels": pixels}),
        None,
        encoded.split,
        len(chosen) - len(kept),
        (*encoded.notes, *notes, wanted.note(len(kept), there, "image")),
    )


def _digest(name: str, content: bytes | Exception) -> bytes:
    """Of an image's file; of its name where it cannot be read, which decoding it says."""
    return hashlib.sha256(name.encode() if isinstance(content, Exception) else content).digest()


def _some(encoded: EncodedImages, positions: Sequence[int]) -> EncodedImages:
    """The images at these positions, in the order of the file."""
    wanted, last = set(positions), max(positions, default=-1)

    def read(count: int) -> Iterator[tuple[str, bytes | Exception]]:
        return (entry for position, entry in enumerate(encoded.read(last + 1)) if position in wanted)

    return replace(encoded, labels=[None] * len(wanted), read=read)


def arrays(wanted: CalibrationData, content: Arrays) -> Arrays:
    """Choose samples of arrays. Raises UsageError for a split, which arrays do not have."""
    wanted.check_split(content.split)
    there = len(content)
    chosen = wanted.choice(digests(content.inputs))
    inputs = {name: values[chosen] for name, values in content.inputs.items()}
    notes = (*content.notes, wanted.note(len(chosen), there, "sample"))
    return Arrays(content.source, inputs, {}, (), content_hash(inputs), notes=notes)


def digests(inputs: Mapping[str, NDArray[Any]]) -> list[bytes]:
    """Sha256 of each sample: the inputs of a network (N, ...), by name."""
    names = sorted(inputs)
    result = []
    for position in range(len(inputs[names[0]])):
        digest = hashlib.sha256()
        for name in names:
            value = inputs[name][position]
            digest.update(f"{value.dtype.str} {value.shape}\n".encode() + np.ascontiguousarray(value).tobytes())
        result.append(digest.digest())
    return result


def content_hash(inputs: Mapping[str, NDArray[Any]]) -> str:
    """Sha256 over samples, in their order."""
    return hashlib.sha256(b"".join(digests(inputs))).hexdigest()
