"""The public contract: what is written is what is read, and cliffs are where they are defined to be."""

import csv
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from mobconv import results
from mobconv.errors import InputError, OutputError
from mobconv.evaluate import tasks
from mobconv.results import Cliff, Results, Row
from mobconv.schemes import Cell

# DESIGN.md, "Command line": the fields of a cell and of a cliff. Fields are added, not renamed.
# fmt: off
CELL = [
    "cell", "backend", "scheme", "bits", "mode", "granularity", "algorithm", "storage", "compute", "stored_bits",
    "status", "reason", "requires", "verified", "path", "sha256", "file_bytes", "weight_bytes", "effective_bits",
    "parameters", "samples", "metric", "score", "float_score", "reference_score", "metrics", "quantization_loss",
    "conversion_loss", "agreement", "snr_db", "max_error", "latency_ms", "latency_ratio", "load_ms", "seconds",
]
# fmt: on
CLIFF = ["backend", "mode", "granularity", "storage", "algorithm", "bits", "margin", "score"]
METRIC = tasks.get("classification").metric


def row(name, score=None, status=results.OK, **values):
    return Row.of(Cell.parse(name), status, score=score, **values)


def found(*rows):
    task = results.task_fields("classification", METRIC)
    cliffs = results.cliffs(rows, 90.0, 5.0, METRIC)
    return Results({"path": "net"}, {"samples": 2}, {"torch": "2"}, task, 90.0, list(rows), cliffs)


def test_the_names_of_fields():
    content = asdict(found(row("onnx/w4-kmeans", 0.1)))
    assert set(CELL) <= set(content["cells"][0])
    assert set(CLIFF) <= set(content["cliffs"][0])
    assert {"schema", "model", "data", "tools", "task", "float_score", "cells", "cliffs", "notes"} <= set(content)
    assert content["schema"] == 2
    assert content["task"]["name"] == "classification" and tasks.Metric(**content["task"]["metric"]) == METRIC


def test_a_row_says_what_its_name_says():
    made = row("coreml/w3-linear-tensor-minmax@native@fp16")
    assert (made.backend, made.bits, made.mode, made.granularity) == ("coreml", 3, "linear", "tensor")
    assert (made.algorithm, made.storage, made.compute) == ("minmax", "native", "fp16")
    plain = row("onnx/fp16")
    assert (plain.bits, plain.mode, plain.granularity, plain.algorithm) == (16, None, None, None)


def test_written_and_read(tmp_path):
    rows = [
        row("onnx/w4-kmeans", 50.0, snr_db=float("inf"), note="a, b", metrics={"top-5": 99.0}),
        row("tflite/fp16", None, results.FAILED),
    ]
    measured = replace(found(*rows), notes=["a note"])
    scores = {"float": np.array([90.0, 90.0]), "onnx/w4-kmeans": np.array([100.0, 0.0], np.float32)}
    results.write(tmp_path, measured, scores, "# text\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "results.csv",
        "results.json",
        "results.md",
        "scores.npz",
    ]
    back = results.read(tmp_path / "results.json")
    rows[0].snr_db = None  # JSON has no infinity
    assert back == measured and back.metric == METRIC
    scores = results.read_scores(tmp_path / "results.json", back)
    assert scores.of(back.cells[0]).tolist() == [100, 0] and scores.float_baseline.tolist() == [90, 90]
    assert scores.groups is None
    with (tmp_path / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert lines[0]["note"] == "a, b" and lines[0]["snr_db"] == "" and lines[1]["status"] == "failed"
    assert lines[0]["metrics"] == "top-5=99" and lines[0]["score"] == "50.0"


def test_nan_is_null(tmp_path):
    results.write(tmp_path, found(row("onnx/fp32", float("nan"))), {}, "")
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["cells"][0]["score"] is None


def test_fields_of_later_releases_are_left_aside(tmp_path):
    results.write(tmp_path, found(row("onnx/w4-kmeans", 50.0)), {}, "")
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    content["cells"][0]["colour"] = content["cliffs"][0]["colour"] = "red"
    path.write_text(json.dumps(content))
    assert results.read(path).cells[0].score == 50.0


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "not a results file"),
        ("[]", "not a results file of schema 2"),
        ('{"schema": 1}', "results of schema 1, and this mobconv reads schema 2; run the sweep again"),
        ('{"schema": 3}', "not a results file of schema 2"),
        ('{"schema": 2}', "field is missing"),
        ('{"schema": 2, "cells": [{}], "cliffs": []}', "field is missing"),
        ('{"schema": 2, "model": 5}', "not what a sweep writes"),
        ('{"schema": 2, "task": 5}', "not what a sweep writes"),
        ('{"schema": 2, "data": {"samples": "many"}}', "not what a sweep writes"),
        ('{"schema": 2, "float_score": NaN}', "not what a sweep writes"),
        ('{"schema": 2, "cells": 5, "cliffs": []}', "field is missing"),
        ('{"schema": 2, "cells": [5], "cliffs": []}', "field is missing"),
        ('{"schema": 2, "cells": [], "cliffs": [], "task": {"name": "x", "metric": 5}}', "task.metric is 5"),
        ('{"schema": 2, "cells": [], "cliffs": [], "task": {"name": "x", "metric": {}}}', "task.metric is {}"),
    ],
)
def test_other_files(tmp_path, content, word):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=word):
        results.read(tmp_path / "results.json")


@pytest.mark.parametrize("value", ["10", [], True, float("nan"), 10**400])
def test_figures_that_are_none(tmp_path, value):
    results.write(tmp_path, found(row("onnx/fp32", 50.0)), {}, "")
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    content["cells"][0]["file_bytes"] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="onnx/fp32: file_bytes is "):
        results.read(path)


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="no such results file; `mobconv sweep` writes one"):
        results.read(tmp_path / "results.json")
    (tmp_path / ".cells").mkdir()
    with pytest.raises(InputError, match="no such results file; its sweep did not finish"):
        results.read(tmp_path / "results.json")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError):
        results.write(tmp_path / "out", found(row("onnx/fp32", 50.0)), {}, "")


@pytest.mark.parametrize(
    ("scores", "bits"),
    [
        ([90.0, 89.0, 86.0], None),  # 4 points are within the margin of 5
        ([90.0, 85.0, 84.0], 2),  # 5 points exactly are within it too
        ([90.0, 80.0, 90.0], 3),  # the widest that falls, though a narrower one does not
        ([10.0, 10.0, 10.0], 4),
        ([90.0, None, 10.0], 2),  # not measured is not fallen
    ],
)
def test_the_cliff(scores, bits):
    rows = [row(f"onnx/w{4 - i}-kmeans", value) for i, value in enumerate(scores)]
    (cliff,) = results.cliffs(rows, 90.0, 5.0, METRIC)
    assert cliff.bits == bits
    assert cliff.score == (None if bits is None else scores[4 - bits])


def test_one_cliff_for_each_kind():
    names = ["onnx/w4-kmeans", "onnx/w4-kmeans-channel", "coreml/w4-kmeans", "coreml/w4-kmeans@fp16", "onnx/fp32"]
    cliffs = results.cliffs([row(name, 10.0) for name in names], 90.0, 5.0, METRIC)
    assert len(cliffs) == 4 and all(isinstance(cliff, Cliff) and cliff.bits == 4 for cliff in cliffs)
