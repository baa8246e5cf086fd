"""Files, checkpoints and scores that are not those of the results fail, or are refused."""

from dataclasses import replace

import numpy as np
import pytest
from measured import check, locked, one

from mobconv.common.files import sha256
from mobconv.errors import InputError
from mobconv.gate.rules import NOT_MET


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
        assert loose.met and any("files were not hashed" in note for note in loose.notes)

    def test_one_byte_of_a_folder(self, sweep):
        path = sweep.cell("onnx/fp32").write()
        folder = path.parent / "coreml" / "fp32.mlpackage" / "Data"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"0123")
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


class TestScores:
    RULES = "- {cells: '*', max_drop: 1}\n"

    def test_results_that_were_edited(self, sweep):
        sweep.cell("onnx/fp32", 90, score=95.0)
        message = r"onnx/fp32: the mean of its scores in .*scores.npz is 91.0000, and its row says 95.0000"
        with pytest.raises(InputError, match=message):
            check(sweep.write(), self.RULES)
        with pytest.raises(InputError, match=message):
            locked(sweep.write())

    def test_rounding_is_not_an_edit(self, sweep):
        sweep.metric = replace(sweep.metric, full=None)
        scores = np.random.default_rng(0).gamma(2.0, 10.0, 1000)
        sweep.cell("onnx/fp32", scores=scores)  # float32 in the file, float64 in the row
        assert one(check(sweep.write(), "- {cells: '*', min_score: 1 %}\n"), "min_score").value == pytest.approx(
            scores.mean(), rel=1e-11
        )

    def test_of_other_cells(self, sweep):
        sweep.cell("onnx/fp32")
        del sweep.scores["onnx/fp32"]
        with pytest.raises(InputError, match="has no scores of onnx/fp32"):
            check(sweep.write(), self.RULES)

    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"float": np.full(1000, 100.0)}, "the float baseline has another score there"),
            ({"onnx/fp32": np.full(5, 100.0)}, "onnx/fp32 does not have the 1000 samples of results.json"),
        ],
    )
    def test_of_other_samples(self, sweep, change, word):
        path = sweep.cell("onnx/fp32").write()
        np.savez_compressed(path.with_name("scores.npz"), **{**sweep.scores, **change})
        with pytest.raises(InputError, match=word):
            check(path, self.RULES)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"text"])
    def test_broken(self, sweep, content):
        path = sweep.cell("onnx/fp32").write()
        path.with_name("scores.npz").write_bytes(content)
        with pytest.raises(InputError, match="not scores of a sweep"):
            check(path, self.RULES)
