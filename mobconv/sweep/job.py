"""What a sweep is asked to do, small enough to be sent to a worker; and the interface that its progress is shown by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mobconv import backends
from mobconv import recipe as recipes
from mobconv.evaluate import tasks
from mobconv.evaluate.tasks import Metric, Task
from mobconv.model import checkpoint, labels
from mobconv.model.checkpoint import Checkpoint, Options
from mobconv.model.loading import labelled
from mobconv.recipe import Recipe
from mobconv.schemes import Cell
from mobconv.sweep import source_hash

if TYPE_CHECKING:
    from mobconv.results import Row


@dataclass(frozen=True)
class Job:
    """A recipe, the options of its checkpoint, and the folders that code is looked for in.

    here: of the factory; code_folder: of a metric of the user's, and of what postprocesses outputs.
    """

    recipe: Recipe
    options: Options
    here: Path
    code_folder: Path

    @classmethod
    def of(cls, recipe: Recipe, trust_pickle: bool = False, beside: Path | None = None) -> Job:
        """Make the job of a recipe, started in the current folder.

        beside: the recipe's own folder, where a factory is looked for if it is nowhere else. Raises InputError for a
        preprocessing that makes no sense, UsageError for options that their backend refuses.
        """
        for name, values in recipe.options.items():
            backends.get(name).options(values)
        here = source_hash.folder_of(recipe.model, beside) if recipe.model and beside else Path.cwd()
        code = recipe.metric if recipe.metric and ":" in recipe.metric else recipe.postprocess
        code_folder = source_hash.folder_of(code, beside) if code and beside else Path.cwd()
        options = Options(
            factory=recipe.model,
            arguments=recipe.arguments,
            input_shape=tuple(recipe.input_shape) if recipe.input_shape else None,
            preprocessing=recipes.preprocessing_of(recipe),
            key=recipe.key,
            weights=None if recipe.weights is None else Path(recipe.weights),
            trust_pickle=trust_pickle,
            here=here,
        )
        job = cls(recipe, options, here, code_folder)
        job.task  # noqa: B018  a metric that is wrong is known before the network is loaded
        return job

    @cached_property
    def cells(self) -> list[Cell]:
        """All cells of the recipe, in its order."""
        return self.recipe.cells()

    @property
    def task(self) -> Task:
        """The recipe's task."""
        recipe = self.recipe
        return tasks.get(recipe.task, recipe.metric, recipe.postprocess, recipe.higher_is_better, self.code_folder)

    @property
    def code(self) -> dict[str, str]:
        """Sources of the user's code that scores outputs: sha256 of each file by module name."""
        references = [text for text in (self.recipe.metric, self.recipe.postprocess) if text and ":" in text]
        return {
            name: sha256
            for text in references
            for name, sha256 in source_hash.of_factory(text, self.code_folder).items()
        }

    def load(self) -> Checkpoint:
        """The checkpoint, with the recipe's labels. Raises InputError and UsageError, as checkpoint.load."""
        return labelled(checkpoint.load(self.recipe.checkpoint, self.options), self.labels)

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        """The recipe's labels; None for those of the checkpoint. Raises InputError."""
        return None if self.recipe.labels is None else labels.read(self.recipe.labels)

    def absolute(self) -> Job:
        """The same for a process that may be in another folder."""
        recipe = self.recipe
        changed: dict[str, Any] = {
            name: str(Path(reference).absolute())
            if isinstance(reference, str) and Path(reference).exists()
            else reference
            for name, reference in (("checkpoint", recipe.checkpoint), ("data", recipe.data), ("labels", recipe.labels))
        }
        if recipe.calibration is not None and Path(recipe.calibration.data).exists():
            data = str(Path(recipe.calibration.data).absolute())
            changed["calibration"] = recipe.calibration.model_copy(update={"data": data})
        weights = self.options.weights
        options = replace(self.options, weights=None if weights is None else weights.absolute())
        return replace(self, recipe=recipe.model_copy(update=changed), options=options)


class Watcher:
    """Called with the progress of a sweep; does nothing by itself."""

    def begin(self, cells: Sequence[Cell], checkpoint: str, metric: Metric) -> None:
        """A sweep of these cells begins. checkpoint: its name; metric: of their rows."""

    def note(self, text: str) -> None:
        """Something was recognised in checkpoint or data."""

    def stage(self, text: str) -> None:
        """A long step begins."""

    def kept(self, kept: int, untimed: Sequence[str], total: int) -> None:
        """Of `total` cells, `kept` have valid rows of an earlier sweep, and those named in `untimed` but no timings."""

    def untimed(self, row: Row) -> None:
        """A cell is built and measured, but not timed yet."""

    def row(self, row: Row) -> None:
        """A cell is done, or cannot be done."""
