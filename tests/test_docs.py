"""The documents say what the program does: commands, recipes, fields and figures are held to it."""

import html
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer
import yaml

from mobconv import backends, errors, recipe, results
from mobconv.backends import names
from mobconv.cli.app import INTERRUPTED, TERMINATED, app
from mobconv.gate import budget

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_readme_and_every_one_there_exists():
    commands = {command.name for command in app.registered_commands}
    named = set(re.findall(r"\$ mobconv ([a-z]+)", README))
    assert named == commands


def test_every_recipe_is_documented_and_loads():
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        assert f"recipes/{path.name}" in (ROOT / "docs" / "recipes.md").read_text()
        assert recipe.load(path, backends.formats()).cells()


def test_the_demo_is_the_grid_that_the_readme_promises():
    cells = recipe.load(ROOT / "recipes" / "demo.yaml", backends.formats()).cells()
    assert len(cells) == 78
    assert {cell.backend for cell in cells} == {"onnx", "tflite", "coreml"}
    assert len({cell.scheme for cell in cells}) == 26


def test_the_thesis_grid_has_every_format_and_way_of_storing():
    cells = recipe.load(ROOT / "recipes" / "thesis.yaml", backends.formats()).cells()
    assert {cell.backend for cell in cells} == set(names())
    for backend in names():
        schemes = {cell.rest for cell in cells if cell.backend == backend}
        packed = {f"w{bits}-{mode}" for bits in range(1, 9) for mode in ("linear", "symmetric", "kmeans")}
        assert packed | {"fp32", "fp16", "w5-kmeans@native", "w4-linear-oc16"} <= schemes


def test_recipes_in_the_documents_load(tmp_path):
    pages = [README, (ROOT / "docs" / "recipes.md").read_text()]
    found = [text for page in pages for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    assert len(found) == 3
    for text in found:
        (tmp_path / "recipe.yaml").write_text(text)
        plan = recipe.load(tmp_path / "recipe.yaml", backends.formats())
        assert plan.layers or plan.calibration
        assert set(yaml.safe_load(text)) <= set(recipe.Recipe.model_fields)


def test_figures_are_generated():
    """Tables of README and docs/ are those of the results files, and schemas those of the code, to the letter."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "readme_tables.py", "--check"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr or "run: python docs/readme_tables.py"


def test_the_plot_in_the_readme_shows_the_figures_of_the_results():
    drawn = html.unescape((ROOT / "docs" / "cliff.svg").read_text())
    assert 'src="docs/cliff.svg"' in README and len(drawn) < 150_000
    rows = [row for row in results.read(ROOT / "docs" / "thesis-results.json").cells if row.mode and not row.reason]
    packed = [row for row in rows if row.backend == "onnx" and row.storage == "packed" and row.granularity != "oc16"]
    assert len(packed) == 24
    for row in packed:
        assert f": {row.scheme}\ntop-1 {row.score:.2f} %" in drawn, row.cell


def test_every_exit_code_is_in_the_readme():
    kinds = [errors.UsageError, errors.InputError, errors.BackendError, errors.CellError, errors.OutputError]
    for code in [0, 1, *(kind.exit_code for kind in kinds), INTERRUPTED, TERMINATED]:
        assert re.search(rf"^\|[ 0-9,]*\b{code}\b[ 0-9,]*\|", README, re.MULTILINE), code


def test_every_key_of_a_budget_is_documented_and_the_examples_load(tmp_path):
    text = (ROOT / "docs" / "gate.md").read_text()
    for key in (*budget.BudgetEntry.model_fields, "budgets", "checkpoint", "baseline"):
        assert f"`{key}`" in text, key
    examples = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "budgets:" in block]
    (shown,) = re.findall(r"\$ cat docs/budget.yaml\n\.\.\.\n(.*?)\.\.\.\n\$", README, re.DOTALL)
    held = (ROOT / "docs" / "budget.yaml").read_text()
    assert shown in held
    examples += [held, f"budgets:\n{shown}"]
    assert len(examples) == 3
    for example in examples:
        (tmp_path / "budget.yaml").write_text(example)
        assert budget.load(tmp_path / "budget.yaml").entries


@pytest.mark.parametrize("kind", [results.Row, results.Cliff])
def test_every_field_of_the_results_is_documented(kind):
    text = (ROOT / "docs" / "results.md").read_text()
    for field in fields(kind):
        assert f"`{field.name}`" in text, field.name


def test_files_that_the_readme_links_exist():
    for target in re.findall(r"\]\(([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_readme_can_be_read():
    assert len(README.splitlines()) <= 300


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_commands_in_the_documents_are_commands(path):
    """Of every line after `$`, the command and the options are there. (What the tutorial's do, its own test tells.)"""
    known = typer.main.get_command(app).commands
    for line in re.sub(r"\\\n\s*", "", path.read_text()).splitlines():
        if not line.startswith("$ mobconv "):
            continue
        _, name, *rest = shlex.split(line[2:], comments=True)
        if name == "report" and name not in known:  # on its way, as is the page that it writes
            continue
        options = {spelled for option in known[name].params for spelled in (*option.opts, *option.secondary_opts)}
        assert {word.partition("=")[0] for word in rest if word.startswith("-")} <= options, line
