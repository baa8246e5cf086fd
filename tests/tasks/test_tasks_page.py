"""docs/tasks.md: every recipe in it loads, and its tables are those of the code."""

import re
from pathlib import Path

import yaml

from mobconv import backends, recipe
from mobconv.evaluate import tasks

PAGE = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()


def test_every_recipe_loads(tmp_path):
    texts = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    named = {yaml.safe_load(text).get("task", "classification") for text in texts}
    assert named == set(tasks.TASKS), "one example of each task"
    for text in texts:
        (tmp_path / "recipe.yaml").write_text(text)
        plan = recipe.load(tmp_path / "recipe.yaml", backends.formats(), list(tasks.TASKS))
        assert plan.cells()
        if plan.metric is None or ":" not in plan.metric:
            assert tasks.get(plan.task, plan.metric).name == plan.task


def test_the_table_of_tasks_is_that_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (.*?) \|", PAGE, re.MULTILINE)
    assert [name for name, _, _ in rows] == sorted(tasks.TASKS, key=[name for name, _, _ in rows].index)
    assert {name for name, _, _ in rows} == set(tasks.TASKS)
    for name, first, others in rows:
        task = tasks.get(name)
        assert task.metric.name == first
        assert others.split(", ") == [each.metric.name for each in task.measures[1:] if each.judges]
