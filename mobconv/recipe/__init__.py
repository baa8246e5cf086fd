"""Recipes: one YAML file for a sweep. A key, format or task that mobconv does not know is refused.

Which formats and tasks there are is for the caller to say: `load(path, formats, tasks)`.
"""

from mobconv.recipe.braces import expand
from mobconv.recipe.format import Format
from mobconv.recipe.layer_rules import LayerRule
from mobconv.recipe.loading import load
from mobconv.recipe.schema import json_schema
from mobconv.recipe.spec import (
    CalibrationSpec,
    PreprocessingSpec,
    Recipe,
    calibration_of,
    one_or_many,
    preprocessing_of,
)
from mobconv.recipe.yaml_keys import repeated_keys

__all__ = [
    "CalibrationSpec",
    "Format",
    "LayerRule",
    "PreprocessingSpec",
    "Recipe",
    "calibration_of",
    "expand",
    "json_schema",
    "load",
    "one_or_many",
    "preprocessing_of",
    "repeated_keys",
]
