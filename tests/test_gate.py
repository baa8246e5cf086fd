"""Each rule is met up to its limit and not beyond; what cannot be judged is told; what was altered fails."""

import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from mobconv import results
from mobconv.errors import InputError, UsageError
from mobconv.gate import baseline, budget, judge
from mobconv.gate.rules import MET, NOT_JUDGED, NOT_MET, WITHIN_NOISE, Evidence
from mobconv.report import verdicts
from mobconv.results import Results, Row
from mobconv.schemes import Cell

IMAGES = 1000
LABELS = np.arange(IMAGES) % 10
FLOAT_WRONG = 50


def predicted(wrong, start=0):
    """Predictions with so many wrong from one image on."""
    found = LABELS.copy()
    found[start : start + wrong] = (found[start : start + wrong] + 1) % 10
    return found


def top1(predictions):
    return float((predictions == LABELS).mean())


@dataclass
class Sweep:
    """Results on disk, as a sweep leaves them: cells with their figures, predictions, files."""

    folder: Path

    def __post_init__(self):
        self.rows, self.predictions = [], {"labels": LABELS, "float": predicted(FLOAT_WRONG)}
        self.model, self.data = (
            {"path": "net.pt", "sha256": "aa" * 32},
            {"source": "d", "sha256": "bb", "images": IMAGES},
        )

    def cell(self, name, wrong=FLOAT_WRONG, content=b"0123456789", start=0, **values):
        self.predictions[name] = predicted(wrong, start)
        path = self.folder / f"{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        from mobconv.common.files import sha256

        figures = {
            "top1": top1(self.predictions[name]),
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
        self.rows.append(Row.of(Cell.parse(name), status, reason=reason))
        return self

    def write(self, predictions=True):
        found = Results(self.model, self.data, {}, top1(self.predictions["float"]), self.rows, [])
        results.write(self.folder, found, self.predictions, "")
        if not predictions:
            (self.folder / "predictions.npz").unlink()
        return self.folder / "results.json"


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path / "out")


def check(path, text, lock=None, artifacts=True):
    """The report on results at `path`; text: the entries of the budget, or all of it."""
    file = path.parent.parent / "budget.yaml"
    file.write_text(text if "budgets:" in text else f"budgets:\n{text}")
    found = results.read(path)
    held = Evidence(path, found, results.read_predictions(path, found), lock and baseline.read(lock))
    return judge.judge(budget.load(file), held, artifacts)


def one(report, rule):
    (found,) = [verdict for verdict in report.verdicts if verdict.rule == rule]
    return found


def locked(path):
    found = results.read(path)
    lock = path.parent.parent / "baseline.json"
    baseline.write(lock, found, results.read_predictions(path, found))
    return lock


def test_notes_of_the_results_are_told_and_fail_nothing(sweep):
    path = sweep.cell("onnx/w4-kmeans").write()
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"notes": ["no more than guessing"]}))
    report = check(path, "- {cells: onnx/*, must_exist: true}\n")
    assert report.met and "no more than guessing" in report.notes
    assert "- no more than guessing\n" in verdicts.markdown(report)


@pytest.mark.parametrize(
    ("rule", "figures", "outcome", "value"),
    [
        ("max_bytes: 10 B", {}, MET, 10),
        ("max_bytes: 9 B", {}, NOT_MET, 10),
        ("min_accuracy: 95 %", {}, MET, 95.0),
        ("min_accuracy: 95.1 %", {}, NOT_MET, 95.0),
        ("max_conversion_loss: 0.5", {"conversion_loss": 0.5}, MET, 0.5),
        ("max_conversion_loss: 0.5", {"conversion_loss": 0.6}, NOT_MET, 0.6),
        ("max_conversion_loss: 0", {"conversion_loss": -0.6}, MET, -0.6),
        ("max_conversion_loss: 0", {"conversion_loss": None}, NOT_MET, None),
        ("min_agreement: 99.3 %", {"agreement": 0.993}, MET, 99.3),
        ("min_agreement: 99.3 %", {"agreement": 0.992}, NOT_MET, 99.2),
        ("min_agreement: 99.3 %", {"agreement": None}, NOT_MET, None),
        ("max_latency_ratio: 1.5", {"latency_ratio": 1.5}, MET, 1.5),
        ("max_latency_ratio: 1.5", {"latency_ratio": 1.51}, NOT_MET, 1.51),
        ("max_latency_ratio: 1.5", {"latency_ratio": None}, NOT_MET, None),
        ("max_latency_ratio: 1.5", {"latency_ratio": None, "verified": "emulated"}, NOT_JUDGED, None),
        ("must_exist: true", {}, MET, "ok"),
    ],
)
def test_rules_that_are_judged_by_the_figure(sweep, rule, figures, outcome, value):
    report = check(sweep.cell("onnx/w4-kmeans", **figures).write(), f"- {{cells: onnx/*, {rule}}}\n")
    found = one(report, rule.partition(":")[0])
    assert (found.cell, found.outcome, found.value, found.entry) == ("onnx/w4-kmeans", outcome, value, 1)
    assert report.met is (outcome != NOT_MET)


class TestDrop:
    """Float has 50 wrong of 1000. `wrong` more of them: the interval is about 1.96 sqrt(wrong) / 10 points wide."""

    @pytest.mark.parametrize(
        ("wrong", "limit", "outcome"),
        [
            (50, 0, MET),  # the same images are right: nothing to tell
            (60, 1, MET),  # a point exactly is within the limit of one
            (61, 1, WITHIN_NOISE),
            (60, 0, NOT_MET),  # ten lost and none won are no chance
            (90, 1, NOT_MET),  # 4 points, 2.8 to 5.2
            (90, 3, WITHIN_NOISE),
            (90, 4, MET),
            (30, 0, MET),  # better than float
        ],
    )
    def test_beyond_noise(self, sweep, wrong, limit, outcome):
        path = sweep.cell("onnx/w4-kmeans", wrong).write()
        found = one(check(path, f"- {{cells: onnx/*, max_drop: {limit}}}\n"), "max_drop")
        assert found.outcome == outcome
        assert found.value == pytest.approx((wrong - FLOAT_WRONG) / 10)
        assert found.interval.low <= found.value <= found.interval.high
        assert (found.interval.low > limit) is (outcome == NOT_MET)

    def test_it_is_paired(self, sweep):
        """As much is lost in both, but here other images are right: the interval is wider."""
        path = sweep.cell("onnx/w4-kmeans", 70).cell("onnx/w3-kmeans", 70, start=500).write()
        same, other = check(path, "- {cells: onnx/*, max_drop: 0.5}\n").verdicts[:2]
        assert (same.cell, same.outcome) == ("onnx/w4-kmeans", NOT_MET)
        assert (other.cell, other.outcome) == ("onnx/w3-kmeans", WITHIN_NOISE)
        assert same.value == other.value and other.interval.low < 0

    def test_scans_are_drawn_whole(self, sweep):
        sweep.predictions["groups"] = np.arange(IMAGES) // 50  # 20 scans, all that is lost in one of them
        found = one(check(sweep.cell("onnx/w4-kmeans", 90).write(), "- {cells: '*', max_drop: 1}\n"), "max_drop")
        assert found.outcome == WITHIN_NOISE and found.interval.groups == 20

    @pytest.mark.parametrize(("wrong", "outcome"), [(60, MET), (61, NOT_MET)])
    def test_without_predictions_the_figure_is_judged(self, sweep, wrong, outcome):
        report = check(sweep.cell("onnx/w4-kmeans", wrong).write(False), "- {cells: '*', max_drop: 1}\n")
        found = one(report, "max_drop")
        assert found.outcome == outcome and found.interval is None and "by the figure alone" in found.note
        assert any("no predictions.npz" in note for note in report.notes)


class TestRegression:
    def check(self, sweep, tmp_path, before, after, rules, **options):
        lock = locked(Sweep(tmp_path / "earlier").cell("onnx/w4-kmeans", **before).write())
        return check(sweep.cell("onnx/w4-kmeans", **after).write(), f"- {{cells: onnx/*, {rules}}}\n", lock, **options)

    @pytest.mark.parametrize(
        ("after", "limit", "outcome"),
        [(60, 0, MET), (50, 0, MET), (61, 0, WITHIN_NOISE), (75, 0.5, NOT_MET), (75, 1.5, MET), (75, 1, WITHIN_NOISE)],
    )
    def test_beyond_noise(self, sweep, tmp_path, after, limit, outcome):
        report = self.check(sweep, tmp_path, {"wrong": 60}, {"wrong": after}, f"max_regression: {limit}")
        found = one(report, "max_regression")
        assert found.outcome == outcome and found.value == pytest.approx((after - 60) / 10)
        assert found.interval is not None and report.met is (outcome != NOT_MET)

    @pytest.mark.parametrize("missing", ["earlier", "out"])
    @pytest.mark.parametrize(("after", "outcome"), [(60, MET), (61, NOT_MET)])
    def test_without_predictions_on_either_side(self, sweep, tmp_path, missing, after, outcome):
        earlier = Sweep(tmp_path / "earlier").cell("onnx/w4-kmeans", 50)
        lock = locked(earlier.write(missing != "earlier"))
        path = sweep.cell("onnx/w4-kmeans", after).write(missing != "out")
        found = one(check(path, "- {cells: '*', max_regression: 1}\n", lock), "max_regression")
        assert found.outcome == outcome and found.interval is None and "by the figure alone" in found.note

    @pytest.mark.parametrize(
        ("limit", "content", "outcome", "value"),
        [
            ("0 %", 100, MET, 0),
            ("0 B", 100, MET, 0),
            ("0 %", 101, NOT_MET, 1.0),
            ("1 %", 101, MET, 1.0),
            ("1 B", 101, MET, 1),
            ("1 B", 102, NOT_MET, 2),
            ("0 %", 90, MET, -10.0),
        ],
    )
    def test_growth(self, sweep, tmp_path, limit, content, outcome, value):
        after = {"content": b"x" * content}
        report = self.check(sweep, tmp_path, {"content": b"y" * 100}, after, f"max_growth: {limit}")
        found = one(report, "max_growth")
        assert (found.outcome, found.value) == (outcome, value) and "100 in the baseline" in found.note

    def test_a_new_cell_has_nothing_to_be_held_against(self, sweep, tmp_path):
        lock = locked(Sweep(tmp_path / "earlier").cell("onnx/w8-kmeans").cell("onnx/w7-kmeans").write())
        path = sweep.cell("onnx/w4-kmeans").cell("onnx/w8-kmeans").write()
        report = check(path, "- {cells: '*', max_regression: 0, max_growth: 0 %}\n", lock)
        assert report.met
        assert [(v.cell, v.note) for v in report.of(NOT_JUDGED)] == [("onnx/w4-kmeans", "not in the baseline")] * 2
        assert "in the baseline, no longer in the results: onnx/w7-kmeans" in report.notes

    def test_a_cell_of_the_baseline_that_is_gone(self, sweep, tmp_path):
        lock = locked(Sweep(tmp_path / "earlier").cell("onnx/w8-kmeans").cell("tflite/w8-kmeans").write())
        path = sweep.cell("onnx/w8-kmeans").write()
        report = check(path, "- {cells: ['onnx/*', 'tflite/*'], must_exist: true}\n", lock)
        (failed,) = report.of(NOT_MET)
        assert (failed.cell, failed.rule, failed.note) == ("tflite/w8-kmeans", "must_exist", "the baseline has it")

    def test_other_images(self, sweep, tmp_path):
        sweep.data["sha256"] = "cc"
        report = self.check(sweep, tmp_path, {}, {}, "max_regression: 0, max_growth: 0 %")
        assert [v.rule for v in report.of(NOT_MET)] == ["data"]
        assert one(report, "max_regression").outcome == NOT_JUDGED and one(report, "max_growth").outcome == MET

    def test_another_checkpoint(self, sweep, tmp_path):
        sweep.model["sha256"] = "cc" * 32
        report = self.check(sweep, tmp_path, {}, {}, "max_regression: 0")
        (failed,) = report.of(NOT_MET)
        assert failed.rule == "checkpoint" and "baseline.json is of another checkpoint" in failed.note

    def test_no_baseline(self, sweep):
        path = sweep.cell("onnx/w4-kmeans").write()
        with pytest.raises(UsageError, match=r"entry 1 \(line 2\), max_growth: held against what\?.*--baseline"):
            check(path, "- {cells: '*', max_growth: 1 %}\n")


def test_the_baseline_is_small_and_reads_back(sweep):
    path = sweep.cell("onnx/w4-kmeans", 90).without_file("onnx/fp16", results.FAILED, "no").write()
    lock = locked(path)
    held = baseline.read(lock)
    assert list(held.cells) == ["onnx/w4-kmeans"] and held.model["sha256"] == "aa" * 32
    cell = held.cells["onnx/w4-kmeans"]
    assert (cell.top1, cell.bytes) == (0.91, 10) and cell.right.sum() == 910
    assert np.array_equal(cell.right, sweep.predictions["onnx/w4-kmeans"] == LABELS)
    assert lock.stat().st_size < 1000
    content = json.loads(lock.read_text())
    assert (content["kind"], content["schema"]) == ("mobconv baseline", 1)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c.update(kind="x"), "not a baseline"),
        (lambda c: c.update(schema=2), "schema 2, not 1"),
        (lambda c: c.pop("cells"), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"].update(right="!"), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"].update(right=7), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"].update(right="AAAA"), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"].update(bytes=0), "broken"),
        (lambda c: c["cells"]["onnx/w4-kmeans"].update(top1=None), "broken"),
        (lambda c: c["data"].update(images=7), "not one bit for each of 7 images"),
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


class TestRowsWithoutAFile:
    def test_failed_is_not_met_under_every_rule(self, sweep):
        path = sweep.without_file("onnx/w4-kmeans", results.FAILED, "a kernel").write()
        report = check(path, "- {cells: '*', must_exist: true, max_bytes: 1 GB, max_drop: 100}\n")
        assert [v.rule for v in report.of(NOT_MET)] == ["must_exist", "max_bytes", "max_drop"]
        assert all("a kernel" in v.note for v in report.verdicts)

    def test_unsupported_is_told(self, sweep):
        path = sweep.without_file("onnx/w4-kmeans@native", results.UNSUPPORTED, "no such type").write()
        report = check(path, "- {cells: '*', max_bytes: 1 B, max_drop: 0}\n")
        assert report.met and [v.note for v in report.of(NOT_JUDGED)] == ["unsupported: no such type"] * 2

    def test_unsupported_under_must_exist(self, sweep):
        path = sweep.without_file("onnx/w4-kmeans@native", results.UNSUPPORTED, "no such type").write()
        (failed,) = check(path, "- {cells: '*', max_bytes: 1 B, must_exist: true}\n").of(NOT_MET)
        assert (failed.rule, failed.value, failed.limit) == ("must_exist", "unsupported", "ok")
        assert failed.note == "no such type"

    def test_a_cell_that_was_left_out(self, sweep):
        path = sweep.cell("onnx/w4-kmeans").write()
        (failed,) = check(path, "- {cells: onnx/w4-kmean, must_exist: true}\n").of(NOT_MET)
        assert (failed.cell, failed.value) == ("onnx/w4-kmean", "not in the results")
        assert failed.note == "did you mean 'onnx/w4-kmeans'?"


class TestGlobs:
    @pytest.mark.parametrize(
        ("glob", "words"),
        [
            ("onnx/w4-kmean", "did you mean 'onnx/w4-kmeans'"),
            ("onxx/*", "did you mean 'onnx/fp32'"),
            ("zz", "there are onnx/w4-kmeans, onnx/fp32, tflite/w4-linear and 1 more"),
        ],
    )
    def test_one_that_matches_nothing(self, sweep, glob, words):
        for name in ("onnx/w4-kmeans", "onnx/fp32", "tflite/w4-linear", "tflite/fp32"):
            sweep.cell(name)
        with pytest.raises(UsageError) as found:
            check(
                sweep.write(), f"- {{cells: '*', max_drop: 1}}\n- {{cells: [onnx/fp32, '{glob}'], max_bytes: 1 GB}}\n"
            )
        for word in ("budget.yaml: entry 2 (line 3), cells: ", f"'{glob}' matches none of the 4 cells", words):
            assert word in str(found.value)

    def test_a_glob_under_must_exist_matches_something(self, sweep):
        with pytest.raises(UsageError, match="matches none"):
            check(sweep.cell("onnx/fp32").write(), "- {cells: coreml/*, must_exist: true}\n")

    def test_all_entries_that_match_hold(self, sweep):
        path = sweep.cell("onnx/fp32").cell("onnx/w4-kmeans").cell("tflite/fp32").write()
        report = check(path, "- {cells: 'onnx/*', max_bytes: 20 B}\n- {cells: '*/w4-*', max_bytes: 5 B}\n")
        (failed,) = report.of(NOT_MET)
        assert (failed.cell, failed.limit, failed.entry) == ("onnx/w4-kmeans", 5, 2)
        assert sum(v.rule == "max_bytes" for v in report.verdicts) == 3
        assert report.notes == ("under no rule: tflite/fp32",)


class TestArtifacts:
    RULES = "- {cells: '*', max_bytes: 1 GB}\n"

    def test_untouched(self, sweep):
        report = check(sweep.cell("onnx/fp32").cell("onnx/fp16").write(), self.RULES)
        assert report.met and one(report, "artifacts").value == "2 as measured"

    def test_one_byte(self, sweep):
        path = sweep.cell("onnx/fp32").cell("onnx/fp16").write()
        (path.parent / "onnx" / "fp16.onnx").write_bytes(b"0123456788")
        report = check(path, self.RULES)
        (failed,) = report.of(NOT_MET)
        assert (failed.cell, failed.rule) == ("onnx/fp16", "artifact") and "was changed" in failed.note
        assert one(report, "artifacts").value == "1 as measured"
        loose = check(path, self.RULES, artifacts=False)
        assert loose.met and any("--no-artifacts" in note for note in loose.notes)

    def test_one_byte_of_a_folder(self, sweep):
        path = sweep.cell("onnx/fp32").write()
        folder = path.parent / "coreml" / "fp32.mlpackage" / "Data"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"0123")
        from mobconv.common.files import sha256

        row = replace(sweep.rows[0], path="coreml/fp32.mlpackage", sha256=sha256(folder.parent), file_bytes=4)
        sweep.rows[0] = row
        assert check(sweep.write(), self.RULES).met
        (folder / "weights").write_bytes(b"0124")
        assert [v.rule for v in check(path, self.RULES).of(NOT_MET)] == ["artifact"]

    def test_missing(self, sweep):
        path = sweep.cell("onnx/fp32").write()
        (path.parent / "onnx" / "fp32.onnx").unlink()
        (failed,) = check(path, self.RULES).of(NOT_MET)
        assert (failed.rule, failed.value) == ("artifact", "missing")

    @pytest.mark.parametrize(
        ("values", "value"), [({"sha256": None}, "no file named"), ({"file_bytes": 9}, "10 bytes")]
    )
    def test_results_that_were_edited(self, sweep, values, value):
        (failed,) = check(sweep.cell("onnx/fp32", **values).write(), self.RULES).of(NOT_MET)
        assert (failed.rule, failed.value) == ("artifact", value)


class TestCheckpoint:
    def test_the_same_and_another(self, sweep):
        from mobconv.common.files import sha256

        path = sweep.cell("onnx/fp32").write()
        net = path.parent.parent / "net.pt"
        net.write_bytes(b"weights")
        text = "checkpoint: net.pt\nbudgets: [{cells: '*', max_bytes: 1 GB}]\n"
        (failed,) = check(path, text).of(NOT_MET)
        assert failed.rule == "checkpoint" and "are not of" in failed.note and failed.cell == ""
        sweep.model["sha256"] = sha256(net)
        assert check(sweep.write(), text).met

    def test_missing(self, sweep):
        with pytest.raises(InputError, match=r"net.pt: no such checkpoint"):
            check(sweep.cell("onnx/fp32").write(), "checkpoint: net.pt\nbudgets: [{cells: '*', max_bytes: 1 GB}]\n")


class TestPredictions:
    RULES = "- {cells: '*', max_drop: 1}\n"

    def test_results_that_were_edited(self, sweep):
        sweep.cell("onnx/fp32", 90, top1=0.95)
        with pytest.raises(InputError, match=r"onnx/fp32: .*gives top-1 91.00 %, .*says 95.00 %"):
            check(sweep.write(), self.RULES)
        with pytest.raises(InputError, match=r"onnx/fp32: predictions.npz is of other results"):
            locked(sweep.write())

    def test_ties_of_logits_are_no_edit(self, sweep):
        assert check(sweep.cell("onnx/fp32", 55, top1=0.95).write(), self.RULES).met

    def test_of_other_cells(self, sweep):
        sweep.cell("onnx/fp32")
        del sweep.predictions["onnx/fp32"]
        with pytest.raises(InputError, match="has no predictions of onnx/fp32"):
            check(sweep.write(), self.RULES)

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"float": LABELS}, "float baseline's top-1 is another"),
            ({"onnx/fp32": LABELS[:5]}, "onnx/fp32 is not of the 1000 images"),
        ],
    )
    def test_of_other_images(self, sweep, change, word):
        path = sweep.cell("onnx/fp32").write()
        np.savez_compressed(path.with_name("predictions.npz"), **{**sweep.predictions, **change})
        with pytest.raises(InputError, match=word):
            check(path, self.RULES)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"text"])
    def test_broken(self, sweep, content):
        path = sweep.cell("onnx/fp32").write()
        path.with_name("predictions.npz").write_bytes(content)
        with pytest.raises(InputError, match="not predictions of a sweep"):
            check(path, self.RULES)


@pytest.fixture
def report(sweep):
    """One of each outcome, with a reason that no format may take for its own syntax."""
    sweep.cell("onnx/w4-kmeans", 61).cell("onnx/w2-kmeans", 400)
    sweep.without_file("onnx/w1-kmeans", results.FAILED, "a <b> | `c` & 100 %\nnext\x00 ::error::")
    sweep.without_file("onnx/fp16", results.UNSUPPORTED, "no type")
    return check(sweep.write(), "- {cells: '*', max_drop: 1, max_bytes: 1 kB}\n")


def test_failures_come_first(report):
    order = [NOT_MET, WITHIN_NOISE, NOT_JUDGED, MET]
    ranks = [order.index(verdict.outcome) for verdict in report.verdicts]
    assert ranks == sorted(ranks) and set(ranks) == {0, 1, 2, 3}
    assert verdicts.sentence(report) == (
        "The budget is not met: 3 of 9 verdicts failed (1 within noise, 2 not judged)."
    )
    named = verdicts.failures(report).splitlines()
    assert len(named) == 4
    assert named[1].startswith("  onnx/w2-kmeans  max_drop: +35 points (+") and "limit 1 point" in named[1]


def test_junit_is_xml_with_a_case_for_each_verdict(report):
    root = ET.fromstring(verdicts.junit(report))
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped"), suite.get("errors")) == (
        "9",
        "3",
        "2",
        "0",
    )
    assert len(suite) == 9 == sum(1 for case in suite if case.get("classname") and case.get("name"))
    failed = [case for case in suite if case.find("failure") is not None]
    assert [(case.get("classname"), case.get("name")) for case in failed] == [
        ("onnx/w2-kmeans", "max_drop"),
        ("onnx/w1-kmeans", "max_bytes"),
        ("onnx/w1-kmeans", "max_drop"),
    ]
    assert "a <b> | `c` & 100 %" in failed[1].find("failure").text
    assert len(suite.findall("testcase/skipped")) == 2


def test_markdown_keeps_its_columns(report):
    text = verdicts.markdown(report)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 9 + 2 * 2  # two tables with a head of two lines
    assert {line.replace("\\|", "").count("|") for line in rows} == {7}
    assert text.startswith("### :x: The budget is not met") and text.count("**not met**") == 3
    assert "a &lt;b&gt; \\| \\`c\\` &amp; 100 % next" in text and "<details><summary>3 met</summary>" in text


def test_annotations_are_one_line_each(report):
    found = list(verdicts.workflow_commands(report))
    assert [line.partition(" ")[0] for line in found] == ["::error"] * 3 + ["::warning"]
    assert all(line.startswith(("::error title=mobconv check::onnx/", "::warning title=")) for line in found)
    assert "100 %25 next" in found[1] and not any("\n" in line for line in found)


def test_json_is_all_of_it(report):
    found = json.loads(json.dumps(verdicts.as_json(report), allow_nan=False))
    assert found["met"] is False and found["counts"] == {"met": 3, "within noise": 1, "not judged": 2, "not met": 3}
    first = found["verdicts"][0]
    assert (first["cell"], first["rule"], first["value"], first["limit"]) == ("onnx/w2-kmeans", "max_drop", 35.0, 1.0)
    assert first["interval"]["low"] < 35 < first["interval"]["high"] and first["unit"] == "points"


@pytest.mark.parametrize(
    ("value", "unit", "signed", "text"),
    [
        (1_300_001, "bytes", False, "1,300,001 bytes"),
        (-3, "bytes", True, "-3 bytes"),
        (95.0, "%", False, "95 %"),
        (0.00001, "points", True, "0 points"),
        (1.0004, "points", True, "+1.0004 points"),
        (-1.0, "points", True, "-1 point"),
        (1.5, "x", False, "1.5x"),
        ("ok", "", False, "ok"),
        (None, "points", True, "-"),
    ],
)
def test_figures_for_people(value, unit, signed, text):
    assert verdicts.figure(value, unit, signed) == text


@pytest.mark.parametrize(
    ("rule", "value", "limit", "unit", "text"),
    [
        ("max_drop", 0.4567, 0.5, "points", "+0.46 points"),
        ("max_drop", 0.5012, 0.5, "points", "+0.5012 points"),  # not to be told as 0.5, at most 0.5
        ("max_drop", 0.5, 0.5, "points", "+0.5 points"),
        ("max_latency_ratio", 1.23456, 1.5, "x", "1.23x"),
        ("min_agreement", 98.9996, 99.0, "%", "98.9996 %"),
        ("max_growth", 0.123, 1.0, "%", "+0.12 %"),
        ("max_bytes", 110_001, 110_000, "bytes", "110,001 bytes"),
    ],
)
def test_a_figure_beside_its_limit(rule, value, limit, unit, text):
    assert verdicts.found(judge.Verdict("onnx/fp32", rule, MET, value, limit, unit)) == text
