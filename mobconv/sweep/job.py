"""What a sweep is asked to do, small enough to be sent to a worker, and how it tells of its progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mobconv import recipe
from mobconv.model import checkpoint
from mobconv.model.checkpoint import Checkpoint, Options
from mobconv.sweep import source_hash

if TYPE_CHECKING:
    from mobconv.results import Row


@dataclass(frozen=True)
class Job:
    """A recipe, what is said of its checkpoint, and the folder that a factory is looked for in."""

    plan: recipe.Recipe
    options: Options
    here: Path

    @classmethod
    def of(cls, plan: recipe.Recipe, trust_pickle: bool = False, beside: Path | None = None) -> Job:
        """As a recipe says, started in the current folder. Raises InputError or UsageError for its preprocessing.

        beside: the recipe's own folder, where a factory is looked for that is found nowhere else.
        """
        here = source_hash.folder_of(plan.model, beside) if plan.model and beside else Path.cwd()
        options = Options(
            factory=plan.model,
            arguments=plan.arguments,
            input_shape=tuple(plan.input_shape) if plan.input_shape else None,
            preprocessing=recipe.preprocessing_of(plan),
            trust_pickle=trust_pickle,
            here=here,
        )
        return cls(plan, options, here)

    def load(self) -> Checkpoint:
        """The checkpoint. Raises what checkpoint.load raises, in a recipe's words."""
        with recipe.in_its_words():
            found = checkpoint.load(self.plan.checkpoint, self.options)
        found.notes = [recipe.in_keys(note) for note in found.notes]
        return found

    def absolute(self) -> Job:
        """The same for a process that may stand in another folder."""
        data = self.plan.data
        changed = {
            "checkpoint": self.plan.checkpoint.absolute(),
            "data": str(Path(data).absolute()) if Path(data).exists() else data,
        }
        return replace(self, plan=self.plan.model_copy(update=changed))


class Watcher:
    """Told of progress; does nothing by itself."""

    def note(self, text: str) -> None:
        """Something that was recognised, to be told."""

    def stage(self, text: str) -> None:
        """Something long begins."""

    def kept(self, kept: int, untimed: Sequence[str], total: int) -> None:
        """So many of the cells are as an earlier sweep left them, and these others but for their timings."""

    def untimed(self, row: Row) -> None:
        """A cell is made and measured, but for its timings."""

    def row(self, row: Row) -> None:
        """A cell is done, or cannot be."""
