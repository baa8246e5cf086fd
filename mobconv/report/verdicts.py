"""Verdicts of a gate: a table, Markdown, JUnit and annotations of GitHub. What failed comes first in each."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import asdict
from html import escape as escape_html
from typing import Any

from rich.markup import escape
from rich.table import Table

from mobconv.common.text import plural
from mobconv.evaluate.tasks.base import with_unit
from mobconv.gate.judge import GateReport, Verdict
from mobconv.gate.rules import LOSSES, MET, NOT_JUDGED, NOT_MET, WITHIN_NOISE

TITLES = ("verdict", "cell", "rule", "figure", "limit", "why")
WHOLE = "(results)"  # in place of a cell, where the results as a whole are judged
_STYLE = {NOT_MET: "red", WITHIN_NOISE: "yellow", NOT_JUDGED: "dim", MET: ""}
_BOUND = {"max": "at most ", "min": "at least "}
_LEAST = 24  # characters of a line that a reason needs
_GAP = 2
# characters that XML 1.0 does not have, not even escaped
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def figure(value: float | str | None, unit: str, signed: bool = False, digits: int = 4) -> str:
    """A figure for people: bytes to the byte, others with at most `digits` after the point, zeros at the end cut."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if unit == "bytes":
        return f"{value:{'+' if signed else ''},.0f} bytes"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    text = {"+0": "0", "-0": "0"}.get(text, text)
    return f"{text}x" if unit == "x" else with_unit(text, unit)


def value(verdict: Verdict) -> str:
    """The cell's figure with its interval; in the metric's decimals, and in more where it would look like its limit."""
    signed = verdict.rule in (*LOSSES, "max_growth")
    digits = verdict.decimals
    text = figure(verdict.value, verdict.unit, signed, digits)
    if verdict.value != verdict.limit and text.lstrip("+") == figure(verdict.limit, verdict.unit, digits=digits):
        text = figure(verdict.value, verdict.unit, signed, digits + 2)
    if verdict.interval is None or not verdict.interval.changed:
        return text
    return f"{text} ({verdict.interval.low:+.{digits}f} to {verdict.interval.high:+.{digits}f})"


def _limit(verdict: Verdict) -> str:
    return figure(verdict.limit, verdict.unit, digits=verdict.decimals + 2)


def limit(verdict: Verdict) -> str:
    """The limit, with the direction of its rule."""
    return _BOUND.get(verdict.rule.partition("_")[0], "") + _limit(verdict)


def line(verdict: Verdict) -> str:
    """A verdict in one line: rule, figure, limit and why."""
    why = f" ({' '.join(verdict.note.split())})" if verdict.note else ""
    return f"{verdict.rule}: {value(verdict)}, limit {_limit(verdict)}{why}"


def sentence(report: GateReport) -> str:
    """The verdict on the whole, in one line."""
    counts = {outcome: len(report.of(outcome)) for outcome in (NOT_MET, WITHIN_NOISE, NOT_JUDGED)}
    others = [f"{count} {outcome}" for outcome, count in counts.items() if count and outcome != NOT_MET]
    rest = f" ({', '.join(others)})" if others else ""
    total = plural(len(report.verdicts), "verdict")
    if report.met:
        return f"The budget is met: {total}{rest}."
    return f"The budget is not met: {counts[NOT_MET]} of {total} failed{rest}."


def failures(report: GateReport) -> str:
    """Each failure on a line, for stderr."""
    named = [f"  {verdict.cell or WHOLE}  {line(verdict)}" for verdict in report.of(NOT_MET)]
    return "\n".join(["the budget is not met:", *named])


def legend(report: GateReport) -> Iterator[str]:
    """How to read the table, and the notes on the results."""
    paired = [verdict.interval for verdict in report.verdicts if verdict.interval is not None]
    if paired:
        groups, images = paired[0].groups, plural(report.samples, report.sample)
        drawn = images if groups in (0, report.samples) else f"{plural(groups, 'group')} of the {images}"
        yield f"95 % intervals by paired bootstrap over {drawn}; a drop fails where all of it is above the limit"
    yield from report.notes


def _cells(verdict: Verdict) -> tuple[str, ...]:
    shown = (verdict.cell or WHOLE, verdict.rule, value(verdict), limit(verdict), verdict.note)
    return verdict.outcome, *shown


def table(report: GateReport, width: int) -> Table:
    """Every verdict, a row each; rule, figure, limit and why are one column where they have no room side by side."""
    rows = [_cells(verdict) for verdict in report.verdicts]
    whole = [max(map(len, column)) for column in zip(TITLES, *rows, strict=True)]
    beside = sum(whole[:-1]) + min(whole[-1], _LEAST) + _GAP * (len(whole) - 1) <= width
    titles = TITLES if beside else (*TITLES[:2], "rule, figure and limit")
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        shown.add_column(title, overflow="fold", no_wrap=title not in (titles[-1], "figure", "limit"))
    for verdict, row in zip(report.verdicts, rows, strict=True):
        texts = row if beside else (*row[:2], line(verdict))
        shown.add_row(*map(escape, texts), style=_STYLE[verdict.outcome])
    return shown


def markdown(report: GateReport) -> str:
    """A section for a job summary: verdicts that are met are folded, all others open."""
    head = f"| {' | '.join(TITLES)} |\n|{' --- |' * len(TITLES)}"
    open_rows = [verdict for verdict in report.verdicts if verdict.outcome != MET]
    lines = [f"### {':white_check_mark:' if report.met else ':x:'} {sentence(report)}", ""]
    if open_rows:
        lines += [head, *map(_row, open_rows), ""]
    if report.of(MET):
        lines += [f"<details><summary>{len(report.of(MET))} met</summary>", "", head]
        lines += [*map(_row, report.of(MET)), "", "</details>", ""]
    lines += [f"- {_plain(text)}" for text in legend(report)]
    return "\n".join(lines).rstrip() + "\n"


def _row(verdict: Verdict) -> str:
    outcome, *rest = map(_plain, _cells(verdict))
    return f"| {f'**{outcome}**' if verdict.outcome == NOT_MET else outcome} | {' | '.join(rest)} |"


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, on one line and in one cell."""
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", escape_html(" ".join(text.split()), quote=False))


def junit(report: GateReport) -> str:
    """JUnit XML: a test case for each verdict, the cell as its class and the rule as its name."""
    counts = {
        "tests": len(report.verdicts),
        "failures": len(report.of(NOT_MET)),
        "errors": 0,
        "skipped": len(report.of(NOT_JUDGED)),
    }
    attributes = {name: str(count) for name, count in counts.items()}
    root = ET.Element("testsuites", attributes)
    suite = ET.SubElement(root, "testsuite", {"name": "mobconv check", **attributes})
    for verdict in report.verdicts:
        case = ET.SubElement(suite, "testcase", {"classname": _xml(verdict.cell or WHOLE), "name": verdict.rule})
        text = _xml(line(verdict))
        if verdict.outcome == NOT_MET:
            ET.SubElement(case, "failure", {"message": text, "type": verdict.rule}).text = text
        elif verdict.outcome == NOT_JUDGED:
            ET.SubElement(case, "skipped", {"message": text})
        else:
            ET.SubElement(case, "system-out").text = f"{verdict.outcome}: {text}"
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def workflow_commands(report: GateReport) -> Iterator[str]:
    """Commands of a GitHub workflow: an error for each failure, a warning for each figure within noise."""
    for verdict in report.verdicts:
        kind = {NOT_MET: "error", WITHIN_NOISE: "warning"}.get(verdict.outcome)
        if kind:
            text = f"{verdict.cell or WHOLE} {line(verdict)}"
            yield f"::{kind} title=mobconv check::{_command(text)}"


def _command(text: str) -> str:
    """Data of a workflow command: one line, with the signs of its syntax escaped."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def as_json(report: GateReport) -> dict[str, Any]:
    """All of it: outcomes, figures and limits in their units, intervals in the unit of their figure."""
    return {
        "schema": 2,
        "met": report.met,
        "counts": {outcome: len(report.of(outcome)) for outcome in (MET, WITHIN_NOISE, NOT_JUDGED, NOT_MET)},
        "verdicts": [_fields(verdict) for verdict in report.verdicts],
        "notes": list(report.notes),
    }


def _fields(verdict: Verdict) -> dict[str, Any]:
    fields = {**asdict(verdict), "cell": verdict.cell or None}
    del fields["decimals"]
    return fields
