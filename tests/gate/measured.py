"""Results on disk as a sweep leaves them, for the gate to judge."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mobconv import results
from mobconv.common.files import sha256
from mobconv.evaluate import tasks
from mobconv.gate import baseline, budget, judge
from mobconv.gate.rules import Evidence
from mobconv.results import Results, Row
from mobconv.schemes import Cell

SAMPLES = 1000
FLOAT_WRONG = 50
METRIC = tasks.get("classification").metric


def scored(wrong, start=0):
    """Scores with `wrong` samples of 0 from one sample on, all others 100."""
    scores = np.full(SAMPLES, 100.0)
    scores[start : start + wrong] = 0.0
    return scores


@dataclass
class Sweep:
    """Results on disk: cells with their figures, scores of samples, files. Float has 50 wrong of 1000."""

    folder: Path
    metric: tasks.Metric = METRIC

    def __post_init__(self):
        self.rows, self.scores = [], {"float": scored(FLOAT_WRONG)}
        self.model = {"path": "net.pt", "sha256": "aa" * 32}
        self.data = {"source": "d", "sha256": "bb", "samples": SAMPLES}

    def cell(self, name, wrong=FLOAT_WRONG, content=b"0123456789", start=0, scores=None, **values):
        """Add a measured cell; scores: in place of those with `wrong` zeros."""
        self.scores[name] = scored(wrong, start) if scores is None else scores
        path = self.folder / f"{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        figures = {
            "score": float(self.scores[name].mean()),
            "file_bytes": len(content),
            "conversion_loss": 0.0,
            "agreement": 1.0,
            "latency_ratio": 1.0,
            "verified": "runtime",
            "path": f"{name}.onnx",
            "sha256": sha256(path),
        }
        self.rows.append(Row.of(Cell.parse(name), results.OK, **{**figures, **values}))
        return self

    def without_file(self, name, status, reason):
        """Add a cell that was not measured."""
        self.rows.append(Row.of(Cell.parse(name), status, reason=reason))
        return self

    def write(self, scores=True):
        """Path of results.json; scores: with scores.npz beside it."""
        task = results.task_fields("toy", self.metric)
        measured = Results(self.model, self.data, {}, task, float(self.scores["float"].mean()), self.rows, [])
        results.write(self.folder, measured, {name: each.astype(np.float32) for name, each in self.scores.items()}, "")
        if not scores:
            (self.folder / "scores.npz").unlink()
        return self.folder / "results.json"


def check(path, text, lock=None, artifacts=True):
    """The report on results at `path`; text: the entries of the budget, or all of it."""
    file = path.parent.parent / "budget.yaml"
    file.write_text(text if "budgets:" in text else f"budgets:\n{text}")
    measured = results.read(path)
    evidence = Evidence(path, measured, results.read_scores(path, measured), lock and baseline.read(lock))
    return judge.judge(budget.load(file), evidence, artifacts)


def one(report, rule):
    """The only verdict of a rule."""
    (verdict,) = [verdict for verdict in report.verdicts if verdict.rule == rule]
    return verdict


def locked(path):
    """Path of the baseline of results."""
    measured = results.read(path)
    lock = path.parent.parent / "baseline.json"
    baseline.write(lock, measured, results.read_scores(path, measured))
    return lock
