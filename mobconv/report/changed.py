"""Two results compared, as text, JSON and a page. Changes are B less A."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from mobconv.common.text import plural, size
from mobconv.evaluate.tasks import Metric
from mobconv.report import drawing, page, words
from mobconv.report.charts import interval
from mobconv.report.page import Heading, Line, TableEntry
from mobconv.results.diff import (
    BETTER,
    NOT_COMPARED,
    ONLY_AFTER,
    ONLY_BEFORE,
    ORDER,
    OTHER_DATA,
    WITHIN_NOISE,
    WORSE,
    Change,
    Changes,
    Side,
)
from mobconv.stats.estimates import Estimate

_STYLE = {WORSE: "red", NOT_COMPARED: "yellow", BETTER: "green", ONLY_BEFORE: "dim", ONLY_AFTER: "dim"}


def titles(metric: Metric) -> tuple[str, ...]:
    """Headings of the table."""
    return "outcome", "cell", metric.heading, "change", "95 % interval", "p", "size", "latency"


def sentence(changes: Changes) -> str:
    """The number of cells with each outcome, in one line."""
    counts = {outcome: len(changes.of(outcome)) for outcome in ORDER}
    parts = [f"{count} {outcome}" for outcome, count in counts.items() if count or outcome in (WORSE, BETTER)]
    return f"{plural(len(changes.cells), 'cell')}: {', '.join(parts)}"


def legend(changes: Changes) -> Iterator[str]:
    """The two sides, and how differences are judged."""
    metric = changes.metric
    for name, side in (("A", changes.before), ("B", changes.after)):
        model = side.results.model
        yield f"{name}: {side.path}, of {model.get('path', '?')} ({str(model.get('sha256', '?'))[:12]})"
    floats = [metric.text(side.results.float_score) for side in (changes.before, changes.after)]
    change = f"{_change(changes.lost.loss, metric)} {metric.loss_unit}".rstrip()
    sure = f" ({interval(changes.lost, metric)})" if changes.lost.known else ", no interval"
    yield f"float baseline: {floats[0]} and {floats[1]}, {change}{sure}"
    yield from changes.notes
    direction = "" if metric.higher_is_better else ", below 0 is better"
    if not changes.tests:
        yield f"change: {metric.losses}, B less A{direction}; latency: each against its own fp32 file"
        return
    if changes.paired:
        samples = f"{changes.after.results.sample}s"
        over = f"{plural(changes.groups, 'group')} of {samples}" if changes.groups else samples
        source = f"paired bootstrap over {over}; p: {metric.test}"
    else:
        source = "unpaired, by Newcombe's formula; p: Fisher's exact test"
    many = ": of so many, some intervals leave out 0 by chance" if changes.tests > 1 else ""
    yield (
        f"change: {metric.losses}, B less A{direction}, with its 95 % interval ({source}). p is adjusted by Holm for "
        f"{plural(changes.tests, 'comparison')}{many}. better or worse: p at most 5 % and an interval without 0; the "
        f"same: equal scores of every {changes.after.results.sample}, or the same file. latency: each against its own "
        "fp32 file"
    )


def table(changes: Changes, narrow: bool = False) -> Table:
    """Cell by cell, worse ones first; narrow: without interval, p and latency, and of sizes the growth alone."""
    headings = titles(changes.metric)
    out = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1, 0, 0) if narrow else (0, 1))
    texts_only = ("outcome", "cell")
    shown = [title for title in headings if not (narrow and title in ("p", "latency", "95 % interval"))]
    for title in shown:
        out.add_column(title, justify="left" if title in texts_only else "right", no_wrap=True)
    for each in changes.cells:
        texts = dict(zip(headings, _texts(each, changes.metric), strict=True))
        if narrow:
            texts["size"] = _percent(each).strip(" ()") or "-"
        out.add_row(*(escape(texts[title]) for title in shown), style=_STYLE.get(each.outcome, ""))
    return out


def remarks(changes: Changes) -> Iterator[str]:
    """Reasons why cells were not compared."""
    for each in changes.of(NOT_COMPARED):
        if each.note:
            yield f"{each.cell}: {each.note}"


def _texts(each: Change, metric: Metric) -> tuple[str, ...]:
    """The texts of a row, in the order of `titles`."""
    one, other = each.before, each.after
    change, sure, p = "-", "-", "-"
    if each.lost is not None:
        change, sure = _change(each.lost.loss, metric), interval(each.lost, metric)
    if each.p is not None:
        p = "< 0.0001" if each.p < 1e-4 else f"{each.p:.2g}"
    ratios = (None if row is None or row.latency_ratio is None else f"{row.latency_ratio:.2f}x" for row in (one, other))
    scores = (None if row is None or row.score is None else metric.number(row.score) for row in (one, other))
    return each.outcome, each.cell, _pair(*scores), change, sure, p, _sizes(each) + _percent(each), _pair(*ratios)


def _sizes(each: Change) -> str:
    sides = (each.before, each.after)
    return _pair(*(None if row is None or row.file_bytes is None else size(row.file_bytes) for row in sides))


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


def _change(loss: float, metric: Metric) -> str:
    return metric.loss_text(metric.change(loss))


def as_json(changes: Changes) -> dict[str, Any]:
    """Everything, for `--json`. Changes are B less A in the metric's unit of loss; null without an interval."""
    metric = changes.metric
    return {
        "metric": asdict(metric),
        "before": _side(changes.before),
        "after": _side(changes.after),
        "paired": changes.paired,
        "groups": changes.groups,
        "comparisons": changes.tests,
        "float_change": _figures(changes.lost, metric),
        "counts": {outcome: len(changes.of(outcome)) for outcome in ORDER},
        "notes": list(changes.notes),
        "cells": [
            {
                "cell": each.cell,
                "outcome": each.outcome,
                "score": _both(each, "score"),
                "change": None if each.lost is None else _figures(each.lost, metric),
                "p_holm": each.p,
                "file_bytes": _both(each, "file_bytes"),
                "latency_ratio": _both(each, "latency_ratio"),
                "note": each.note,
            }
            for each in changes.cells
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    results = side.results
    return {"path": str(side.path), "model": results.model, "data": results.data, "float_score": results.float_score}


def _both(each: Change, name: str) -> list[Any]:
    return [None if row is None else getattr(row, name) for row in (each.before, each.after)]


def _figures(lost: Estimate, metric: Metric) -> dict[str, float | None]:
    """The change with its interval and p."""
    if not lost.known:
        return {"value": metric.change(lost.loss), "low": None, "high": None, "p": None}
    low, high = sorted(metric.change(end) for end in (lost.low, lost.high))
    return {"value": metric.change(lost.loss), "low": low, "high": high, "p": lost.p}


def html(changes: Changes) -> str:
    """The same as a page. Raises BackendError where Jinja2 is not installed."""
    drawing.require("jinja2")
    metric = changes.metric
    lines = [_line(each, metric) for each in changes.cells]
    counts = {outcome: len(changes.of(outcome)) for outcome in ORDER}
    first = (WORSE, BETTER, WITHIN_NOISE)
    return page.render(
        "changes.html",
        title=f"{changes.after.path} against {changes.before.path}",
        sentence=sentence(changes) + ".",
        counts=[(name, counts[name]) for name in ORDER if counts[name] or name in first],
        legend=list(legend(changes)),
        warnings=[note for note in changes.notes if note.startswith(OTHER_DATA)],
        label="All cells, one row each",
        columns=_headings(metric),
        rows=lines,
        selects=page.selects(lines, outcome="outcome", backend="format", mode="mode"),
        within=False,
    )


def _headings(metric: Metric) -> tuple[Heading, ...]:
    texts = (Heading(title, figure=False) for title in ("cell", "outcome"))
    return *texts, *map(Heading, (metric.heading, "change", "p", "size", "growth", "latency"))


def _line(each: Change, metric: Metric) -> Line:
    row = each.after or each.before
    assert row is not None
    _, _, score, change, sure, p, _, latency = _texts(each, metric)
    grown = growth(each)
    ratio = None if each.after is None else each.after.latency_ratio
    kind = {WORSE: "bad", BETTER: "good"}.get(each.outcome, "")
    entries = [
        TableEntry(each.outcome, ORDER.index(each.outcome), figure=False, kind=kind),
        TableEntry(score, row.score),
        TableEntry(
            words.minus(change),
            None if each.lost is None else metric.change(each.lost.loss),
            sub="" if each.lost is None or not each.lost.known else words.minus(sure),
        ),
        TableEntry(p, each.p),
        TableEntry(_sizes(each), row.file_bytes),
        TableEntry("-" if grown is None else words.minus(f"{grown * 100:+.1f} %"), grown),
        TableEntry(latency, ratio),
    ]
    data = {"outcome": each.outcome, "backend": row.backend, "mode": row.mode or "float"}
    details = [each.note] if each.note else []
    for name, side in (("A", each.before), ("B", each.after)):
        if side is not None and side.sha256:
            details.append(f"{name}: {side.path}, sha256 {side.sha256}")
    return Line(each.cell, entries, details, kind=each.outcome.split()[0], data=data)
