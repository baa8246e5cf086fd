"""A task is added by one new file and one line."""

TASK = '''
"""Confidence: how far the probability of the label is from 1, in percent; lower is better."""

import numpy as np

from mobconv.evaluate.tasks.base import Metric
from mobconv.evaluate.tasks.classification import Classification


class Confidence(Classification):
    """Mean distance of the label's probability from 1."""

    name = "confidence"
    metric = Metric("doubt", "pp", "pp", higher_is_better=False, decimals=3)

    def warning(self, score, outputs):
        return ""

    def scores(self, outputs, data):
        logits = next(iter(outputs.values())).astype(np.float64)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return 100 * (1 - shares[np.arange(len(shares)), data.labels])

    def aggregate(self, scores):
        return float(scores.mean())

    def more(self, outputs, data):
        return {}


task = Confidence()
'''


def test_a_task_is_one_file_and_one_line(copy):
    copy.add("evaluate/tasks/confidence.py", TASK)
    copy.register("evaluate/tasks/__init__.py", "TASKS = {", '    "confidence": "mobconv.evaluate.tasks.confidence",')
    assert copy.touched() == (["evaluate/tasks/confidence.py"], ["evaluate/tasks/__init__.py: 1"])
    copy.export("net.safetensors", "--to", "onnx")
    rows = copy.sweep("checkpoint: net.safetensors\nbackends: onnx\nschemes: [fp32, w2-kmeans]\ntask: confidence")
    assert {row["metric"] for row in rows} == {"doubt"}
    for row in rows:  # less is better: what was added is lost
        assert abs(row["quantization_loss"] - (row["reference_score"] - row["float_score"])) < 1e-3
    assert rows[1]["quantization_loss"] != 0 and 50 < rows[0]["score"] < 100
    assert "doubt" in copy.run("report", "out/sweep") + (copy.folder / "out" / "sweep" / "report.html").read_text()
    assert "met      onnx/fp32" in copy.check("max_score: 100")
    assert "not met  onnx/w2-kmeans" in copy.check("max_score: 1", code=1)
    assert "max_score" in copy.check("min_score: 1", code=2)
