"""The results of a sweep: a public contract in JSON, and the same rows as CSV, Markdown and scores of samples."""

from mobconv.results.results_file import file_of, metric_from, read, row_from, withdraw, write
from mobconv.results.rows import (
    CELLS,
    FAILED,
    OK,
    SCHEMA,
    UNSUPPORTED,
    Cliff,
    Results,
    Row,
    cliffs,
    task_fields,
)
from mobconv.results.scores import SampleScores, agrees, read_scores, samples_of, unpaired

__all__ = [
    "CELLS",
    "FAILED",
    "OK",
    "SCHEMA",
    "UNSUPPORTED",
    "Cliff",
    "Results",
    "Row",
    "SampleScores",
    "agrees",
    "cliffs",
    "file_of",
    "metric_from",
    "read",
    "read_scores",
    "row_from",
    "samples_of",
    "task_fields",
    "unpaired",
    "withdraw",
    "write",
]
