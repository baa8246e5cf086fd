"""Budgets: what the cells of a sweep have to keep to, one YAML file, refused where a figure could be misread.

Every figure has one spelling: sizes carry a unit (`1.3 MB`), accuracies the sign (`95 %`), drops are bare numbers of
points of top-1. What else might be meant by a number is asked, never guessed.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
from pydantic.fields import FieldInfo

from mobconv.errors import InputError, UsageError, did_you_mean
from mobconv.recipe import expand, one_or_many, twice

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_FIGURE = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*([A-Za-z%]*)")


def _split(value: Any, example: str) -> tuple[str, str | None]:
    """The number and the unit of a figure; None for a bare number of YAML. Raises ValueError."""
    if value is None:
        raise ValueError(f"no value; such as {example}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(int(value)) if value in (0, 1) else repr(value)), None
    found = _FIGURE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r} is not understood; write it like {example}")
    return found[1], found[2]


def _not_below_0(number: str) -> float:
    value = float(number)
    if value < 0:
        raise ValueError(f"{number} is negative")
    if not math.isfinite(value):
        raise ValueError(f"{number} is no limit")
    return value


def _bytes(number: str, unit: str) -> int:
    if unit not in UNITS:
        near = [f"{name!r}" for name in UNITS if name[0].lower() == unit[0].lower()]
        told = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(UNITS)}"
        raise ValueError(f"{unit!r} is no unit of size ({told})")
    return int(Decimal(number) * UNITS[unit])


def size(value: Any) -> int:
    """Bytes of ``1.3 MB``; fractions of a byte are cut off. Raises ValueError."""
    number, unit = _split(value, "1.3 MB")
    _not_below_0(number)
    if not unit:
        raise ValueError(f"{number} has no unit: write {number} B, {number} kB or {number} MB")
    if unit == "%":
        raise ValueError(f"{number} % of what? A size is in bytes: write it like 1.3 MB")
    count = _bytes(number, unit)
    if count == 0:
        raise ValueError("no file has 0 bytes")
    return count


def points(value: Any) -> float:
    """Points of top-1, a bare number. Raises ValueError."""
    number, unit = _split(value, "1.5")
    if unit == "%":
        raise ValueError(f"{number} % is a percentage, but this is in points of top-1: write {number}")
    if unit is not None:
        raise ValueError(f"{value!r}: points of top-1 go without unit or quotes: write {number}")
    return _not_below_0(number)


def percentage(value: Any) -> float:
    """Percent of ``95 %``. Raises ValueError."""
    number, unit = _split(value, "95 %")
    share = _not_below_0(number)
    if not unit:
        if share == 1:
            raise ValueError("1 may be 1 % or 100 %: write the one that is meant, with its sign")
        meant = f"{share * 100:g} % (or {number} %)" if 0 < share < 1 else f"{number} %"
        raise ValueError(f"{number} has no sign: write {meant}")
    if unit != "%":
        raise ValueError(f"{value!r} is no percentage: write {number} %")
    if share > 100:
        raise ValueError(f"{number} % is more than 100 %")
    return share


def ratio(value: Any) -> float:
    """Times the fp32 file, a bare number above 0. Raises ValueError."""
    number, unit = _split(value, "1.5")
    share = _not_below_0(number)
    if unit == "%":
        raise ValueError(f"{number} % is a percentage, but this is times the fp32 file: write {share / 100:g}")
    if unit is not None:
        raise ValueError(f"{value!r}: times the fp32 file goes without unit or quotes: write {number}")
    if share == 0:
        raise ValueError("nothing takes no time; write it like 1.5")
    return share


@dataclass(frozen=True)
class Growth:
    """How much larger than the baseline's a file may be: value in bytes, or in percent of the baseline's."""

    value: float
    unit: str


def growth(value: Any) -> Growth:
    """Growth of ``2 %`` or ``10 kB``. Raises ValueError."""
    number, unit = _split(value, "2 % or 10 kB")
    share = _not_below_0(number)
    if not unit:
        raise ValueError(f"{number} has no unit: write {number} % or {number} kB")
    return Growth(share, "%") if unit == "%" else Growth(_bytes(number, unit), "bytes")


def _yes(value: Any) -> Any:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false (without quotes)")
    return value


def _globs(value: Any) -> list[str]:
    many = [value] if isinstance(value, str) else value
    if not isinstance(many, list) or not many or not all(isinstance(each, str) and each for each in many):
        raise ValueError("a glob over names of cells, or a list of them, such as onnx/w4-*")
    for each in many:
        if many.count(each) > 1:
            raise ValueError(f"{each!r} stands there twice")
    return many


def _path(value: Any) -> Any:
    if not isinstance(value, str) or not value:
        raise ValueError("a path, relative to the budget's folder")
    return Path(value)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# The same figures for editors. A size or growth of nothing is for `load` to refuse, as is a unit of another kind.
_NUMBER = r"\+?(\d+(\.\d*)?|\.\d+)"
_SIZE = rf"(?=[^a-zA-Z]*[1-9]){_NUMBER}\s*({'|'.join(UNITS)})"
_PERCENT = r"\+?(0*100(\.0*)?|0*\d{1,2}(\.\d*)?|\.\d+)\s*%"


def _text(pattern: str, *examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": rf"^\s*({pattern})\s*$", "examples": list(examples)})


Size = Annotated[int | None, BeforeValidator(size), _text(_SIZE, "1.3 MB", "160 kB")]
Percentage = Annotated[float | None, BeforeValidator(percentage), _text(_PERCENT, "95 %", "99.5 %")]
Points = Annotated[float | None, BeforeValidator(points), WithJsonSchema({"type": "number", "minimum": 0})]
Ratio = Annotated[float | None, BeforeValidator(ratio), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
Growing = Annotated[
    Growth | None,
    BeforeValidator(growth),
    _text(rf"{_NUMBER}\s*(%|{'|'.join(UNITS)})", "2 %", "10 kB"),
]


class Entry(_Strict):
    """What some cells keep to. A cell under several entries keeps to all of them."""

    cells: Annotated[list[str], BeforeValidator(_globs), one_or_many({"type": "string", "minLength": 1})] = Field(
        description="glob over names of cells, or a list of them; braces expand"
    )
    must_exist: Annotated[bool, BeforeValidator(_yes)] = Field(
        default=False, description="the cell is in the results and has a file: neither unsupported nor left out"
    )
    max_bytes: Size = Field(default=None, description="what the file may weigh")
    min_accuracy: Percentage = Field(default=None, description="least top-1 on these images")
    max_drop: Points = Field(
        default=None, description="at most so many points of top-1 below the float baseline, by the interval"
    )
    max_conversion_loss: Points = Field(
        default=None, description="at most so many points of top-1 below PyTorch with the dequantized weights"
    )
    min_agreement: Percentage = Field(default=None, description="least share of images with the reference's top-1")
    max_latency_ratio: Ratio = Field(
        default=None, description="at most so many times the latency of the same backend's fp32 file"
    )
    max_regression: Points = Field(
        default=None, description="at most so many points of top-1 below the same cell of the baseline, by the interval"
    )
    max_growth: Growing = Field(
        default=None, description="growth of the file over the same cell's of the baseline, in percent or bytes"
    )

    @property
    def globs(self) -> list[str]:
        """`cells`, braces expanded."""
        return list(dict.fromkeys(whole for each in self.cells for whole in expand(each)))

    @property
    def rules(self) -> dict[str, Any]:
        """The rules that are set, with their limits, in the order above."""
        set_here = {name: getattr(self, name) for name in RULES}
        return {name: limit for name, limit in set_here.items() if limit is not None and limit is not False}

    @model_validator(mode="after")
    def _some_rule(self) -> Entry:
        if not self.rules:
            raise ValueError(f"no rule in it; there are {', '.join(RULES)}")
        return self


RULES = tuple(name for name in Entry.model_fields if name != "cells")
AGAINST_BASELINE = ("max_regression", "max_growth")


class _File(_Strict):
    checkpoint: Annotated[Path | None, BeforeValidator(_path)] = Field(
        default=None, description="what the results have to be of, by its sha256"
    )
    baseline: Annotated[Path | None, BeforeValidator(_path)] = Field(
        default=None, description="what `mobconv baseline` wrote of earlier results"
    )
    budgets: list[Entry] = Field(min_length=1, description="a list: `cells: GLOB` and the rules for these cells")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of budgets, for editors.

    It refuses no budget that `load` takes, and as much of what `load` refuses as a schema can say.
    """
    schema = _File.model_json_schema()
    entry = schema["$defs"]["Entry"]
    for name in ("checkpoint", "baseline"):  # an empty value is a mistake here, so there is no null
        schema["properties"][name] |= {"type": "string", "minLength": 1}
        del schema["properties"][name]["anyOf"]
    for field in (*schema["properties"].values(), *entry["properties"].values()):
        field.pop("default", None)
    set_here = [{"required": [name]} for name in RULES if name != "must_exist"]
    said = {"required": ["must_exist"], "properties": {"must_exist": {"const": True}}}
    entry["anyOf"] = [said, *set_here]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "mobconv budget"}


@dataclass(frozen=True)
class Budget:
    """A budget file: entries, the line each begins in, and files that it names (None: it names none)."""

    path: Path
    entries: tuple[Entry, ...]
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
    """Keys that stand twice, and where."""
    places = [("", root), *((f"{_entry(i, lines)}, ", node) for i, node in enumerate(entries))]
    for place, node in places:
        yield from (f"{place}{found}" for found in twice(node))


def _again(entries: list[Entry], lines: tuple[int, ...]) -> Iterator[str]:
    """The same rule for the same glob in two entries."""
    seen: dict[tuple[str, str], int] = {}
    for position, entry in enumerate(entries):
        for glob in entry.cells:
            for rule in entry.rules:
                first = seen.setdefault((glob, rule), position)
                if first != position:
                    yield f"{_entry(position, lines)}, {rule}: {glob!r} has one already, in {_entry(first, lines)}"


def _complaints(error: ValidationError, lines: tuple[int, ...]) -> Iterator[str]:
    for found in error.errors():
        place = found["loc"]
        inside = len(place) > 1 and place[0] == "budgets" and isinstance(place[1], int)
        fields: dict[str, FieldInfo] = (Entry if inside else _File).model_fields
        rest = ".".join(str(part) for part in place[2:] if isinstance(part, str)) if inside else str(place[0])
        where = ", ".join(part for part in (_entry(int(place[1]), lines) if inside else "", rest) if part)
        kind, last = found["type"], str(place[-1])
        if kind == "extra_forbidden":
            told = f"no such key{_nearest(last, fields)}"
        elif kind == "missing":
            told = f"missing ({fields[last].description})"
        elif kind == "model_type":
            told = "an entry is `cells: GLOB` and its rules, each on a line of its own"
        elif kind in ("list_type", "too_short"):
            told = f"not {fields['budgets'].description}"
        else:
            told = found["msg"].removeprefix("Value error, ")
        yield f"  {where}: {told}"


def _nearest(word: str, fields: dict[str, FieldInfo]) -> str:
    """The key that was meant; of those as near as each other, the one with the same ending (min_drop: max_drop)."""
    alike = [name for name in fields if name.partition("_")[2] and name.partition("_")[2] == word.partition("_")[2]]
    if len(alike) == 1 and difflib.SequenceMatcher(None, word, alike[0]).ratio() > 0.5:
        return f" (did you mean {alike[0]!r}?)"
    return did_you_mean(word, fields) or f" (there are {', '.join(fields)})"
