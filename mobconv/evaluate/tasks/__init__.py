"""Tasks, by name: one file and one line in `TASKS` each."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from mobconv.errors import UsageError, did_you_mean
from mobconv.evaluate.tasks.base import Metric, Outputs, Scores, Task, compares_with_float, further

# name -> module with an attribute `task`; the first is the default of a recipe
TASKS = {
    "classification": "mobconv.evaluate.tasks.classification",
    "regression": "mobconv.evaluate.tasks.regression",
}


def get(name: str) -> Task:
    """The task of that name. Raises UsageError for an unknown one."""
    if name not in TASKS:
        raise UsageError(f"Unknown task {name!r}. Choose one of {', '.join(TASKS)}{did_you_mean(name, TASKS)}")
    return cast(Task, import_module(TASKS[name]).task)


__all__ = ["TASKS", "Metric", "Outputs", "Scores", "Task", "compares_with_float", "further", "get"]
