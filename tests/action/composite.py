"""A runner of composite actions, as far as action.yml goes: expressions, env, outputs, and bash as GitHub calls it."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]  # what `shell: bash` stands for there
EXPRESSION = re.compile(r"\$\{\{(.*?)\}\}")
INSTALL = "Install mobconv"  # a test of its own
GITHUB = {"runner.os": "Linux", "runner.arch": "X64", "github.run_id": "7", "github.run_attempt": "1"}


def action():
    return yaml.safe_load((ROOT / "action.yml").read_text())


@dataclass
class Step:
    """What became of one: code None where it was not run; `used` for the steps of other actions."""

    name: str
    code: int | None = None
    used: str = ""
    with_: dict = field(default_factory=dict)
    output: str = ""
    outputs: dict = field(default_factory=dict)


class Run:
    """One job with one step that uses the action.

    given: outputs of steps that are not run again, by id; only: names of the steps to run, for one by itself
    """

    def __init__(self, folder, inputs, action_path=ROOT, environment=None, given=None, only=None):
        self.folder, self.steps, self.failed = folder, [], False
        described = action()
        unknown = set(inputs) - set(described["inputs"])
        assert not unknown, unknown
        self.inputs = {name: spec.get("default", "") for name, spec in described["inputs"].items()} | inputs
        self.by_id = {}
        self.summary_file = folder.parent / "summary.md"
        self.summary_file.write_text("")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "PIP_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(action_path),
            "GITHUB_STEP_SUMMARY": str(self.summary_file),
            **(environment or {}),
        }
        for number, step in enumerate(described["runs"]["steps"]):
            if step.get("id") in (given or {}):
                self.by_id[step["id"]] = Step(step["name"], outputs=given[step["id"]])
            elif step["name"] != INSTALL if only is None else step["name"] in only:
                self._run(number, step)
        self.outputs = {name: self._filled(spec["value"]) for name, spec in described["outputs"].items()}

    def __getitem__(self, name):
        return next(step for step in self.steps if step.name == name)

    @property
    def code(self):
        """Of the first step that failed, which is what the job shows."""
        return next((step.code for step in self.steps if step.code), 0)

    @property
    def summary(self):
        return self.summary_file.read_text()

    def _run(self, number, step):
        done = Step(step["name"])
        self.steps.append(done)
        if "id" in step:
            self.by_id[step["id"]] = done
        # a step without a status function runs where all before it succeeded
        condition = step.get("if", "${{ success() }}")
        if "cancelled()" not in condition and self.failed:
            return
        if self._filled(condition) != "true":
            return
        done.with_ = {name: self._filled(value) for name, value in step.get("with", {}).items()}
        if "uses" in step:
            done.used = step["uses"]
            return
        assert step["shell"] == "bash"
        script = self.folder.parent / f"step-{number}.sh"
        script.write_text(step["run"])
        output = self.folder.parent / f"output-{number}.txt"
        output.write_text("")
        env = {name: self._filled(value) for name, value in step.get("env", {}).items()}
        found = subprocess.run(
            [*BASH, script],
            cwd=self.folder,
            env={**self.environment, **env, "GITHUB_OUTPUT": str(output)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        done.code, done.output = found.returncode, found.stdout
        done.outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
        self.failed |= found.returncode != 0

    def _filled(self, text):
        return EXPRESSION.sub(lambda found: self._value(found[1].strip()), str(text))

    def _value(self, expression):
        """Of a name, or of names compared with texts and joined by &&."""
        if "&&" in expression:
            return "true" if all(self._value(part.strip()) == "true" for part in expression.split("&&")) else "false"
        compared = re.fullmatch(r"(\S+) (==|!=) '([^']*)'", expression)
        if compared:
            same = self._value(compared[1]) == compared[3]
            return "true" if same == (compared[2] == "==") else "false"
        known = {**GITHUB, "!cancelled()": "true", "success()": "false" if self.failed else "true"}
        known |= {f"inputs.{name}": value for name, value in self.inputs.items()}
        if expression in known:
            return known[expression]
        found = re.fullmatch(r"steps\.(\w+)\.outputs\.(\w+)", expression)
        assert found, f"not understood: {expression}"
        return self.by_id[found[1]].outputs.get(found[2], "") if found[1] in self.by_id else ""
