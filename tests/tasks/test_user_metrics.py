"""Metrics of the user's, against stand-ins of the protocols of torchmetrics and of Hugging Face's evaluate.

Neither library is installed; the stand-ins have their methods and are told by nothing else.
"""

import sys

import numpy as np
import pytest
from sklearn import metrics as sk

from mobconv.data.arrays import Arrays
from mobconv.errors import InputError, UsageError
from mobconv.evaluate import tasks
from mobconv.stats import resampling

MODULE = '''
import numpy as np
import torch
from sklearn import metrics as sk


def within(outputs, targets):
    return np.abs(outputs[:, 0] - targets) < 1

within.higher_is_better, within.unit = True, "shares"


def nameless(outputs, targets):
    return np.abs(outputs[:, 0] - targets)


def two(outputs, targets):
    return np.abs(outputs["a"] - targets["target_a"]).sum(1)

two.higher_is_better = False


def one_number(outputs, targets):
    return 3.0

one_number.higher_is_better = True


def broken(outputs, targets):
    raise KeyError("no such thing")

broken.higher_is_better = True


class Accuracy(torch.nn.Module):
    """As torchmetrics': tensors, state that `reset` clears, direction as an attribute; also callable."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.right = self.total = torch.tensor(0)

    def reset(self):
        self.right = self.total = torch.tensor(0)

    def update(self, preds, target):
        assert isinstance(preds, torch.Tensor) and isinstance(target, torch.Tensor)
        self.right = self.right + (preds.argmax(1) == target).sum()
        self.total = self.total + len(target)

    def compute(self):
        return self.right / self.total

    def forward(self, preds, target):
        raise RuntimeError("not the way in")


class Several(Accuracy):
    def compute(self):
        return {"share": self.right / self.total, "count": self.total}


class F1:
    """As a module of `evaluate`: keyword arguments, classes, a dict."""

    name = "f1"

    def compute(self, *, predictions, references):
        assert predictions.ndim == 1
        return {"f1": sk.f1_score(references, predictions, average="macro")}


used = Accuracy()
used.update(torch.ones(4, 2), torch.ones(4))
f1 = F1()
nothing = 3
'''


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_metrics.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own_metrics", None)


RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 50)
LOGITS = RNG.normal(size=(50, 3)).astype(np.float32) + 2 * np.eye(3, dtype=np.float32)[LABELS]


def data(**targets):
    count = len(next(iter(targets.values())))
    return Arrays("set.npz", {"x": np.zeros((count, 1))}, targets, (), "")


def scored(metric, outputs, samples, task="classification", **more):
    judged = tasks.get(task, metric, **more)
    judged.check(outputs, samples)
    return judged, judged.scores(outputs, samples)


def test_a_function_gives_a_value_for_each_sample():
    outputs, samples = {"y": np.array([[1.0], [2.0], [5.0]])}, data(target=np.array([1.5, 4.0, 5.0]))
    task, scores = scored("own_metrics:within", outputs, samples, "regression")
    assert scores.tolist() == [1, 0, 1] and task.aggregate(scores) == pytest.approx(2 / 3)
    metric = task.metric
    assert (metric.name, metric.unit, metric.higher_is_better, metric.resamples) == ("within", "shares", True, 0)
    assert task.more(outputs, samples)["MAE"] == pytest.approx(2.5 / 3), "beside the task's own"


def test_several_outputs_and_targets_are_dicts():
    outputs = {"a": np.ones((2, 3)), "b": np.zeros(2)}
    task, scores = scored("own_metrics:two", outputs, data(target_a=np.zeros((2, 3)), y=np.zeros(2)))
    assert scores.tolist() == [3, 3] and not task.metric.higher_is_better


@pytest.mark.parametrize("name", ["Accuracy", "used", "Several:share"])
def test_update_and_compute(name):
    task, scores = scored(f"own_metrics:{name}", {"y": LOGITS}, data(label=LABELS))
    assert scores.shape == (1 + task.metric.resamples,) and task.metric.higher_is_better
    assert task.aggregate(scores) == pytest.approx(sk.accuracy_score(LABELS, LOGITS.argmax(1)), abs=1e-6)
    places = np.repeat(np.arange(50), next(resampling.draws(50, None)))
    assert scores[1] == pytest.approx(sk.accuracy_score(LABELS[places], LOGITS[places].argmax(1)), abs=1e-6)


def test_compute_of_predictions_and_references():
    task, scores = scored("own_metrics:f1", {"y": LOGITS}, data(label=LABELS), higher_is_better=True)
    assert task.metric.name == "f1"
    assert scores[0] == pytest.approx(sk.f1_score(LABELS, LOGITS.argmax(1), average="macro"), abs=1e-6)
    assert scores[0] == pytest.approx(task.more({"y": LOGITS}, data(label=LABELS))["F1"] / 100, abs=1e-6)
    places = np.repeat(np.arange(50), next(resampling.draws(50, None)))
    assert scores[1] == pytest.approx(sk.f1_score(LABELS[places], LOGITS[places].argmax(1), average="macro"))


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("own_metrics:gone", "own_metrics has no gone"),
        ("no_such_module:f", "cannot import no_such_module"),
        ("own_metrics:nameless", "does not say whether a higher score is better"),
        ("own_metrics:f1", "higher_is_better"),
    ],
)
def test_what_is_not_a_metric_is_said(reference, words):
    with pytest.raises(UsageError, match=words):
        tasks.get("classification", reference)


def test_what_is_no_metric_at_all():
    with pytest.raises(UsageError, match="is int: a metric is a function"):
        tasks.get("classification", "own_metrics:nothing", higher_is_better=True)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("own_metrics:one_number", r"gives an array of shape \(\) for 50 samples"),
        ("own_metrics:broken", "fails: KeyError: 'no such thing'"),
        ("own_metrics:Several", "computes share, count: say which"),
        ("own_metrics:Several:mean", "computes share, count: say which"),
    ],
)
def test_metrics_that_fail(reference, words):
    with pytest.raises(InputError, match=words):
        scored(reference, {"y": LOGITS}, data(label=LABELS))


def test_postprocess(tmp_path):
    text = "import numpy as np\ndef halves(sample):\n    return {'y': sample['a'] / 2}\n"
    text += "def boxes(sample):\n    n = int(sample['n'][0])\n    return {'boxes': np.ones((n, 4)), "
    text += "'scores': np.ones(n), 'classes': np.zeros(n)}\n"
    (tmp_path / "own_outputs.py").write_text(text)
    task = tasks.get("regression", postprocess="own_outputs:halves")
    outputs, samples = {"a": np.array([[2.0], [4.0]])}, data(target=np.array([1.0, 5.0]))
    task.check(outputs, samples)
    assert task.scores(outputs, samples).tolist() == [0, 3] and task.metric.name == "MAE"
    assert task.agreement(outputs, outputs) == 1 and task.more(outputs, samples)["RMSE"] == pytest.approx(4.5**0.5)
    padded = tasks.get("detection", postprocess="own_outputs:boxes")._made({"n": np.array([[2], [0], [1]])})
    assert padded["classes"].tolist() == [[0, 0], [-1, -1], [0, -1]] and padded["boxes"].shape == (3, 2, 4)
    with pytest.raises(InputError, match=r"postprocess='own_outputs:halves' fails on sample 0: KeyError: 'a'"):
        task.check({"b": outputs["a"]}, samples)
