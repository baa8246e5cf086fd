"""The public contract: what is written is what is read, and cliffs are where they are defined to be."""

import csv
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from mobconv import results
from mobconv.errors import InputError, OutputError
from mobconv.results import Cliff, Results, Row
from mobconv.schemes import Cell

# DESIGN.md, "Command line": the fields of a cell and of a cliff. Fields are added, not renamed.
# fmt: off
CELL = [
    "cell", "backend", "scheme", "bits", "mode", "granularity", "algorithm", "storage", "compute", "stored_bits",
    "status", "reason", "requires", "verified", "path", "sha256", "file_bytes", "weight_bytes", "effective_bits",
    "parameters", "images", "top1", "top5", "reference_top1", "quantization_loss", "conversion_loss", "agreement",
    "snr_db", "max_error", "latency_ms", "latency_ratio", "load_ms", "seconds",
]
# fmt: on
CLIFF = ["backend", "mode", "granularity", "storage", "algorithm", "bits", "margin", "top1"]


def row(name, top1=None, status=results.OK, **values):
    return Row.of(Cell.parse(name), status, top1=top1, **values)


def found(*rows):
    return Results({"path": "net"}, {"images": 2}, {"torch": "2"}, 0.9, list(rows), results.cliffs(rows, 0.9, 5.0))


def test_the_names_of_fields():
    content = asdict(found(row("onnx/w4-kmeans", 0.1)))
    assert set(CELL) <= set(content["cells"][0])
    assert set(CLIFF) <= set(content["cliffs"][0])
    assert {"schema", "model", "data", "tools", "float_top1", "cells", "cliffs", "notes"} <= set(content)
    assert content["schema"] == 1


def test_a_row_says_what_its_name_says():
    made = row("coreml/w3-linear-tensor-minmax@native@fp16")
    assert (made.backend, made.bits, made.mode, made.granularity) == ("coreml", 3, "linear", "tensor")
    assert (made.algorithm, made.storage, made.compute) == ("minmax", "native", "fp16")
    plain = row("onnx/fp16")
    assert (plain.bits, plain.mode, plain.granularity, plain.algorithm) == (16, None, None, None)


def test_written_and_read(tmp_path):
    rows = [row("onnx/w4-kmeans", 0.5, snr_db=float("inf"), note="a, b"), row("tflite/fp16", None, results.FAILED)]
    held = replace(found(*rows), notes=["a note"])
    predictions = {"labels": np.array([1, 2]), "onnx/w4-kmeans": np.array([1, 0])}
    results.write(tmp_path, held, predictions, "# text\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "predictions.npz",
        "results.csv",
        "results.json",
        "results.md",
    ]
    back = results.read(tmp_path / "results.json")
    rows[0].snr_db = None  # JSON has no infinity
    assert back == held
    with np.load(tmp_path / "predictions.npz") as archive:
        assert archive["onnx/w4-kmeans"].tolist() == [1, 0]
    with (tmp_path / "results.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    assert lines[0]["note"] == "a, b" and lines[0]["snr_db"] == "" and lines[1]["status"] == "failed"


def test_nan_is_null(tmp_path):
    results.write(tmp_path, found(row("onnx/fp32", float("nan"))), {}, "")
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["cells"][0]["top1"] is None


def test_fields_of_later_releases_are_left_aside(tmp_path):
    results.write(tmp_path, found(row("onnx/w4-kmeans", 0.5)), {}, "")
    path = tmp_path / "results.json"
    content = json.loads(path.read_text())
    content["cells"][0]["colour"] = content["cliffs"][0]["colour"] = "red"
    path.write_text(json.dumps(content))
    assert results.read(path).cells[0].top1 == 0.5


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("", "not a results file"),
        ("[]", "schema 1"),
        ('{"schema": 2}', "schema 1"),
        ('{"schema": 1}', "field is missing"),
        ('{"schema": 1, "cells": [{}], "cliffs": []}', "field is missing"),
        ('{"schema": 1, "model": 5}', "not what a sweep writes"),
        ('{"schema": 1, "data": {"images": "many"}}', "not what a sweep writes"),
        ('{"schema": 1, "float_top1": NaN}', "not what a sweep writes"),
        ('{"schema": 1, "cells": 5, "cliffs": []}', "field is missing"),
        ('{"schema": 1, "cells": [5], "cliffs": []}', "field is missing"),
    ],
)
def test_other_files(tmp_path, content, word):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=word):
        results.read(tmp_path / "results.json")


@pytest.mark.parametrize("value", ["10", [], True, float("nan"), 10**400])
def test_figures_that_are_none(tmp_path, value):
    results.write(tmp_path, found(row("onnx/fp32", 0.5)), {}, "")
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
    with pytest.raises(InputError, match="no such results file; its sweep has not come to its end"):
        results.read(tmp_path / "results.json")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError):
        results.write(tmp_path / "out", found(row("onnx/fp32", 0.5)), {}, "")


@pytest.mark.parametrize(
    ("top1", "bits"),
    [
        ([0.90, 0.89, 0.86], None),  # 4 points are within the margin of 5
        ([0.90, 0.85, 0.84], 2),  # 5 points exactly are within it too
        ([0.90, 0.80, 0.90], 3),  # the widest that falls, though a narrower one does not
        ([0.10, 0.10, 0.10], 4),
        ([0.90, None, 0.10], 2),  # not measured is not fallen
    ],
)
def test_the_cliff(top1, bits):
    rows = [row(f"onnx/w{4 - i}-kmeans", value) for i, value in enumerate(top1)]
    (cliff,) = results.cliffs(rows, 0.9, 5.0)
    assert cliff.bits == bits
    assert cliff.top1 == (None if bits is None else top1[4 - bits])


def test_one_cliff_for_each_kind():
    names = ["onnx/w4-kmeans", "onnx/w4-kmeans-channel", "coreml/w4-kmeans", "coreml/w4-kmeans@fp16", "onnx/fp32"]
    cliffs = results.cliffs([row(name, 0.1) for name in names], 0.9, 5.0)
    assert len(cliffs) == 4 and all(isinstance(cliff, Cliff) and cliff.bits == 4 for cliff in cliffs)
