"""`mobconv schema`: the JSON Schema of recipes or budgets, for editors."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class Kind(StrEnum):
    """A kind of file that people write."""

    RECIPE = "recipe"
    BUDGET = "budget"


def command(kind: Annotated[Kind, typer.Argument(help="`recipe` or `budget`")]) -> int:
    """Print the JSON Schema of recipes or budgets, with which editors complete and check YAML."""
    import json

    from mobconv import backends, recipe
    from mobconv.evaluate.tasks import TASKS
    from mobconv.gate import budget

    schema = recipe.json_schema(backends.formats(), list(TASKS)) if kind is Kind.RECIPE else budget.json_schema()
    print(json.dumps(schema, indent=1))
    return 0
