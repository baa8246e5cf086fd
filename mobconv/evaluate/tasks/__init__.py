"""Tasks, by name: one file and one line in `TASKS` each."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from mobconv.errors import UsageError, did_you_mean, setting
from mobconv.evaluate.tasks.base import Metric, Outputs, Scores, Task, compares_with_float, further
from mobconv.evaluate.tasks.measured import MeasuredTask

# name -> module with an attribute `task`; the first is the default of a recipe
TASKS = {
    "classification": "mobconv.evaluate.tasks.classification",
    "fidelity": "mobconv.evaluate.tasks.fidelity",
    "regression": "mobconv.evaluate.tasks.regression",
    "segmentation": "mobconv.evaluate.tasks.segmentation",
    "embedding": "mobconv.evaluate.tasks.embedding",
    "detection": "mobconv.evaluate.tasks.detection",
}


def get(
    name: str,
    metric: str | None = None,
    postprocess: str | None = None,
    higher_is_better: bool | None = None,
    here: Path | None = None,
) -> Task:
    """The task of that name.

    metric: one of the task's metrics, or a user's, `package.module:name`; higher_is_better: of a user's metric that
    does not say it; postprocess: `package.module:function`, which makes the task's outputs of the network's; see
    users.py. here: folder that modules are looked for in first. Raises UsageError for an unknown name, and for code
    that cannot be imported or is not a metric.
    """
    if name not in TASKS:
        raise UsageError(f"Unknown task {name!r}. Choose one of {', '.join(TASKS)}{did_you_mean(name, TASKS)}")
    task = cast(Task, import_module(TASKS[name]).task)
    if metric is not None and ":" in metric:
        from mobconv.evaluate.tasks.users import UserMetric, measure_of

        task = UserMetric(task, measure_of(metric, higher_is_better, here))
    elif metric is not None and metric.casefold() != task.metric.name.casefold():
        if not isinstance(task, MeasuredTask):
            raise UsageError(f"{setting('metric', metric)}: the task {name} has {task.metric.name}")
        task = task.judged_by(metric)
    if postprocess is not None:
        from mobconv.evaluate.tasks.users import Postprocessed

        task = Postprocessed(task, postprocess, here)
    return task


__all__ = ["TASKS", "Metric", "Outputs", "Scores", "Task", "compares_with_float", "further", "get"]
