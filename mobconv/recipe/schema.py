"""The JSON Schema of recipes, by which editors complete and check them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mobconv.data.preprocessing import NAMES
from mobconv.recipe.format import Format
from mobconv.recipe.spec import Recipe


def json_schema(formats: Mapping[str, Format], tasks: Sequence[str] = ("classification",)) -> dict[str, Any]:
    """Make the JSON Schema of recipes that may name these formats and tasks.

    It accepts every recipe that `load` accepts, and refuses as many of the others as a schema can.
    """
    schema = Recipe.model_json_schema()
    properties, backend = schema["properties"], {"enum": list(formats)}
    properties["backends"] |= {
        "anyOf": [backend, {"type": "array", "items": backend, "minItems": 1}],
        "description": f"formats to write: {', '.join(formats)}",
    }
    properties["preprocessing"]["anyOf"].insert(0, {"enum": list(NAMES)})
    properties["task"]["enum"] = list(tasks)
    options = {name: entry.options_schema for name, entry in formats.items() if entry.options_schema.get("properties")}
    definitions: dict[str, Any] = {}
    for name, entry in options.items():
        # a `$ref` is looked up from the top of the document
        definitions |= entry.get("$defs", {})
        options[name] = {key: value for key, value in entry.items() if key != "$defs"}
    properties["options"] |= {"properties": options, "additionalProperties": False}
    schema["$defs"] |= definitions
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "mobconv recipe",
        "allOf": [_options_need_their_format(name) for name in options],
    }


def _options_need_their_format(name: str) -> dict[str, Any]:
    """Options of a format are refused where the recipe does not write it."""
    written = {"anyOf": [{"const": name}, {"type": "array", "contains": {"const": name}}]}
    return {
        "if": {"required": ["options"], "properties": {"options": {"required": [name]}}},
        "then": {"properties": {"backends": written}},
    }
