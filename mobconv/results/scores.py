"""scores.npz beside results.json: the score of every sample, which paired intervals are made from.

| array         | shape, dtype | content                                                                             |
|---------------|--------------|-------------------------------------------------------------------------------------|
| `float`       | (N,) float32 | scores of the float baseline                                                        |
| a cell's name | (N,) float32 | scores of its file                                                                  |
| `groups`      | (N,) int32   | equal for samples of one scan, patient or scene; absent where the data has no groups |

Of a metric that is not the mean of scores of samples, such as mIoU, scores are (1 + resamples,): the metric of all
samples, then of each bootstrap resample. The draws are the same for all files that were run on the same samples.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import InputError
from mobconv.evaluate.tasks import Metric
from mobconv.results.rows import Results, Row
from mobconv.stats.estimates import Estimate, unpaired_shares, without_interval

Scores = NDArray[np.float64]
NAME = "scores.npz"
FLOAT, GROUPS = "float", "groups"


class SampleScores:
    """Scores of each sample, by cell; see `read_scores`.

    groups: (N,) int64, or None.
    """

    def __init__(self, path: Path, arrays: Mapping[str, NDArray[np.float64]], resampled: bool = False) -> None:
        """path: of the scores.npz, for messages; resampled: whether the metric is not a mean."""
        self.path, self._resampled = path, resampled
        self._arrays = dict(arrays)
        groups = self._arrays.pop(GROUPS, None)
        self.groups: NDArray[np.int64] | None = None if groups is None else groups.astype(np.int64)

    @property
    def float_baseline(self) -> Scores:
        """Of the float baseline, (N,), or of resamples."""
        return self._arrays[FLOAT]

    def of(self, row: Row) -> Scores:
        """Of a cell, (N,), or of resamples. Raises InputError where they are missing, or not of the row's score."""
        scores = self._arrays.get(row.cell)
        if scores is None:
            raise InputError(
                f"{self.path} has no scores of {row.cell}: it belongs to other results; run the sweep again"
            )
        if row.score is not None and not agrees(scores, row.score, self._resampled):
            whole = f"score in {self.path} is {scores[0]:.4f}"
            mean = f"the mean of its scores in {self.path} is {scores.mean():.4f}"
            raise InputError(
                f"{row.cell}: {f'its {whole}' if self._resampled else mean}, and its row says {row.score:.4f}: one of "
                "them was changed; run the sweep again"
            )
        return scores


def read_scores(path: Path, results: Results) -> SampleScores | None:
    """Read scores.npz beside the results.json at `path`; None where that file does not exist.

    Raises InputError when it is broken, or belongs to other results.
    """
    file = path.with_name(NAME)
    if not file.exists():
        return None
    try:
        with np.load(file) as archive:
            arrays = {name: np.asarray(archive[name], np.float64) for name in archive.files}
    except (OSError, ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{file}: not scores of a sweep: {error}") from error
    if FLOAT not in arrays:
        raise InputError(f"{file}: not scores of a sweep: no {FLOAT!r} in it")
    samples, metric = results.data.get("samples") or 0, results.metric
    lengths = {name: samples if name == GROUPS else metric.scores_of(samples) for name in arrays}
    if other := [name for name, values in arrays.items() if values.shape != (lengths[name],)]:
        raise InputError(f"{file}: {other[0]} does not have the {lengths[other[0]]} samples of {path.name}")
    if not agrees(arrays[FLOAT], results.float_score, bool(metric.resamples)):
        raise InputError(f"{file} does not belong to {path}: the float baseline has another score there")
    return SampleScores(file, arrays, bool(metric.resamples))


def arrays(
    float_scores: Scores, cells: Mapping[str, Scores], groups: NDArray[np.int64] | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays of scores.npz. float_scores: of the float baseline; cells: by name; each (N,)."""
    content: dict[str, NDArray[Any]] = {} if groups is None else {GROUPS: groups.astype(np.int32)}
    content[FLOAT] = float_scores.astype(np.float32)
    return content | {name: scores.astype(np.float32) for name, scores in cells.items()}


def agrees(scores: Scores, score: float, resampled: bool = False) -> bool:
    """Whether a score is the mean of these scores (N,), up to the rounding of fp32; resampled: is the first of them."""
    whole = float(scores[0] if resampled else scores.mean())
    return abs(whole - score) <= 1e-5 * max(1.0, abs(score))


def unpaired(metric: Metric, before: float, after: float, samples_before: int, samples_after: int) -> Estimate:
    """Loss between two scores that were measured independently.

    A metric that counts samples has the interval of two counts; any other has none.
    """
    if metric.full is None:
        return without_interval(metric.loss(before, after))
    sides = (before / metric.full, samples_before), (after / metric.full, samples_after)
    (first, first_samples), (second, second_samples) = sides if metric.higher_is_better else sides[::-1]
    points = unpaired_shares(first, second, first_samples, second_samples)
    scale = metric.full / 100
    return replace(points, loss=metric.loss(before, after), low=points.low * scale, high=points.high * scale)


def samples_of(row: Row | None, results: Results, path: Path) -> int:
    """Number of samples of a row (None: of the float baseline). Raises InputError where it is missing."""
    samples = (row.samples if row else None) or results.data.get("samples") or 0
    if not 1 <= samples <= 1e12:
        where = row.cell if row else "float baseline"
        raise InputError(f"{path}: {where}: the number of samples is missing; run the sweep again")
    return int(samples)
