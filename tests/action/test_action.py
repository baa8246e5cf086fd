"""action.yml: every `run:` step through bash as GitHub runs it, on a real recipe. Other actions are not run."""

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from composite import INSTALL, ROOT, Run, action
from support import CHECKPOINT, DATA

from mobconv.cli.app import app

RECIPE = f"""
checkpoint: {CHECKPOINT}
data: {DATA}
images: 64
threads: 1
backends: onnx
schemes: [fp16, w4-kmeans]
"""
MET = "budgets: [{cells: 'onnx/*', max_bytes: 400 kB, max_conversion_loss: 0}]"
NOT_MET = "budgets: [{cells: onnx/fp16, max_bytes: 100 kB}]"
HAS_REPORT = "report" in {command.name for command in app.registered_commands}
REST = ["Check", "Report", "Upload report and results", "Save the folder"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A job that sweeps and meets its budget, and its folder."""
    folder = tmp_path_factory.mktemp("job") / "work"
    folder.mkdir()
    (folder / "job.yaml").write_text(RECIPE)
    (folder / "budget.yaml").write_text(MET)
    return Run(folder, {"recipe": "job.yaml", "budget": "budget.yaml"}), folder


def report_ran(run):
    """The step was run whatever the gate said; where there is no command yet it must fail by itself."""
    assert run["Report"].code is not None
    if HAS_REPORT:
        assert run["Report"].code == 0, run["Report"].output
        page = run.folder / run.outputs["report"]
        parser = HTMLParser()
        parser.feed(page.read_text())
        assert "onnx/fp16" in page.read_text()
    else:
        assert run["Report"].code == 2 and "No such command" in run["Report"].output


def test_a_budget_that_is_met(swept):
    run, folder = swept
    assert [run[name].code for name in ("Name the cache", "Sweep", "Check")] == [0, 0, 0], run["Check"].output
    report_ran(run)
    assert run.outputs["verdict"] == "met" and run.outputs["results"] == "mobconv-out/results.json"
    assert len(json.loads((folder / run.outputs["results"]).read_text())["cells"]) == 2
    assert run.summary.startswith("### :white_check_mark: The budget is met")
    assert ("`report.html` in the artifact `mobconv`" in run.summary) == HAS_REPORT
    suite = ET.parse(folder / run.outputs["junit"]).getroot()[0]
    assert suite.get("failures") == "0" and int(suite.get("tests")) >= 4
    assert "::error" not in run["Check"].output


def test_other_actions_get_what_the_run_made(swept):
    run, folder = swept
    restored, saved = run["Restore the folder"], run["Save the folder"]
    assert restored.with_["path"] == saved.with_["path"] == "mobconv-out"
    assert restored.with_["key"] == saved.with_["key"] and saved.with_["key"].endswith("-Linux-X64-7-1")
    assert saved.with_["key"].startswith(restored.with_["restore-keys"])
    for path in run["Upload report and results"].with_["path"].split():
        assert (folder / path).is_file() or (path.endswith("report.html") and not HAS_REPORT), path


@pytest.fixture
def gated(swept, tmp_path):
    """A job with this budget, from the results of the sweep above on: its steps Check, Report and so on."""

    def run(budget):
        job = tmp_path / "work"
        shutil.copytree(swept[1], job)
        (job / "budget.yaml").write_text(budget)
        given = {"sweep": {"results": "mobconv-out/results.json"}}
        return Run(job, {"recipe": "job.yaml", "budget": "budget.yaml"}, given=given), job

    return run


def test_a_budget_that_is_not_met(gated):
    """The report, the summary and the upload are there all the same, and the code is the gate's."""
    run, job = gated(NOT_MET)
    assert run["Check"].code == run.code == 1 and run.outputs["verdict"] == "not met"
    assert "::error title=mobconv check::onnx/fp16 max_bytes: " in run["Check"].output
    assert run.summary.startswith("### :x: The budget is not met") and "onnx/fp16" in run.summary
    assert ET.parse(job / run.outputs["junit"]).getroot()[0].get("failures") == "1"
    report_ran(run)
    assert run["Upload report and results"].used and run["Save the folder"].used


def test_a_budget_that_is_wrong(gated):
    run, job = gated("budgets: [{cells: 'onnx/*', max_byte: 1 kB}]")
    assert run["Check"].code == run.code == 2 and run.outputs["verdict"] == "error"
    assert "did you mean 'max_bytes'?" in run["Check"].output and "exit code 2" in run.summary
    assert run.outputs["junit"] == "" and not (job / "mobconv-out" / "junit.xml").exists()


def test_a_recipe_that_is_refused(tmp_path):
    """Results of an earlier run, from the cache, are neither judged nor shown."""
    job = tmp_path / "work"
    (job / "mobconv-out").mkdir(parents=True)
    (job / "mobconv-out" / "results.json").write_text("{}")
    run = Run(job, {"recipe": "none.yaml", "budget": "budget.yaml"})
    assert run["Sweep"].code == run.code == 3 and "none.yaml: no such recipe" in run["Sweep"].output
    assert all(run[name].code is None and not run[name].used for name in REST)
    assert run.outputs == {"results": "", "report": "", "junit": "", "verdict": ""}


HOSTILE = ['"; touch ran; #', "$(touch ran)", "' && touch ran '", "-o\ntouch ran"]


@pytest.mark.parametrize("text", HOSTILE)
def test_inputs_are_never_run(tmp_path, text):
    """As recipe, and as everything else."""
    job = tmp_path / "work"
    job.mkdir()
    for inputs in ({"recipe": text, "budget": "b"}, dict.fromkeys(action()["inputs"], text)):
        run = Run(job, inputs)
        assert run.code != 0 and run.outputs["verdict"] == ""
        assert not list(tmp_path.rglob("ran"))


def test_inputs_reach_no_script():
    """They would be part of its text before bash reads it."""
    for step in action()["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), step["name"]


def test_it_is_described_and_pinned():
    described = action()
    for name, spec in {**described["inputs"], **described["outputs"]}.items():
        assert len(spec["description"]) > 10, name
    for name, spec in described["inputs"].items():
        assert ("default" in spec) != spec.get("required", False), name
    used = [step["uses"] for step in described["runs"]["steps"] if "uses" in step]
    assert len(used) == 4
    for action_used in used:
        assert re.fullmatch(r"actions/[a-z-]+(/[a-z]+)?@[0-9a-f]{40}", action_used), action_used
    text = (ROOT / "docs" / "ci.md").read_text()
    for name in (*described["inputs"], *described["outputs"]):
        assert f"`{name}`" in text, name


def test_it_installs_from_its_own_folder(tmp_path):
    """The step as it is; pip is told by its own variables to fetch no dependency and to change nothing."""
    source = tmp_path / "action"
    source.mkdir()
    for name in ("mobconv", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        path = ROOT / name
        shutil.copytree(path, source / name) if path.is_dir() else shutil.copy(path, source)
    job = tmp_path / "work"
    job.mkdir()
    dry = {"PIP_DRY_RUN": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_FORCE_REINSTALL": "1"}
    run = Run(job, {"extras": "onnx,coreml", "recipe": "r", "budget": "b"}, source, dry, only=[INSTALL])
    assert run[INSTALL].code == 0, run[INSTALL].output
    assert f"Processing {source}" in run[INSTALL].output and "Would install mobconv-" in run[INSTALL].output
    hostile = Run(job, {"extras": 'all]; touch "ran', "recipe": "r", "budget": "b"}, source, dry, only=[INSTALL])
    assert hostile[INSTALL].code != 0 and not list(tmp_path.rglob("ran"))


def gate(folder):
    """docs/ci.md's gate.sh, as it stands, in this folder."""
    text = (ROOT / "docs" / "ci.md").read_text()
    (folder / "gate.sh").write_text(re.search(r'```bash title="gate.sh"\n(.*?)```', text, re.DOTALL)[1])
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GITHUB_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(["bash", "gate.sh"], cwd=folder, env=environment, check=False, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("budget", "code"), [(MET, 0), (NOT_MET, 1)])
def test_the_shell_example_does_the_same(tmp_path, budget, code):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "budget.yaml").write_text(budget)
    done = gate(tmp_path)
    assert done.returncode == code, done.stderr
    assert ET.parse(tmp_path / "out" / "junit.xml").getroot()[0].get("failures") == str(code)
    assert (tmp_path / "out" / "check.md").read_text().startswith("### ")
    assert (tmp_path / "out" / "report.html").exists() == HAS_REPORT


def test_the_shell_example_without_a_recipe(tmp_path):
    done = gate(tmp_path)
    assert done.returncode == 3 and "no such recipe" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["gate.sh"]
