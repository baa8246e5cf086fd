"""The base of every part of a recipe."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A frozen part of a recipe, in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
