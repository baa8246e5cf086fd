"""Rows, cliffs and results of a sweep: the fields of results.json, a public contract (docs/results.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mobconv.backends.base import Encoded
from mobconv.common.files import sha256, size
from mobconv.evaluate.latency import Latency
from mobconv.evaluate.tasks import Metric
from mobconv.schemes import Cell

SCHEMA = 2
CELLS = ".cells"  # folder below a sweep's, with a record of each finished cell
OK, UNSUPPORTED, FAILED = "ok", "unsupported", "failed"


@dataclass
class Row:
    """One cell. None where a figure does not apply or was not measured.

    parameters       weights quantized in this cell (all of the network's, in a float cell)
    weight_bytes     bytes that these weights add to the file; effective_bits is 8 times that over parameters
    fp32_tensors     tensors whose scales or tables fp16 cannot hold: they are fp32
    samples          that the file was run on; skipped: samples of the data that could not be read, and were left out
    metric           name of the number that the task is judged by, such as 'MAE'
    score            of the file, float_score: of the float baseline, reference_score: of PyTorch with the dequantized
                     weights; all in the metric's unit
    metrics          further metrics of the task, by name
    quantization_loss  from float_score to reference_score, conversion_loss: from there to score; in the metric's unit
                     of loss, positive is worse
    agreement        fraction of samples for which file and reference mean the same; snr_db of the file's outputs
                     against the reference's
    max_error        largest output error of a sample over its largest reference output, of the worst sample
    float_snr_db     of the file's outputs against the untouched module's; float_error: as max_error, against them
    latency_ratio    to the same backend's fp32 file, run in turn; None where no runtime of its own ran
    seconds          spent, by stage
    """

    cell: str
    backend: str
    scheme: str
    bits: int
    mode: str | None
    granularity: str | None
    algorithm: str | None
    storage: str
    compute: str
    status: str
    stored_bits: int | None = None
    reason: str = ""
    note: str = ""
    requires: str = ""
    verified: str | None = None
    path: str | None = None
    sha256: str | None = None
    file_bytes: int | None = None
    weight_bytes: int | None = None
    effective_bits: float | None = None
    parameters: int | None = None
    fp32_tensors: int | None = None
    samples: int | None = None
    skipped: int | None = None
    metric: str | None = None
    score: float | None = None
    float_score: float | None = None
    reference_score: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    quantization_loss: float | None = None
    conversion_loss: float | None = None
    agreement: float | None = None
    snr_db: float | None = None
    max_error: float | None = None
    float_snr_db: float | None = None
    float_error: float | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None
    load_ms: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, cell: Cell, status: str, **values: Any) -> Row:
        """A row with the parts of the cell's name filled in."""
        scheme = cell.scheme
        quantized = scheme.mode is not None
        return cls(
            cell=cell.name,
            backend=cell.backend,
            scheme=scheme.name,
            bits=scheme.bits,
            mode=scheme.mode.value if scheme.mode else None,
            granularity=scheme.granularity.value if quantized else None,
            algorithm=str(scheme.algorithm) if quantized else None,
            storage=cell.storage.value,
            compute=cell.compute.value,
            status=status,
            **values,
        )

    @classmethod
    def of_file(
        cls,
        cell: Cell,
        encoded: Encoded,
        file: Path,
        path: str,
        counts: Mapping[str, int],
        verified: str,
        latency: Latency | None,
        **measured: Any,
    ) -> Row:
        """The row of a file that was written and opened.

        path: as the row shows it; counts: `parameters` and `fp32_tensors`; measured: more fields.
        """
        support, weights = encoded.support, counts["parameters"]
        return cls.of(
            cell,
            OK,
            stored_bits=support.stored_bits,
            reason=support.reason,
            note=support.note,
            requires=support.requires,
            verified=verified,
            path=path,
            sha256=sha256(file),
            file_bytes=size(file),
            weight_bytes=encoded.weight_bytes,
            effective_bits=round(8 * encoded.weight_bytes / weights, 4) if weights else None,
            latency_ms=latency.ms if latency else None,
            latency_ratio=latency.ratio if latency else None,
            **counts,
            **measured,
        )


@dataclass
class Cliff:
    """The widest width whose score is more than `margin` worse than the float baseline's.

    bits and score are None where none of the measured widths falls so far.
    """

    backend: str
    mode: str
    granularity: str
    storage: str
    algorithm: str
    compute: str
    bits: int | None
    margin: float
    score: float | None


@dataclass
class Results:
    """All of a sweep, as in ``results.json``.

    model, data  path or source and sha256, with `parameters` and `quantizable_weights`, or `samples` and `kind`
    tools        versions by name
    task         name of the task, the metric's fields (see evaluate.tasks.Metric), and those of further metrics by name
    notes        what mobconv recognised in checkpoint and data, and reasons to doubt the figures
    """

    model: dict[str, Any]
    data: dict[str, Any]
    tools: dict[str, str]
    task: dict[str, Any]
    float_score: float
    cells: list[Row]
    cliffs: list[Cliff]
    schema: int = SCHEMA
    notes: list[str] = field(default_factory=list)

    @property
    def sample(self) -> str:
        """What a sample is called: 'image', or 'sample' of data of arrays."""
        return "sample" if self.data.get("kind") == "arrays" else "image"

    @property
    def metric(self) -> Metric:
        """The number that scores are."""
        return Metric(**self.task["metric"])

    def further(self, name: str) -> Metric:
        """The metric of a name in `Row.metrics`; the task's own where none is stated."""
        stated = self.task.get("further", {}).get(name)
        return self.metric if stated is None else Metric(**stated)


def task_fields(name: str, metric: Metric, further: Mapping[str, Metric] | None = None) -> dict[str, Any]:
    """A task as `Results.task` has it."""
    others = {other: asdict(each) for other, each in (further or {}).items()}
    return {"name": name, "metric": asdict(metric)} | ({"further": others} if others else {})


def cliffs(rows: Iterable[Row], float_score: float, margin: float, metric: Metric) -> list[Cliff]:
    """One cliff for each backend, mode, granularity, storage, algorithm and compute that was measured."""
    groups: dict[tuple[str, str, str, str, str, str], list[tuple[Row, float]]] = {}
    for row in rows:
        if row.mode and row.granularity and row.algorithm and row.score is not None:
            key = (row.backend, row.mode, row.granularity, row.storage, row.algorithm, row.compute)
            groups.setdefault(key, []).append((row, row.score))
    drops = []
    for key, members in groups.items():
        fallen = [row for row, score in members if metric.loss(float_score, score) > margin]
        widest = max(fallen, key=lambda row: row.bits, default=None)
        drops.append(Cliff(*key, widest.bits if widest else None, margin, widest.score if widest else None))
    return drops
