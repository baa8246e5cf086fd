"""The description of an output format that a recipe is checked and completed by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mobconv.schemes import Compute


@dataclass(frozen=True)
class Format:
    """One output format, as its backend describes it.

    default_compute  precision of compute of a cell whose name states none
    options_schema   JSON Schema of the format's entry in `options`; without properties where it has no options
    """

    default_compute: Compute
    options_schema: dict[str, Any]
