"""Read a recipe: parse, validate, and say for each mistake which key is wrong and what it may be."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mobconv.data.chosen import not_given
from mobconv.errors import InputError, UsageError, did_you_mean
from mobconv.recipe.format import Format
from mobconv.recipe.layer_rules import LayerRule
from mobconv.recipe.spec import CalibrationSpec, PreprocessingSpec, Recipe, preprocessing_of
from mobconv.recipe.strict import StrictModel
from mobconv.recipe.yaml_keys import all_repeated_keys

_QUOTE = 'Braces are YAML\'s own unless they are quoted: "{}"'


def load(path: Path, formats: Mapping[str, Format], tasks: Sequence[str] = ("classification",)) -> Recipe:
    """Read a recipe that may name these formats and tasks.

    Paths in it are relative to its folder, where they exist there. Values of `options` are for the formats to check.
    Raises InputError when the file cannot be read, UsageError when it is wrong.
    """
    try:
        recipe = Recipe.model_validate(_parse(path))
    except ValidationError as error:
        raise UsageError(f"{path}:\n" + "\n".join(map(_complaint, error.errors()))) from error
    try:
        recipe._computes.update({name: described.default_compute for name, described in formats.items()})
        _check_calibration(recipe)
        _check_names(recipe, formats, tasks)
        preprocessing_of(recipe)
    except (UsageError, InputError) as error:
        raise UsageError(f"{path}: {error.text}") from error
    places = ("checkpoint", "weights", "data", *(("labels",) if isinstance(recipe.labels, str) else ()))
    references = {name: getattr(recipe, name) for name in places}
    beside: dict[str, Any] = {
        name: _beside(path.parent, value) for name, value in references.items() if value is not None
    }
    if recipe.calibration is not None:
        data = _beside(path.parent, recipe.calibration.data)
        beside["calibration"] = recipe.calibration.model_copy(update={"data": data})
    return recipe.model_copy(update=beside)


def _parse(path: Path) -> dict[str, Any]:
    """The file as a mapping."""
    try:
        text = path.read_text()
        content = yaml.safe_load(text)
        repeated = list(all_repeated_keys(yaml.compose(text, yaml.SafeLoader)))
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {error}{_unquoted(error)}") from error
    if repeated:
        raise UsageError(f"{path}: {'; '.join(repeated)}")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path}: a recipe is a list of `key: value` lines, beginning with checkpoint and data")
    return content


def _check_calibration(recipe: Recipe) -> None:
    """Raise UsageError for a scheme that needs calibration data where the recipe states none."""
    if recipe.calibration is None:
        for cell in recipe.cells():
            if recipe.calibrates(cell.scheme):
                raise not_given(cell.scheme.name)


def _check_names(recipe: Recipe, formats: Mapping[str, Format], tasks: Sequence[str]) -> None:
    """Raise UsageError for an unknown backend, option or task, and for options of a format that is not written."""
    for name in recipe.backends:
        if name not in formats:
            raise UsageError(f"Unknown backend {name!r}: {', '.join(formats)}{did_you_mean(name, formats)}")
    for name, values in recipe.options.items():
        if name not in recipe.backends:
            near = did_you_mean(name, recipe.backends)
            raise UsageError(
                f"options: {name!r} is not among the recipe's backends, {', '.join(recipe.backends)}{near}"
            )
        known = list(formats[name].options_schema.get("properties", {}))
        for option in values:
            if option not in known:
                choices = f"it has {', '.join(known)}" if known else "it has none"
                raise UsageError(f"options.{name}: unknown option {option!r}; {choices}{did_you_mean(option, known)}")
    if recipe.task not in tasks:
        raise UsageError(f"Unknown task {recipe.task!r}: {', '.join(tasks)}{did_you_mean(recipe.task, tasks)}")


def _beside(folder: Path, reference: str) -> str:
    """A reference as a path in the recipe's folder, where that exists; else unchanged: it may be no path at all."""
    return str(folder / reference) if (folder / reference).exists() else reference


def _unquoted(error: yaml.YAMLError) -> str:
    """Say to quote braces in a list, and globs, where YAML took them for its own; else ''."""
    mark = getattr(error, "problem_mark", None)
    lines = mark.buffer.splitlines()[mark.line :] if mark is not None and mark.buffer else []
    if lines and "alias" in str(error) and "*" in lines[0]:
        return "\na glob goes in quotes"
    name = re.search(r"[\w-]+\{[^{}]*\}[\w{},.-]*", lines[0]) if lines else None
    return f"\n{_QUOTE.format(name[0])}" if name else ""


def _complaint(error: ErrorDetails) -> str:
    """One mistake: key, and what is wrong with it."""
    kind, place = error["type"], error["loc"]
    where = ".".join(str(part) for part in place)
    if kind == "extra_forbidden":
        known = _fields(place)
        near = did_you_mean(str(place[-1]), known) or f" (there are {', '.join(known)})"
        return f"  {where}: no such key{near}"
    if kind == "missing":
        description = _fields(place)[str(place[-1])].description
        return f"  {where}: missing{f' ({description})' if description else ''}"
    if kind == "list_type" and where == "layers":
        return '  layers: a list of rules, as - {match: "classifier.*", bits: 8}'
    if kind == "list_type" and where == "input_shape":
        return "  input_shape: a list of whole numbers, as [1, 3, 224, 224]"
    if kind in ("string_type", "list_type") and isinstance(error["input"], dict):
        braces = "{" + ",".join(map(str, error["input"])) + "}"
        return f"  {where}: {error['msg']}. {_QUOTE.format(braces)}"
    return f"  {where}: {error['msg'].removeprefix('Value error, ')}"


def _fields(place: tuple[int | str, ...]) -> dict[str, FieldInfo]:
    """The keys that are known at the place of a mistake: at the top of the recipe, or in one of its parts."""
    parts: dict[int | str, type[StrictModel]] = {
        "layers": LayerRule,
        "preprocessing": PreprocessingSpec,
        "calibration": CalibrationSpec,
    }
    return (parts.get(place[0], Recipe) if len(place) > 1 else Recipe).model_fields
