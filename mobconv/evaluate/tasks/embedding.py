"""Embeddings: a vector for each sample, judged by its cosine to the float network's, or by what it retrieves."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobconv.data.arrays import Samples
from mobconv.errors import InputError
from mobconv.evaluate.tasks.base import Metric, Outputs, Scores, first_output, labels_of
from mobconv.evaluate.tasks.measured import Measure, MeasuredTask

_AT_A_TIME = 512  # queries whose similarities to all samples are in memory


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Vectors (N, D) of length 1; those of length 0 stay."""
    flat = vectors.astype(np.float64).reshape(len(vectors), -1)
    lengths = np.linalg.norm(flat, axis=1, keepdims=True)
    return np.asarray(flat / np.where(lengths > 0, lengths, 1.0))


def _cosine(outputs: Outputs, data: Samples) -> Scores:
    """Cosine of each sample's vector to the float network's, (N,)."""
    assert data.float_outputs is not None
    return np.asarray((_unit(first_output(outputs)) * _unit(first_output(data.float_outputs))).sum(axis=1))


def nearest(vectors: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The `count` other samples of largest cosine, (N, count), largest first; of equal ones the earlier."""
    unit = _unit(vectors)
    places = []
    for start in range(0, len(unit), _AT_A_TIME):
        similarities = unit[start : start + _AT_A_TIME] @ unit.T
        similarities[np.arange(len(similarities)), np.arange(start, start + len(similarities))] = -np.inf
        places.append(np.argsort(-similarities, axis=1, kind="stable")[:, :count])
    return np.concatenate(places)


def _recall(count: int) -> Measure:
    """Recall at k: the share of samples with one of their own label among the k nearest others."""

    def scores(outputs: Outputs, data: Samples) -> Scores:
        labels = labels_of(data)
        hits = labels[nearest(first_output(outputs), count)] == labels[:, None]
        return np.where(hits.any(axis=1), 100.0, 0.0)

    def applies(outputs: Outputs, data: Samples) -> bool:
        return len(data.labels) == len(data) > count

    return Measure(Metric(f"recall@{count}", "%", "points", full=100.0), scores, applies=applies)


class Embedding(MeasuredTask):
    """The first output is a vector for each sample, (N, D); others of the same data are what is searched for it."""

    name = "embedding"
    compares_with_float = True
    measures = (
        Measure(Metric("cosine", "", "", decimals=5), _cosine),
        _recall(1),
        _recall(5),
    )

    def check(self, outputs: Outputs, data: Samples) -> None:
        """Raise InputError for an output that is not a vector, or not as long as the float network's."""
        name, output = next(iter(outputs.items()))
        wanted = None if data.float_outputs is None else first_output(data.float_outputs).shape
        if wanted is None or output.shape != wanted or output.ndim < 2:
            raise InputError(
                f"output {name!r} has shape {output.shape}, and the float network's {wanted}: an embedding is a vector "
                "for each sample, (N, length)"
            )
        super().check({name: output}, data)

    def agreement(self, outputs: Outputs, reference: Outputs) -> float:
        """Fraction of samples with the same nearest other sample."""
        first, wanted = (first_output(each) for each in (outputs, reference))
        if len(first) < 2:
            return 1.0
        return float((nearest(first, 1) == nearest(wanted, 1)).mean())


task = Embedding()
