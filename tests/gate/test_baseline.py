"""The lock file: small, exact when read back, refused when broken or of something else."""

import base64
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
from measured import Sweep, check, locked

from mobconv import results
from mobconv.errors import InputError
from mobconv.gate import baseline


def test_the_baseline_is_small_and_reads_back(sweep):
    path = sweep.cell("onnx/w4-kmeans", 90).without_file("onnx/fp16", results.FAILED, "no").write()
    lock = locked(path)
    earlier = baseline.read(lock)
    assert list(earlier.cells) == ["onnx/w4-kmeans"] and earlier.model["sha256"] == "aa" * 32
    assert (earlier.metric, earlier.float_score) == (sweep.metric, 95.0)
    cell = earlier.cells["onnx/w4-kmeans"]
    assert (cell.score, cell.bytes) == (91.0, 10) and np.count_nonzero(cell.scores) == 910
    assert np.array_equal(cell.scores, sweep.scores["onnx/w4-kmeans"])
    assert lock.stat().st_size < 1000
    content = json.loads(lock.read_text())
    assert (content["kind"], content["schema"]) == ("mobconv baseline", 2)
    assert content["cells"]["onnx/w4-kmeans"]["scores"]["type"] == "bits"


def test_bits_are_literal(sweep):
    sweep.scores["float"] = np.array([0.0, 100.0] * 5)
    sweep.data["samples"] = 10
    lock = locked(sweep.cell("onnx/fp32", scores=np.array([0, 0, 100, 0, 0, 0, 0, 100, 100, 0.0])).write())
    packed = json.loads(lock.read_text())["cells"]["onnx/fp32"]["scores"]
    assert zlib.decompress(base64.b64decode(packed["zlib"])) == bytes([0b00100001, 0b10000000])


def test_scores_of_other_metrics_are_float32(sweep):
    sweep.metric = replace(sweep.metric, full=None)
    scores = np.random.default_rng(0).gamma(2.0, 10.0, 1000)
    lock = locked(sweep.cell("onnx/fp32", scores=scores).write())
    packed = json.loads(lock.read_text())["cells"]["onnx/fp32"]["scores"]
    assert packed["type"] == "float32"
    assert zlib.decompress(base64.b64decode(packed["zlib"])) == scores.astype("<f4").tobytes()
    assert np.array_equal(baseline.read(lock).cells["onnx/fp32"].scores, scores.astype(np.float32))


def test_a_baseline_of_another_metric_is_refused(sweep, tmp_path):
    earlier = Sweep(tmp_path / "earlier", metric=replace(sweep.metric, name="F1"))
    lock = locked(earlier.cell("onnx/fp32").write())
    with pytest.raises(InputError, match=r"baseline.json has scores in F1 %, and .*results.json in top-1 %: write"):
        check(sweep.cell("onnx/fp32").write(), "- {cells: '*', max_bytes: 1 kB}\n", lock)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c.update(kind="x"), "not a baseline"),
        (lambda c: c.update(schema=1), "schema 1, not 2"),
        (lambda c: c.pop("cells"), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"]["scores"].update(zlib="!"), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"]["scores"].update(zlib=7), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"]["scores"].update(zlib="AAAA"), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"]["scores"].update(type="float8"), "scores of type 'float8' for top-1"),
        (lambda c: c["cells"]["onnx/w4-kmeans"]["scores"].update(type="float32"), "not one score for each of 1000"),
        (lambda c: c["cells"]["onnx/w4-kmeans"].update(scores=7), "broken"),
        (lambda c: c["metric"].update(full=None), "scores of type 'bits' for top-1"),
        (lambda c: c["metric"].update(name=5), "broken"),
        (lambda c: c.update(metric="top-1"), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"].update(bytes=0), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"].update(score=None), "broken"),
        (lambda c: c["data"].update(samples=7), "not one score for each of 7 samples"),
    ],
)
def test_broken_baselines(sweep, change, word):
    lock = locked(sweep.cell("onnx/w4-kmeans").write())
    content = json.loads(lock.read_text())
    change(content)
    lock.write_text(json.dumps(content))
    with pytest.raises(InputError, match=word):
        baseline.read(lock)


def test_results_are_no_baseline(sweep):
    path = sweep.cell("onnx/w4-kmeans").write()
    with pytest.raises(InputError, match="these are results: `mobconv baseline"):
        baseline.read(path)
    with pytest.raises(InputError, match="no such baseline"):
        baseline.read(path.with_name("gone.json"))
