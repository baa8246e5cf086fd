"""Budgets: limits for the cells of a sweep, one YAML file. Every mistake names entry, line and key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from mobconv.errors import InputError, UsageError, did_you_mean
from mobconv.gate.limits import Growing, Loss, Percentage, Ratio, Score, Size
from mobconv.recipe import expand, one_or_many, repeated_keys


def _yes(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false (without quotes)")
    return value


def _globs(value: Any) -> list[str]:
    many = [value] if isinstance(value, str) else value
    if not isinstance(many, list) or not many or not all(isinstance(glob, str) and glob for glob in many):
        raise ValueError("a glob over names of cells, or a list of them, such as onnx/w4-*")
    for glob in many:
        if many.count(glob) > 1:
            raise ValueError(f"{glob!r} is given twice")
    return many


def _path(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError("a path, relative to the budget's folder")
    return Path(value)


class _BudgetPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetEntry(_BudgetPart):
    """Limits for some cells. A cell under several entries keeps to all of them."""

    cells: Annotated[list[str], BeforeValidator(_globs), one_or_many({"type": "string", "minLength": 1})] = Field(
        description="glob over names of cells, or a list of them; braces expand"
    )
    must_exist: Annotated[bool, BeforeValidator(_yes)] = Field(
        default=False, description="the cell is in the results and has a file: neither unsupported nor missing"
    )
    max_bytes: Size = Field(default=None, description="largest size of the file")
    min_score: Score = Field(
        default=None, description="lowest score on these images, of a metric where higher is better"
    )
    max_score: Score = Field(
        default=None, description="highest score on these images, of a metric where lower is better"
    )
    max_drop: Loss = Field(
        default=None,
        description="largest loss against the float baseline, in the metric's unit of loss (points of a percentage), "
        "by the interval",
    )
    max_conversion_loss: Loss = Field(
        default=None,
        description="largest loss against PyTorch with the dequantized weights, in the metric's unit of loss",
    )
    min_agreement: Percentage = Field(
        default=None, description="lowest share of images for which file and reference mean the same"
    )
    max_latency_ratio: Ratio = Field(
        default=None, description="highest latency, as a multiple of that of the same backend's fp32 file"
    )
    max_regression: Loss = Field(
        default=None,
        description="largest loss against the same cell of the baseline, in the metric's unit of loss, by the interval",
    )
    max_growth: Growing = Field(
        default=None, description="largest growth of the file over the same cell's of the baseline, in percent or bytes"
    )

    @property
    def globs(self) -> list[str]:
        """`cells`, braces expanded."""
        return list(dict.fromkeys(whole for glob in self.cells for whole in expand(glob)))

    @property
    def rules(self) -> dict[str, Any]:
        """The rules that are set, with their limits, in the order above."""
        limits = {name: getattr(self, name) for name in RULES}
        return {name: limit for name, limit in limits.items() if limit is not None and limit is not False}

    @model_validator(mode="after")
    def _some_rule(self) -> BudgetEntry:
        if not self.rules:
            raise ValueError(f"no rule in it; there are {', '.join(RULES)}")
        return self


RULES = tuple(name for name in BudgetEntry.model_fields if name != "cells")
AGAINST_BASELINE = ("max_regression", "max_growth")


class _File(_BudgetPart):
    checkpoint: Annotated[Path | None, BeforeValidator(_path)] = Field(
        default=None, description="the checkpoint that the results must be of, by its sha256"
    )
    baseline: Annotated[Path | None, BeforeValidator(_path)] = Field(
        default=None, description="lock file of earlier results, written by `mobconv baseline`"
    )
    budgets: list[BudgetEntry] = Field(min_length=1, description="a list: `cells: GLOB` and the rules for these cells")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of budgets, for editors: it accepts every budget that `load` accepts, and few others."""
    schema = _File.model_json_schema()
    entry = schema["$defs"]["BudgetEntry"]
    for name in ("checkpoint", "baseline"):  # an empty value is a mistake here, so null is not allowed
        schema["properties"][name] |= {"type": "string", "minLength": 1}
        del schema["properties"][name]["anyOf"]
    for field in (*schema["properties"].values(), *entry["properties"].values()):
        field.pop("default", None)
    exists = {"required": ["must_exist"], "properties": {"must_exist": {"const": True}}}
    entry["anyOf"] = [exists, *({"required": [name]} for name in RULES if name != "must_exist")]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "mobconv budget"}


@dataclass(frozen=True)
class Budget:
    """A budget file: entries, the line in which each begins, and the files that it names (None: it names none)."""

    path: Path
    entries: tuple[BudgetEntry, ...]
    lines: tuple[int, ...]
    checkpoint: Path | None = None
    baseline: Path | None = None

    def where(self, position: int, key: str) -> str:
        """The place of a key, for messages; position counts entries from 0."""
        return f"{self.path}: {_entry(position, self.lines)}, {key}"


def load(path: Path) -> Budget:
    """Read a budget.

    Raises InputError when it cannot be read, UsageError, naming entry, line and key, when it is wrong.
    """
    try:
        text = path.read_text()
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such budget") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2026-99-99
        quoted = "alias" in str(error) or "'?'" in str(error)
        hint = '; a glob with * or ? goes in quotes: cells: "*/w4-*"' if quoted else ""
        raise UsageError(f"{path} is not YAML: {error}{hint}") from error
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{path}: a budget is a list under `budgets:`, each entry with `cells: GLOB` and its rules")
    entries = [item for key, value in node.value if key.value == "budgets" for item in _items(value)]
    lines = tuple(item.start_mark.line + 1 for item in entries)
    twice = [f"  {line}" for line in _twice(node, entries, lines)]
    if twice:
        raise UsageError("\n".join([f"{path}:", *twice]))
    try:
        file = _File.model_validate(content)
    except ValidationError as error:
        raise UsageError("\n".join([f"{path}:", *_complaints(error, lines)])) from error
    again = [f"  {line}" for line in _again(file.budgets, lines)]
    if again:
        raise UsageError("\n".join([f"{path}:", *again]))
    base = path.parent
    return Budget(
        path,
        tuple(file.budgets),
        lines,
        None if file.checkpoint is None else base / file.checkpoint,
        None if file.baseline is None else base / file.baseline,
    )


def _items(node: yaml.Node) -> list[yaml.Node]:
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _entry(position: int, lines: tuple[int, ...]) -> str:
    return f"entry {position + 1}" + (f" (line {lines[position]})" if position < len(lines) else "")


def _twice(root: yaml.MappingNode, entries: list[yaml.Node], lines: tuple[int, ...]) -> Iterator[str]:
    """Keys that are given twice, each with its place."""
    places = [("", root), *((f"{_entry(i, lines)}, ", node) for i, node in enumerate(entries))]
    for place, node in places:
        yield from (f"{place}{complaint}" for complaint in repeated_keys(node))


def _again(entries: list[BudgetEntry], lines: tuple[int, ...]) -> Iterator[str]:
    """The same rule for the same glob in two entries."""
    seen: dict[tuple[str, str], int] = {}
    for position, entry in enumerate(entries):
        for glob in entry.cells:
            for rule in entry.rules:
                first = seen.setdefault((glob, rule), position)
                if first != position:
                    yield f"{_entry(position, lines)}, {rule}: {glob!r} has one already, in {_entry(first, lines)}"


def _complaints(error: ValidationError, lines: tuple[int, ...]) -> Iterator[str]:
    for mistake in error.errors():
        place = mistake["loc"]
        inside = len(place) > 1 and place[0] == "budgets" and isinstance(place[1], int)
        fields: dict[str, FieldInfo] = (BudgetEntry if inside else _File).model_fields
        rest = ".".join(str(part) for part in place[2:] if isinstance(part, str)) if inside else str(place[0])
        where = ", ".join(part for part in (_entry(int(place[1]), lines) if inside else "", rest) if part)
        kind, last = mistake["type"], str(place[-1])
        if kind == "extra_forbidden":
            text = f"no such key{_nearest(last, fields)}"
        elif kind == "missing":
            text = f"missing ({fields[last].description})"
        elif kind == "model_type":
            text = "an entry is `cells: GLOB` and its rules, each on a line of its own"
        elif kind in ("list_type", "too_short"):
            text = f"not {fields['budgets'].description}"
        else:
            text = mistake["msg"].removeprefix("Value error, ")
        yield f"  {where}: {text}"


def _nearest(word: str, fields: dict[str, FieldInfo]) -> str:
    """The nearest key; of several as near as each other, the one with the same ending (max_drop for min_drop)."""
    alike = [name for name in fields if name.partition("_")[2] and name.partition("_")[2] == word.partition("_")[2]]
    if len(alike) == 1 and difflib.SequenceMatcher(None, word, alike[0]).ratio() > 0.5:
        return f" (did you mean {alike[0]!r}?)"
    return did_you_mean(word, fields) or f" (there are {', '.join(fields)})"
