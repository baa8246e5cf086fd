"""Limits of a budget: the one spelling of each kind of figure, for `load` and, as JSON Schema, for editors.

Sizes carry a unit (`1.3 MB`), percentages the sign (`95 %`), losses and ratios are bare numbers. An ambiguous figure is
an error that names the possible spellings. Which spelling a score has depends on the metric, and that is known once
results are read: `score_limit` checks it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from mobconv.evaluate.tasks import Metric
from mobconv.evaluate.tasks.base import with_unit

UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"
_FIGURE = re.compile(rf"({_NUMBER})\s*([A-Za-z%]*)")
_SCORE = re.compile(rf"({_NUMBER}(?:[eE][+-]?\d+)?)\s*([^\W\d_]\S*|%|)")


def _split(value: Any, example: str, pattern: re.Pattern[str] = _FIGURE) -> tuple[str, str | None]:
    """The number and the unit of a figure; None for a bare number of YAML. Raises ValueError."""
    if value is None:
        raise ValueError(f"no value; such as {example}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (str(int(value)) if value in (0, 1) else repr(value)), None
    match = pattern.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not understood; write it like {example}")
    return match[1], match[2]


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} cannot be a limit")
    return value


def _not_below_0(number: str) -> float:
    if float(number) < 0:
        raise ValueError(f"{number} is negative")
    return _finite(number)


def _bytes(number: str, unit: str) -> int:
    if unit not in UNITS:
        near = [f"{name!r}" for name in UNITS if name[0].lower() == unit[0].lower()]
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of {', '.join(UNITS)}"
        raise ValueError(f"unknown unit of size {unit!r} ({hint})")
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


def loss(value: Any) -> float:
    """A loss in the metric's unit of loss, a bare number. Raises ValueError."""
    number, unit = _split(value, "1.5")
    if unit == "%":
        raise ValueError(
            f"{number} % is a percentage, but a loss is a bare number in the metric's unit of loss, such as points: "
            f"write {number}"
        )
    if unit is not None:
        raise ValueError(f"{value!r}: a loss goes without unit or quotes: write {number}")
    return _not_below_0(number)


@dataclass(frozen=True)
class ScoreLimit:
    """A score as a budget gives it: number and unit, None for a bare number of YAML."""

    number: str
    unit: str | None


def score(value: Any) -> ScoreLimit:
    """A score of ``95 %``, ``0.31 px`` or ``0.31``; `score_limit` checks the unit. Raises ValueError."""
    number, unit = _split(value, "95 % or 0.31", _SCORE)
    _finite(number)
    return ScoreLimit(number, unit)


def score_limit(limit: ScoreLimit, metric: Metric) -> float:
    """The limit in the metric's unit. Raises ValueError where it is not spelled, or not possible, for this metric."""
    if metric.unit == "%":
        _check_sign(limit.number, limit.unit)
    elif limit.unit not in (None, metric.unit):
        written = f"{limit.number} {limit.unit}".rstrip()
        spelling = f"in {metric.unit}" if metric.unit else "a bare number, without unit or quotes"
        raise ValueError(f"{written!r}: {metric.name} is {spelling}: write {with_unit(limit.number, metric.unit)}")
    value = float(limit.number)
    if metric.full is not None:
        _not_below_0(limit.number)
        if value > metric.full:
            text, most = (with_unit(number, metric.unit) for number in (limit.number, f"{metric.full:g}"))
            raise ValueError(f"{text} is more than {most}")
    return value


def _check_sign(number: str, unit: str | None) -> None:
    """Raise ValueError where a percentage has no sign, or another unit."""
    if not unit:
        share = _not_below_0(number)
        if share == 1:
            raise ValueError("1 may be 1 % or 100 %: write the one that is meant, with its sign")
        meant = f"{share * 100:g} % (or {number} %)" if 0 < share < 1 else f"{number} %"
        raise ValueError(f"{number} has no sign: write {meant}")
    if unit != "%":
        raise ValueError(f"'{number} {unit}' is not a percentage: write {number} %")


def percentage(value: Any) -> float:
    """Percent of ``95 %``, 0 to 100. Raises ValueError."""
    number, unit = _split(value, "95 %")
    _check_sign(number, unit)
    share = _not_below_0(number)
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
        raise ValueError("no file has a latency of 0; write it like 1.5")
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


# The same figures for editors. A size or growth of nothing is for `load` to refuse, as is a unit of another kind.
_POSITIVE = r"\+?(\d+(\.\d*)?|\.\d+)"
_SIZE = rf"(?=[^a-zA-Z]*[1-9]){_POSITIVE}\s*({'|'.join(UNITS)})"
_PERCENT = r"\+?(0*100(\.0*)?|0*\d{1,2}(\.\d*)?|\.\d+)\s*%"
_SCORE_TEXT = r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*([^\W\d_]\S*|%)?"


def _text(pattern: str, *examples: str) -> dict[str, Any]:
    return {"type": "string", "pattern": rf"^\s*({pattern})\s*$", "examples": list(examples)}


Size = Annotated[int | None, BeforeValidator(size), WithJsonSchema(_text(_SIZE, "1.3 MB", "160 kB"))]
Percentage = Annotated[float | None, BeforeValidator(percentage), WithJsonSchema(_text(_PERCENT, "95 %", "99.5 %"))]
Score = Annotated[
    ScoreLimit | None,
    BeforeValidator(score),
    WithJsonSchema({"anyOf": [_text(_SCORE_TEXT, "95 %", "0.31 px"), {"type": "number"}]}),
]
Loss = Annotated[float | None, BeforeValidator(loss), WithJsonSchema({"type": "number", "minimum": 0})]
Ratio = Annotated[float | None, BeforeValidator(ratio), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
Growing = Annotated[
    Growth | None,
    BeforeValidator(growth),
    WithJsonSchema(_text(rf"{_POSITIVE}\s*(%|{'|'.join(UNITS)})", "2 %", "10 kB")),
]
