"""`mobconv check` and `mobconv baseline` as CI calls them, on one small sweep of real images."""

import json
import shutil
import xml.etree.ElementTree as ET

import pytest
from support import CHECKPOINT, DATA

from mobconv.cli.app import run as run_command

ROOT = CHECKPOINT.parents[1]
RECIPE = f"""
checkpoint: {CHECKPOINT}
data: {DATA}
images: 64
threads: 1
backends: onnx
schemes: [w8-linear, w2-linear, w4-kmeans@native]
"""
MET = """
- {cells: onnx/w8-linear, must_exist: true, max_bytes: 250 kB, max_drop: 2, max_conversion_loss: 0, min_score: 90 %}
"""
NOT_MET = """
- {cells: 'onnx/w?-linear', max_bytes: 100 kB, max_drop: 20}
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    (folder / "job.yaml").write_text(RECIPE)
    assert run_command(["sweep", str(folder / "job.yaml"), "-o", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture
def check(cli, swept, monkeypatch):
    """`mobconv check` of a copy of the sweep."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(swept, cli.folder / "out", ignore=shutil.ignore_patterns(".templates"))

    def run(entries, *more, head=""):
        (cli.folder / "budget.yaml").write_text(f"{head}budgets:{entries}")
        return cli("check", "out", "--budget", "budget.yaml", *more)

    return run


def test_met(check):
    code, out, err = check(MET)
    assert code == 0 and err == "", err
    assert "The budget is met: 6 verdicts." in out and "2 as measured" in out
    assert "under no rule: onnx/w2-linear, onnx/w4-kmeans@native" in out
    assert "paired bootstrap over" in out


@pytest.mark.parametrize("option", ["--junit", "--markdown"])
def test_a_file_that_cannot_be_written(check, option):
    code, _, err = check(MET, option, "budget.yaml/below.xml")
    assert code == 6 and f"cannot be written (File exists); name another file with {option}" in err


def test_not_met(check, cli):
    """The sweep's images are of few scans: an interval over scans, not images, is what is judged."""
    code, out, err = check(NOT_MET)
    assert code == 1 and "Traceback" not in err
    lines = err.splitlines()
    assert lines[0] == "mobconv: the budget is not met:" and len(lines) == 3
    assert "onnx/w8-linear  max_bytes: " in lines[1] and "limit 100,000 bytes" in lines[1]
    assert "onnx/w2-linear  max_drop: +" in lines[2] and "limit 20 points (beyond noise)" in lines[2]
    shown = [line.split()[:2] for line in out.splitlines()[1:4]]
    assert shown == [["not", "met"], ["not", "met"], ["met", "onnx/w8-linear"]]
    assert out.rstrip().endswith("The budget is not met: 2 of 5 verdicts failed.")
    assert sorted(path.name for path in cli.folder.iterdir()) == ["budget.yaml", "out", "user_nets.py"]


def test_json(check):
    code, out, _ = check(NOT_MET, "--json")
    found = json.loads(out)
    assert code == 1 and found["met"] is False and len(found["verdicts"]) == 5
    assert {"cell", "rule", "outcome", "value", "limit", "unit", "interval", "note", "entry"} <= set(
        found["verdicts"][0]
    )


def test_files_for_ci(check, cli):
    code, _, _ = check(NOT_MET, "--junit", "made/junit.xml", "--markdown", "made/check.md")
    assert code == 1
    suite = ET.parse(cli.folder / "made" / "junit.xml").getroot()[0]
    assert suite.get("failures") == "2" and suite[0].find("failure") is not None
    assert (cli.folder / "made" / "check.md").read_text().startswith("### :x: The budget is not met")


def test_files_that_cannot_be_written(check, cli):
    (cli.folder / "made").write_text("mine")
    code, _, err = check(MET, "--junit", "made/junit.xml")
    assert code == 6 and "cannot be written" in err and (cli.folder / "made").read_text() == "mine"


def test_on_github(check, cli, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code, out, _ = check(NOT_MET)
    found = [line for line in out.splitlines() if line.startswith("::")]
    assert code == 1 and len(found) == 2
    assert found[0].startswith("::error title=mobconv check::onnx/w8-linear max_bytes: ")
    code, out, err = check(NOT_MET, "--json")
    assert json.loads(out)["met"] is False and err.count("::error ") == 2
    code, out, _ = check(MET)
    assert code == 0 and "::" not in out


def test_the_summary_of_a_job_is_added_to(check, cli, monkeypatch):
    summary = cli.folder / "summary.md"
    summary.write_text("what another command wrote\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert check(MET, "--markdown", summary)[0] == 0
    first, second = summary.read_text().splitlines()[:2]
    assert first == "what another command wrote" and second.startswith("### :white_check_mark: The budget is met")


def test_one_byte(check, cli):
    path = cli.folder / "out" / "onnx" / "w2-linear.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    code, _, err = check(MET)
    assert code == 1 and "onnx/w2-linear  artifact: sha256 " in err and "was changed after it was measured" in err
    assert check(MET, "--no-artifacts")[0] == 0
    path.unlink()
    code, _, err = check(MET)
    assert code == 1 and "onnx/w2-linear  artifact: missing" in err


def test_another_checkpoint(check):
    assert check(MET, head=f"checkpoint: {CHECKPOINT}\n")[0] == 0
    other = CHECKPOINT.with_name("digits-mobilenet-v2.safetensors")
    code, _, err = check(MET, head=f"checkpoint: {other}\n")
    assert code == 1 and "(results)  checkpoint: sha256 620fe8fb2fa1" in err and "the results are not of" in err
    code, _, err = check(MET, head="checkpoint: gone.pt\n")
    assert code == 3 and "gone.pt: no such checkpoint" in err


def test_against_a_baseline(check, cli, swept):
    code, out, err = cli("baseline", "out", "-o", "ci/baseline.json")
    assert (code, out) == (0, "") and "ci/baseline.json: 2 of 3 cells" in err
    assert (cli.folder / "ci" / "baseline.json").stat().st_size < 2000
    rules = "\n- {cells: onnx/*, max_regression: 0, max_growth: 0 %}\n"
    code, out, err = check(rules, "--baseline", "ci/baseline.json")
    assert code == 0 and "2 not judged" in out, err
    assert check(rules, head="baseline: ci/baseline.json\n")[0] == 0
    code, _, err = check(rules)
    assert code == 2 and "max_regression: no baseline to compare with" in err and "mobconv baseline RESULTS" in err
    # now w8-linear is what w2-linear was: much smaller and much worse
    path = cli.folder / "ci" / "baseline.json"
    content = json.loads(path.read_text())
    cells = content["cells"]
    cells["onnx/w8-linear"], cells["onnx/w2-linear"] = cells["onnx/w2-linear"], cells["onnx/w8-linear"]
    path.write_text(json.dumps(content))
    code, _, err = check(rules, "--baseline", "ci/baseline.json")
    assert code == 1 and "onnx/w2-linear  max_regression: +" in err and "onnx/w8-linear  max_growth: +" in err
    assert "(beyond noise)" in err and "onnx/w8-linear  max_regression" not in err


def test_a_baseline_without_scores_of_samples(check, cli):
    (cli.folder / "out" / "scores.npz").unlink()
    code, _, err = cli("baseline", "out/results.json")
    assert code == 0 and "no scores.npz" in err
    assert json.loads((cli.folder / "baseline.json").read_text())["cells"]["onnx/w8-linear"]["scores"] is None


def test_a_cell_that_must_exist(check):
    code, _, err = check("\n- {cells: '*', must_exist: true}\n")
    assert code == 1 and "onnx/w4-kmeans@native  must_exist: unsupported, limit ok (ONNX has no type" in err


@pytest.mark.parametrize(
    ("limit", "words"),
    [
        ("min_score: 90", "min_score: 90 has no sign: write 90 %"),
        ("min_score: 101 %", "min_score: 101 % is more than 100 %"),
        ("min_score: 0.3 px", "min_score: '0.3 px' is not a percentage"),
        ("max_score: 90 %", "max_score: of top-1, higher is better: use min_score"),
    ],
)
def test_limits_of_another_metric(cli, limit, words):
    """They are found once the results are read, and named like every mistake in a budget."""
    (cli.folder / "budget.yaml").write_text(f"budgets: [{{cells: '*', {limit}}}]\n")
    found = ROOT / "docs" / "demo-results.json"
    cli.refuses(2, f"budget.yaml: entry 1 (line 1), {words}", arguments=["check", found, "--budget", "budget.yaml"])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("\n- {cells: onnx/w8-linea, max_drop: 1}\n", ["entry 1 (line 2), cells", "did you mean 'onnx/w8-linear'"]),
        ("\n- {cells: '*', max_drop: 1 %}\n", ["entry 1 (line 2), max_drop: 1 % is a percentage", "points"]),
        ("\n- {cells: '*', max_bytes: 10}\n", ["entry 1 (line 2), max_bytes: 10 has no unit"]),
        ("\n- {cells: '*', max_byte: 10}\n", ["max_byte: no such key (did you mean 'max_bytes'?)"]),
        (" [", ["budget.yaml is not YAML"]),
    ],
)
def test_wrong_budgets(check, entries, words):
    code, out, err = check(entries)
    assert code == 2 and out == "" and "Traceback" not in err
    for word in ("budget.yaml", *words):
        assert word in err


def test_wrong_usage(cli):
    cli.refuses(2, "--budget", arguments=["check", "out"])
    cli.refuses(3, "gone.yaml: no such budget", arguments=["check", "out", "--budget", "gone.yaml"])
    (cli.folder / "budget.yaml").write_text("budgets: [{cells: '*', max_drop: 1}]\n")
    cli.refuses(3, "no such results file", arguments=["check", "gone", "--budget", "budget.yaml"])
    cli.refuses(3, "no such results file", arguments=["baseline", "gone"])
    (cli.folder / "results.json").write_text("{}")
    cli.refuses(3, "not a results file", arguments=["check", ".", "--budget", "budget.yaml"])
    (cli.folder / "results.json").write_text('{"schema": 1, "float_top1": 0.9, "cells": [], "cliffs": []}')
    told = "results.json: results of schema 1, and this mobconv reads schema 2; run the sweep again"
    cli.refuses(3, told, arguments=["check", ".", "--budget", "budget.yaml"])
    cli.refuses(3, told, arguments=["baseline", "."])


def test_the_documented_budget_holds_for_the_documented_results(cli):
    """docs/budget.yaml and docs/demo-results.json, whose files and scores of samples are not in the repository."""
    found = ROOT / "docs" / "demo-results.json"
    code, out, err = cli("check", found, "--budget", ROOT / "docs" / "budget.yaml", "--no-artifacts")
    assert code == 0 and "The budget is met" in out, err
