"""A task whose metric is an error in pixels, through results, tables, gate, baseline, page and diff.

Nothing above mobconv/evaluate/tasks may take a metric for a percentage, or a higher score for the better one.
"""

import html
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

import mobconv
from mobconv import results
from mobconv.cli.app import run
from mobconv.common.files import sha256
from mobconv.data.labelled import Images
from mobconv.errors import InputError, UsageError
from mobconv.evaluate import tasks
from mobconv.evaluate.tasks import Metric
from mobconv.gate import baseline, budget, judge
from mobconv.gate.rules import MET, NOT_MET, WITHIN_NOISE, Evidence
from mobconv.report import changed, charts, drawing, fronts, gallery, overview, verdicts
from mobconv.report.digest import digest
from mobconv.results import Results, Row, diff, tables
from mobconv.schemes import Cell

SAMPLES = 400
BLUR = {"fp32": 0.0, "w8-linear": 0.01, "w4-linear": 0.3, "w3-linear": 0.8, "w2-linear": 6.0, "w1-linear": 9.0}
MARGIN = 0.5


class Ruler:
    """Mean absolute error of a length, in pixels."""

    name = "ruler"
    metric = Metric("MAE", "px", "px", higher_is_better=False)

    def check(self, outputs, data):
        pass

    def warning(self, score, outputs):
        return ""

    def scores(self, outputs, data):
        return np.abs(outputs["length"][:, 0] - data.labels).astype(np.float64)

    def aggregate(self, scores):
        return float(scores.mean())

    def agreement(self, outputs, reference):
        return float((np.rint(outputs["length"]) == np.rint(reference["length"])).mean())

    def more(self, outputs, data):
        return {"worst": float(self.scores(outputs, data).max())}


task = Ruler()


@pytest.fixture
def ruler(monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "ruler", __name__)
    return tasks.get("ruler")


def gamma(rng):
    """Numbers above 0 with a mean of 1."""
    drawn = rng.gamma(4.0, 1.0, SAMPLES)
    return drawn / drawn.mean()


def swept(ruler, folder, noise=1, blur=(), scored=True):
    """A folder as a sweep leaves it: two formats, float and five widths; blur: in place of a scheme's."""
    rng = np.random.default_rng(0)
    labels = rng.integers(10, 100, SAMPLES)
    images = Images("rulers", np.zeros((SAMPLES, 1, 1, 3), np.uint8), labels, (), "bb")
    off = rng.choice([-2.0, 2.0], SAMPLES) * gamma(rng)

    def outputs(blurred, seed):
        more = gamma(np.random.default_rng(seed)) * blurred
        return {"length": (labels + off + np.sign(off) * more)[:, None]}

    float_scores = ruler.scores(outputs(0.0, 0), images)
    scores = {"float": float_scores, "groups": np.arange(SAMPLES, dtype=np.int32) // 2}
    float_score = ruler.aggregate(float_scores)
    rows = []
    for backend in ("onnx", "tflite"):
        for place, (scheme, blurred) in enumerate((BLUR | dict(blur)).items()):
            name = f"{backend}/{scheme}"
            made = outputs(blurred, noise)
            scores[name] = ruler.scores(made, images)
            score = ruler.aggregate(scores[name])
            loss = ruler.metric.loss(float_score, score)
            path = folder / f"{name}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(1000 - 100 * place))
            rows.append(
                Row.of(
                    Cell.parse(name), results.OK, path=f"{name}.bin", sha256=sha256(path),
                    file_bytes=1000 - 100 * place, stored_bits=Cell.parse(name).scheme.bits, verified="runtime",
                    samples=SAMPLES, metric="MAE", score=score, float_score=float_score, reference_score=score,
                    metrics=ruler.more(made, images), quantization_loss=loss, conversion_loss=0.0,
                    agreement=ruler.agreement(made, made), latency_ratio=1.0,
                )
            )  # fmt: skip
    measured = Results(
        {"path": "ruler.pt", "sha256": "aa"}, {"source": "rulers", "sha256": "bb", "samples": SAMPLES}, {},
        results.task_fields(ruler.name, ruler.metric), float_score, rows,
        results.cliffs(rows, float_score, MARGIN, ruler.metric),
    )  # fmt: skip
    arrays = {name: each if name == "groups" else each.astype(np.float32) for name, each in scores.items()}
    results.write(folder, measured, arrays, tables.markdown(measured))
    if not scored:
        (folder / "scores.npz").unlink()
    return folder / "results.json"


def read(path):
    measured = results.read(path)
    return measured, results.read_scores(path, measured)


def printed(table, width=160):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def has_no_percentage(text):
    """Nothing but intervals, growth and agreement is a percentage here."""
    rest = re.sub(r"95 % interval|p at most 5 %|by [\d.]+ %|\([+-][\d.]+ %\)|100.00 % of images|[+-][\d.]+ %", "", text)
    assert not re.search(r"%|\bpoints?\b|top-", rest, re.IGNORECASE), rest


def test_written_and_read(ruler, tmp_path):
    path = swept(ruler, tmp_path / "out")
    measured, scores = read(path)
    assert measured.metric == ruler.metric and measured.task["name"] == "ruler"
    assert scores.of(measured.cells[1]).mean() == pytest.approx(measured.cells[1].score)
    assert {cliff.bits for cliff in measured.cliffs} == {3} and measured.cells[5].quantization_loss > 5
    assert measured.cells[1].metrics["worst"] > measured.cells[1].score


def test_tables(ruler, tmp_path):
    path = swept(ruler, tmp_path / "out")
    measured, _ = read(path)
    headings = [column.name for column in tables.columns(measured.metric)]
    assert headings[4] == "MAE px"
    page = path.with_name("results.md").read_text()
    assert "float baseline: MAE 2.00 px on 400 images; losses are in px of MAE above it, positive is worse." in page
    assert "Where MAE first rises more than 0.5 px above the baseline:" in page
    score = measured.cells[3].score
    assert f"- onnx linear per channel: falls off at 3 bits (MAE {score:.2f} px)" in page and score > 2.7
    assert tables.cliffs_heading(measured) == "MAE more than 0.5 px above the float baseline"
    has_no_percentage(page)


def check(path, entries, lock=None):
    file = path.parent.parent / "budget.yaml"
    file.write_text(f"budgets:\n- {{cells: '*/w4-linear', {entries}}}\n")
    measured, scores = read(path)
    return judge.judge(budget.load(file), Evidence(path, measured, scores, lock and baseline.read(lock)))


@pytest.mark.parametrize(
    ("rule", "outcome"),
    [
        ("max_score: 2.4 px", MET),
        ("max_score: 2.2", NOT_MET),
        ("max_drop: 0.4", MET),
        ("max_drop: 0.295", WITHIN_NOISE),
        ("max_drop: 0.1", NOT_MET),
        ("max_conversion_loss: 0", MET),
    ],
)
def test_gate(ruler, tmp_path, rule, outcome):
    report = check(swept(ruler, tmp_path / "out"), rule)
    (verdict,) = [each for each in report.verdicts if each.cell == "onnx/w4-linear"]
    assert (verdict.outcome, verdict.unit) == (outcome, "px")
    for text in (printed(verdicts.table(report, 160)), verdicts.markdown(report), verdicts.junit(report)):
        assert " px" in text
        has_no_percentage(text)


def test_gate_figures(ruler, tmp_path):
    report = check(swept(ruler, tmp_path / "out"), "max_drop: 0.4, max_score: 2.4 px")
    lines = [verdicts.line(each) for each in report.verdicts if each.cell == "onnx/w4-linear"]
    assert re.fullmatch(r"max_score: 2.3 px, limit 2.4 px", lines[0])
    assert re.fullmatch(r"max_drop: \+0.3 px \(\+0.2\d to \+0.3\d\), limit 0.4 px", lines[1])
    fields = verdicts.as_json(report)["verdicts"][1]
    assert fields["unit"] == "px" and fields["interval"]["low"] < fields["value"] < fields["interval"]["high"]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("min_score: 2.4 px", "min_score: of MAE, lower is better: use max_score"),
        ("max_score: 95 %", "max_score: '95 %': MAE is in px: write 95 px"),
        ("max_score: 2.4 mm", "max_score: '2.4 mm': MAE is in px: write 2.4 px"),
    ],
)
def test_limits_of_another_metric_are_refused(ruler, tmp_path, rule, words):
    with pytest.raises(UsageError, match=rf"budget.yaml: entry 1 \(line 2\), {re.escape(words)}"):
        check(swept(ruler, tmp_path / "out"), rule)


def test_regression(ruler, tmp_path):
    before = swept(ruler, tmp_path / "before")
    lock = tmp_path / "baseline.json"
    assert baseline.write(lock, *read(before)) == 12
    assert json.loads(lock.read_text())["metric"]["name"] == "MAE"
    assert check(before, "max_regression: 0", lock).met
    better = swept(ruler, tmp_path / "better", blur={"w4-linear": 0.1})
    report = check(better, "max_regression: 0", lock)
    assert report.met and report.verdicts[0].value == pytest.approx(-0.2, abs=0.02)
    worse = swept(ruler, tmp_path / "worse", blur={"w4-linear": 0.5})
    report = check(worse, "max_regression: 0.1", lock)
    assert [each.outcome for each in report.verdicts[:2]] == [NOT_MET] * 2
    assert report.verdicts[0].value == pytest.approx(0.2, abs=0.02) and report.verdicts[0].interval.low > 0.1


def test_digest(ruler, tmp_path):
    path = swept(ruler, tmp_path / "out")
    told = digest(*read(path), path)
    front = [each.row.scheme for each in told.fronts["onnx"]]
    assert front == ["w1-linear", "w2-linear", "w3-linear", "w4-linear", "w8-linear", "fp32"], "smaller is worse"
    choice = told.choices[0]
    assert choice.within.row.scheme == "w4-linear" and choice.lossless.row.scheme in ("fp32", "w8-linear")
    for each in told.measured:
        assert each.low <= each.score <= each.high and each.lost.low <= each.loss <= each.lost.high
    assert told.accuracy[0].backends == ("onnx", "tflite") and told.accuracy[0].cliffs == {"linear": 3}


def test_plots(ruler, tmp_path):
    path = swept(ruler, tmp_path / "out")
    told = digest(*read(path), path)
    low, high = charts.score_domain(told, told.accuracy[0].points)
    assert 0 < low < told.float_score < 11 < high < 13, "the range of the data, not 0 to 100"
    bits = drawn(charts.accuracy(told, told.accuracy[0]))
    assert {"MAE px", "margin +0.5", "float 2.00", "cliff at 3: linear"} <= set(bits)
    axis = fronts.loss_axis(told, told.measured, told.fronts["onnx"])
    ticks = fronts.loss_ticks(axis, told.margin, told.metric)
    assert 0.0 in ticks and MARGIN in ticks and len(ticks) >= 5
    assert min(np.diff([axis.pixel(tick) for tick in ticks])) >= 15, "labels are apart, and the better end is on top"
    front = drawn(fronts.sizes(told, "onnx"))
    assert {"px of MAE against float (2.00 px)", "float", "+0.5", "w4-linear"} <= set(front)
    lost = drawn(charts.losses(told, told.losses[0]))
    assert "px lost" in lost and "0.30" in lost
    has_no_percentage("\n".join([*bits, *front, *lost]))
    assert gallery.title("MAE against bits", told, told.accuracy[0]).endswith("ruler.pt, 400 images")


def drawn(spec):
    """All texts of a plot, those for a pointer too."""
    nodes = list(ET.fromstring(drawing.inline(drawing.svg(spec), "")).iter())
    texts = ["".join(node.itertext()) for node in nodes if node.tag.endswith("}text")]
    return texts + [node.get("data-tip") for node in nodes if node.get("data-tip")]


def page_text(told):
    text = re.sub(r"<style>.*?</style>|<script>.*?</script>", "", overview.html(told), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_page(ruler, tmp_path):
    path = swept(ruler, tmp_path / "out")
    text = page_text(digest(*read(path), path))
    for words in (
        "Float MAE 2.00 px", "Smallest within 0.5 px of float", "Cliff: more than 0.5 px lost at 3 bits",
        "MAE against bits", "Where MAE rises more than 0.5 px above float (2.00 px): the cliff.",
        "against float, below 0 is better", "+0.30 px, +0.2", "Losses are px of MAE, positive is worse", "worst ",
        "paired image by image (bootstrap over 200 groups of the 400 images)",
    ):  # fmt: skip
        assert words in text, words
    assert "\N{MINUS SIGN}0.30" not in text
    has_no_percentage(text)


def test_page_without_scores_of_samples(ruler, tmp_path):
    path = swept(ruler, tmp_path / "out", scored=False)
    told = digest(*read(path), path)
    assert not told.measured[0].lost.known and told.measured[0].low is None and told.choices[0].lossless is None
    text = page_text(told)
    assert "The results have no scores.npz beside them, so there are no intervals" in text
    assert "Smallest, no measurable loss not known no intervals without scores of samples" in text
    assert "nan" not in text.lower() and " to +" not in text


def test_gate_without_scores_of_samples(ruler, tmp_path):
    report = check(swept(ruler, tmp_path / "out", scored=False), "max_drop: 0.295")
    assert report.verdicts[0].outcome == NOT_MET and "by the figure alone" in report.verdicts[0].note


def side(path):
    return diff.Side(path, *read(path))


def test_diff(ruler, tmp_path):
    before = swept(ruler, tmp_path / "a")
    after = swept(ruler, tmp_path / "b", blur={"w4-linear": 0.6, "w3-linear": 0.2})
    changes = diff.compare(side(before), side(after))
    outcomes = {each.cell: each.outcome for each in changes.cells}
    assert outcomes["onnx/w4-linear"] == diff.WORSE and outcomes["onnx/w3-linear"] == diff.BETTER
    assert outcomes["onnx/w8-linear"] == diff.SAME
    text = printed(changed.table(changes))
    row = next(line for line in text.splitlines() if "onnx/w4-linear" in line)
    assert re.search(r"2\.3\d → 2\.6\d\s+\+0\.\d\d\s+\+0\.\d\d to \+0\.\d\d", row), row
    legend = "\n".join(changed.legend(changes))
    assert "change: px of MAE, B less A, below 0 is better" in legend and "sign-flip permutation test" in legend
    assert "float baseline: 2.00 px and 2.00 px, +0.00 px (+0.00 to +0.00)" in legend
    has_no_percentage(text + legend)
    worse = next(each for each in changed.as_json(changes)["cells"] if each["cell"] == "onnx/w4-linear")["change"]
    assert 0 < worse["low"] < worse["value"] < worse["high"] and worse["p"] < 0.001
    assert "MAE px" in changed.html(changes)


def test_diff_without_scores_of_samples(ruler, tmp_path):
    before = swept(ruler, tmp_path / "a", scored=False)
    after = swept(ruler, tmp_path / "b", blur={"w4-linear": 0.6}, scored=False)
    for name in ("onnx/w4-linear", "tflite/w4-linear"):
        (after.parent / f"{name}.bin").write_bytes(b"another file")
    content = json.loads(after.read_text())
    for row in content["cells"]:
        row["sha256"] = "cc" if "w4" in row["cell"] else row["sha256"]
    after.write_text(json.dumps(content))
    changes = diff.compare(side(before), side(after))
    outcomes = {each.cell: each for each in changes.cells}
    assert outcomes["onnx/w4-linear"].outcome == diff.NOT_COMPARED and outcomes["onnx/w4-linear"].p is None
    assert outcomes["onnx/w8-linear"].outcome == diff.SAME
    assert "MAE has no interval without scores of the same samples on both sides" in changes.notes
    text = printed(changed.table(changes))
    row = next(line for line in text.splitlines() if "onnx/w4-linear" in line)
    assert re.search(r"\+0\.\d\d\s+-\s+-", row), row
    figures = json.loads(json.dumps(changed.as_json(changes), allow_nan=False))
    assert figures["cells"][0]["change"]["low"] is None and "nan" not in changed.html(changes).lower()


def test_another_metric_is_refused(ruler, tmp_path):
    path = swept(ruler, tmp_path / "a")
    other = side(path)
    millimetres = replace(ruler.metric, unit="mm", loss_unit="mm")
    other.results.task = results.task_fields("ruler", millimetres)
    with pytest.raises(InputError, match=r"is judged by MAE px and .* by MAE mm"):
        diff.compare(side(path), other)


def test_the_command_line(ruler, tmp_path, capsys):
    path = swept(ruler, tmp_path / "out")
    assert run(["report", str(path)]) == 0 and path.with_name("report.html").exists()
    (tmp_path / "budget.yaml").write_text("budgets: [{cells: onnx/w8-linear, max_score: 2.1 px, max_drop: 0.05}]\n")
    assert run(["check", str(path), "--budget", str(tmp_path / "budget.yaml")]) == 0
    assert "at most 2.1 px" in capsys.readouterr().out
    assert run(["baseline", str(path), "-o", str(tmp_path / "baseline.json")]) == 0


def test_top_1_is_named_in_its_task_alone():
    package = Path(mobconv.__file__).parent
    tasks_folder = package / "evaluate" / "tasks"
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".html", ".js", ".css") and tasks_folder not in path.parents:
            found = re.search(r"top-?[15]\b", path.read_text(), re.IGNORECASE)
            assert found is None, f"{path.relative_to(package)}: {found[0]}"
