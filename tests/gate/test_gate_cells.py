"""Cells without a file, and globs that match cells or none."""

import pytest
from measured import check

from mobconv import results
from mobconv.errors import UsageError
from mobconv.gate.rules import NOT_JUDGED, NOT_MET


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
