"""Two results compared, as text, JSON and a page. Changes are B less A: more top-1 is better, more bytes are not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from mobconv.report import drawing, page, words
from mobconv.report.page import Column, Line, Shown
from mobconv.results.diff import (
    BETTER,
    NOT_COMPARED,
    ONLY_AFTER,
    ONLY_BEFORE,
    ORDER,
    WITHIN_NOISE,
    WORSE,
    Change,
    Changes,
    Side,
)
from mobconv.results.tables import plural, size
from mobconv.stats.estimates import Estimate

_STYLE = {WORSE: "red", NOT_COMPARED: "yellow", BETTER: "green", ONLY_BEFORE: "dim", ONLY_AFTER: "dim"}
TITLES = ("outcome", "cell", "top-1 %", "change", "95 % interval", "p", "size", "latency")


def sentence(found: Changes) -> str:
    """How many of each, in one line."""
    counts = {outcome: len(found.of(outcome)) for outcome in ORDER}
    told = [f"{count} {outcome}" for outcome, count in counts.items() if count or outcome in (WORSE, BETTER)]
    return f"{plural(len(found.cells), 'cell')}: {', '.join(told)}"


def legend(found: Changes) -> Iterator[str]:
    """What is compared with what, and how sure it is."""
    for name, side in (("A", found.before), ("B", found.after)):
        model = side.results.model
        yield f"{name}: {side.path}, of {model.get('path', '?')} ({str(model.get('sha256', '?'))[:12]})"
    yield (
        f"float baseline: {found.before.results.float_top1 * 100:.2f} % and "
        f"{found.after.results.float_top1 * 100:.2f} %, "
        f"{_points(-found.lost.points)} points ({_interval(found.lost)})"
    )
    yield from found.notes
    if found.paired:
        over = f"{plural(found.groups, 'group')} of images" if found.groups else "images"
        how = f"paired bootstrap over {over}; p: McNemar's exact test"
    else:
        how = "unpaired, by Newcombe's formula; p: Fisher's exact test"
    many = ": of so many, some intervals leave out 0 by chance" if found.tests > 1 else ""
    yield (
        f"change: points of top-1, B less A, with its 95 % interval ({how}). p is adjusted by Holm for "
        f"{plural(found.tests, 'comparison')}{many}. better or worse: p at most 5 % and an interval "
        "without 0; the same: equal predictions of every image, or the same file. latency: each "
        "against its own fp32 file"
    )


def table(found: Changes, narrow: bool = False) -> Table:
    """Cell by cell, worse ones first; narrow: without interval, p and latency, and of sizes the growth alone."""
    out = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0) if narrow else (0, 1))
    left = ("outcome", "cell")
    shown = [title for title in TITLES if not (narrow and title in ("p", "latency", "95 % interval"))]
    for title in shown:
        out.add_column(title, justify="left" if title in left else "right", no_wrap=True)
    for each in found.cells:
        texts = dict(zip(TITLES, _texts(each), strict=True))
        if narrow:
            texts["size"] = _percent(each).strip(" ()") or "-"
        out.add_row(*(escape(texts[title]) for title in shown), style=_STYLE.get(each.outcome, ""))
    return out


def remarks(found: Changes) -> Iterator[str]:
    """Why cells were not compared."""
    for each in found.of(NOT_COMPARED):
        yield f"{each.cell}: {each.note}"


def _texts(each: Change) -> tuple[str, ...]:
    one, other = each.before, each.after
    change, interval, p = "-", "-", "-"
    if each.lost is not None and each.p is not None:
        change, interval = _points(-each.lost.points), _interval(each.lost)
        p = "< 0.0001" if each.p < 1e-4 else f"{each.p:.2g}"
    return (
        each.outcome,
        each.cell,
        _pair(*(None if row is None or row.top1 is None else f"{row.top1 * 100:.2f}" for row in (one, other))),
        change,
        interval,
        p,
        _pair(*(None if row is None or row.file_bytes is None else size(row.file_bytes) for row in (one, other)))
        + _percent(each),
        _pair(
            *(None if row is None or row.latency_ratio is None else f"{row.latency_ratio:.2f}x" for row in (one, other))
        ),
    )


def growth(each: Change) -> float | None:
    """Bytes of B over those of A, less 1; None where one is not known."""
    sizes = [None if row is None else row.file_bytes for row in (each.before, each.after)]
    return sizes[1] / sizes[0] - 1 if sizes[0] and sizes[1] is not None else None


def _percent(each: Change) -> str:
    grown = growth(each)
    return "" if grown is None or abs(grown) < 5e-5 else f" ({grown * 100:+.1f} %)"


def _pair(one: str | None, other: str | None) -> str:
    """`before → after`; one figure where they are equal."""
    if one is None and other is None:
        return "-"
    return str(one) if one == other else f"{one or '-'} → {other or '-'}"


def _points(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"


def _interval(lost: Estimate) -> str:
    """Of the change, which is the loss turned round."""
    return f"{_points(-lost.high)} to {_points(-lost.low)}"


def as_json(found: Changes) -> dict[str, Any]:
    """Everything, for `--json`; changes in points of top-1, above 0 is better."""
    return {
        "before": _side(found.before),
        "after": _side(found.after),
        "paired": found.paired,
        "groups": found.groups,
        "comparisons": found.tests,
        "float_change": _change(found.lost),
        "counts": {outcome: len(found.of(outcome)) for outcome in ORDER},
        "notes": list(found.notes),
        "cells": [
            {
                "cell": each.cell,
                "outcome": each.outcome,
                "top1": _both(each, "top1"),
                "change": None if each.lost is None else _change(each.lost),
                "p_holm": each.p,
                "file_bytes": _both(each, "file_bytes"),
                "latency_ratio": _both(each, "latency_ratio"),
                "note": each.note,
            }
            for each in found.cells
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    found = side.results
    return {"path": str(side.path), "model": found.model, "data": found.data, "float_top1": found.float_top1}


def _both(each: Change, name: str) -> list[Any]:
    return [None if row is None else getattr(row, name) for row in (each.before, each.after)]


def _change(lost: Estimate) -> dict[str, float]:
    return {"points": 0.0 - lost.points, "low": 0.0 - lost.high, "high": 0.0 - lost.low, "p": lost.p}


_COLUMNS = (
    Column("cell", figure=False),
    Column("outcome", figure=False),
    Column("top-1 %"),
    Column("change"),
    Column("p"),
    Column("size"),
    Column("growth"),
    Column("latency"),
)


def html(found: Changes) -> str:
    """The same as a page. Raises BackendError where Jinja2 is not installed."""
    drawing.require("jinja2")
    lines = [_line(each) for each in found.cells]
    counts = {outcome: len(found.of(outcome)) for outcome in ORDER}
    first = (WORSE, BETTER, WITHIN_NOISE)
    return page.render(
        "changes.html",
        title=f"{found.after.path} against {found.before.path}",
        sentence=sentence(found) + ".",
        counts=[(name, counts[name]) for name in ORDER if counts[name] or name in first],
        legend=list(legend(found)),
        warnings=[note for note in found.notes if note.startswith("OTHER IMAGES")],
        label="All cells, one row each",
        columns=_COLUMNS,
        rows=lines,
        selects=page.selects(lines, outcome="outcome", backend="format", mode="mode"),
        within=False,
    )


def _line(each: Change) -> Line:
    row = each.after or each.before
    assert row is not None
    _, _, top1, change, interval, p, _, latency = _texts(each)
    sizes = _pair(
        *(None if one is None or one.file_bytes is None else size(one.file_bytes) for one in (each.before, each.after))
    )
    grown = growth(each)
    ratio = None if each.after is None else each.after.latency_ratio
    shown = [
        Shown(
            each.outcome,
            ORDER.index(each.outcome),
            figure=False,
            kind={WORSE: "bad", BETTER: "good"}.get(each.outcome, ""),
        ),
        Shown(top1, row.top1),
        Shown(
            words.minus(change),
            None if each.lost is None else -each.lost.points,
            sub="" if each.lost is None else words.minus(interval),
        ),
        Shown(p, each.p),
        Shown(sizes, row.file_bytes),
        Shown("-" if grown is None else words.minus(f"{grown * 100:+.1f} %"), grown),
        Shown(latency, ratio),
    ]
    data = {"outcome": each.outcome, "backend": row.backend, "mode": row.mode or "float"}
    told = [each.note] if each.note else []
    for name, side in (("A", each.before), ("B", each.after)):
        if side is not None and side.sha256:
            told.append(f"{name}: {side.path}, sha256 {side.sha256}")
    return Line(each.cell, shown, told, kind=each.outcome.split()[0], data=data)
