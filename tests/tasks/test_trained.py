"""One trained network of each task through export, sweep, report and gate, which catches a bias added to a file."""

import html
import json
import re

import numpy as np
import pytest
from trained import NEW, TASKS, make

import mobconv
from mobconv import results
from mobconv.cli.app import run
from mobconv.evaluate import tasks
from mobconv.sweep import cells

# TFLite's converter is not asked for outputs in a dict here: see tests of its own
FORMATS = {"detection": ("onnx", "coreml")}
# a loss that quantization in 8 bits does not reach and a bias does, in the metric's unit
MARGIN = {"regression": 0.02, "embedding": 0.01, "fidelity": 2.0}


@pytest.fixture(scope="module", params=list(TASKS))
def swept(request, tmp_path_factory):
    """A task, its folder, and the results of a sweep there."""
    task, folder = request.param, tmp_path_factory.mktemp(request.param)
    formats = ", ".join(FORMATS.get(task, ("onnx", "tflite", "coreml")))
    text = make(task, folder) + f"backends: [{formats}]\nschemes: [fp32, w8-linear]\nmargin: {MARGIN.get(task, 5)}\n"
    (folder / "recipe.yaml").write_text(text)
    return task, folder, mobconv.sweep(folder / "recipe.yaml", folder / "out")


def budget(folder, rules):
    (folder / "budget.yaml").write_text(f'budgets: [{{cells: "*", {rules}}}]\n')
    return str(folder / "budget.yaml")


def test_every_file_has_the_score_of_the_float_network(swept):
    task, _, measured = swept
    metric, rows = tasks.get(task).metric, measured.cells
    assert [row.status for row in rows] == ["ok"] * len(rows), [row.reason for row in rows]
    assert measured.metric == metric and {row.metric for row in rows} == {metric.name}
    least = TASKS[task][4]
    assert measured.float_score >= least if metric.higher_is_better else measured.float_score <= least
    for row in rows:
        assert row.samples == NEW and row.conversion_loss == pytest.approx(0, abs=1e-2)
        assert row.snr_db is None or row.snr_db > 90
        assert row.quantization_loss == pytest.approx(metric.loss(row.float_score, row.reference_score), abs=1e-4)
        if row.scheme == "fp32":
            assert row.score == pytest.approx(measured.float_score, abs=1e-2)
            assert row.agreement == 1
        others = {measure.metric.name for measure in tasks.get(task).measures} - {metric.name}
        assert set(row.metrics) <= others and (row.metrics or task == "segmentation")


def test_scores_of_samples_are_stored(swept):
    task, folder, measured = swept
    scores = results.read_scores(folder / "out" / "results.json", results.read(folder / "out" / "results.json"))
    metric = tasks.get(task).metric
    for row in measured.cells:
        assert len(scores.of(row)) == metric.scores_of(NEW)
    assert scores.float_baseline.shape == (metric.scores_of(NEW),)


def test_the_report_speaks_of_the_metric(swept):
    _, folder, measured = swept
    assert run(["report", str(folder / "out")]) == 0
    page = (folder / "out" / "report.html").read_text()
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())
    metric = measured.metric
    assert f"Float {metric.name} {metric.text(measured.float_score)}" in text
    assert f"{metric.title} against bits" in text and "nan" not in text.lower()
    if metric.name != "top-1":
        assert "top-1" not in text
    for name, value in measured.cells[0].metrics.items():
        assert f"{name} {measured.further(name).text(value)}" in text


def test_the_gate_passes(swept, capsys):
    _, folder, measured = swept
    out, margin = str(folder / "out"), MARGIN.get(swept[0], 5)
    assert run(["check", out, "--budget", budget(folder, f"max_drop: {margin}, max_conversion_loss: {margin}")]) == 0
    assert "The budget is met" in capsys.readouterr().out
    lock = str(folder / "baseline.json")
    assert run(["baseline", out, "-o", lock]) == 0
    assert run(["check", out, "--budget", budget(folder, f"max_regression: {margin}"), "--baseline", lock]) == 0
    assert json.loads((folder / "baseline.json").read_text())["metric"]["name"] == measured.metric.name


def biased(path):
    """Add to the first column or channel of each floating output a constant of its size."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {
        each.name: np.zeros(
            [n if isinstance(n, int) else 1 for n in each.shape], np.int64 if "int" in each.type else np.float32
        )
        for each in session.get_inputs()
    }
    for output, value in zip(model.graph.output, session.run(None, feeds), strict=True):
        if output.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        bias = np.zeros((1, value.shape[1], *[1] * (value.ndim - 2)), np.float32)
        bias[:, 0] = max(1.0, float(np.abs(value).max()))
        for node in model.graph.node:
            node.output[:] = [f"{name}_plain" if name == output.name else name for name in node.output]
        model.graph.initializer.append(numpy_helper.from_array(bias, f"{output.name}_bias"))
        model.graph.node.append(helper.make_node("Add", [f"{output.name}_plain", f"{output.name}_bias"], [output.name]))
    onnx.save(model, path)


def test_the_gate_fails_when_a_bias_is_added(swept, monkeypatch, capsys):
    _, folder, _ = swept
    build = cells.build

    def faulty(*arguments):
        built = build(*arguments)
        biased(built.path)
        return built

    monkeypatch.setattr(cells, "build", faulty)
    out = folder / "faulty"
    measured = mobconv.sweep(folder / "recipe.yaml", out, only=["onnx/w8-linear"])
    (row,) = measured.cells
    margin = MARGIN.get(swept[0], 5)
    assert row.status == "ok", row.reason
    assert row.conversion_loss > margin
    for rule in ("max_drop", "max_conversion_loss"):
        assert run(["check", str(out), "--budget", budget(folder, f"{rule}: {margin}")]) == 1
        shown = capsys.readouterr().out
        assert "not met" in shown and rule in shown
    lock = str(folder / "baseline.json")
    assert run(["baseline", str(folder / "out"), "-o", lock]) == 0
    rules = budget(folder, f"max_regression: {margin}")
    assert run(["check", str(out), "--budget", rules, "--baseline", lock]) == 1
