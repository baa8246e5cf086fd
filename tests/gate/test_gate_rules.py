"""Each rule is met up to its limit and not beyond."""

import numpy as np
import pytest
from measured import FLOAT_WRONG, SAMPLES, Sweep, check, locked, one

from mobconv.errors import UsageError
from mobconv.gate.rules import MET, NOT_JUDGED, NOT_MET, WITHIN_NOISE


@pytest.mark.parametrize(
    ("rule", "figures", "outcome", "value"),
    [
        ("max_bytes: 10 B", {}, MET, 10),
        ("max_bytes: 9 B", {}, NOT_MET, 10),
        ("min_score: 95 %", {}, MET, 95.0),
        ("min_score: 95.1 %", {}, NOT_MET, 95.0),
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
    verdict = one(report, rule.partition(":")[0])
    assert (verdict.cell, verdict.outcome, verdict.value, verdict.entry) == ("onnx/w4-kmeans", outcome, value, 1)
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
        verdict = one(check(path, f"- {{cells: onnx/*, max_drop: {limit}}}\n"), "max_drop")
        assert verdict.outcome == outcome
        assert verdict.value == pytest.approx((wrong - FLOAT_WRONG) / 10)
        assert verdict.interval.low <= verdict.value <= verdict.interval.high
        assert (verdict.interval.low > limit) is (outcome == NOT_MET)

    def test_it_is_paired(self, sweep):
        """As much is lost in both, but here other images are right: the interval is wider."""
        path = sweep.cell("onnx/w4-kmeans", 70).cell("onnx/w3-kmeans", 70, start=500).write()
        same, other = check(path, "- {cells: onnx/*, max_drop: 0.5}\n").verdicts[:2]
        assert (same.cell, same.outcome) == ("onnx/w4-kmeans", NOT_MET)
        assert (other.cell, other.outcome) == ("onnx/w3-kmeans", WITHIN_NOISE)
        assert same.value == other.value and other.interval.low < 0

    def test_scans_are_drawn_whole(self, sweep):
        sweep.scores["groups"] = np.arange(SAMPLES) // 50  # 20 scans, all that is lost in one of them
        verdict = one(check(sweep.cell("onnx/w4-kmeans", 90).write(), "- {cells: '*', max_drop: 1}\n"), "max_drop")
        assert verdict.outcome == WITHIN_NOISE and verdict.interval.groups == 20

    @pytest.mark.parametrize(("wrong", "outcome"), [(60, MET), (61, NOT_MET)])
    def test_without_scores_the_figure_is_judged(self, sweep, wrong, outcome):
        report = check(sweep.cell("onnx/w4-kmeans", wrong).write(False), "- {cells: '*', max_drop: 1}\n")
        verdict = one(report, "max_drop")
        assert verdict.outcome == outcome and verdict.interval is None and "by the figure alone" in verdict.note
        assert any("no scores.npz" in note for note in report.notes)


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
        verdict = one(report, "max_regression")
        assert verdict.outcome == outcome and verdict.value == pytest.approx((after - 60) / 10)
        assert verdict.interval is not None and report.met is (outcome != NOT_MET)

    @pytest.mark.parametrize("missing", ["earlier", "out"])
    @pytest.mark.parametrize(("after", "outcome"), [(60, MET), (61, NOT_MET)])
    def test_without_scores_on_either_side(self, sweep, tmp_path, missing, after, outcome):
        earlier = Sweep(tmp_path / "earlier").cell("onnx/w4-kmeans", 50)
        lock = locked(earlier.write(missing != "earlier"))
        path = sweep.cell("onnx/w4-kmeans", after).write(missing != "out")
        verdict = one(check(path, "- {cells: '*', max_regression: 1}\n", lock), "max_regression")
        assert verdict.outcome == outcome and verdict.interval is None and "by the figure alone" in verdict.note

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
        verdict = one(report, "max_growth")
        assert (verdict.outcome, verdict.value) == (outcome, value) and "100 in the baseline" in verdict.note

    def test_a_new_cell_has_nothing_to_be_compared_with(self, sweep, tmp_path):
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
        with pytest.raises(UsageError, match=r"entry 1 \(line 2\), max_growth: no baseline to compare.*baseline="):
            check(path, "- {cells: '*', max_growth: 1 %}\n")
