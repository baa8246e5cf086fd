"""Verdicts as table, Markdown, JUnit, annotations and JSON."""

import json
import xml.etree.ElementTree as ET

import pytest
from measured import check

from mobconv import results
from mobconv.gate import judge
from mobconv.gate.rules import MET, NOT_JUDGED, NOT_MET, WITHIN_NOISE
from mobconv.report import verdicts


def test_notes_of_the_results_are_shown_and_fail_nothing(sweep):
    path = sweep.cell("onnx/w4-kmeans").write()
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"notes": ["no more than guessing"]}))
    report = check(path, "- {cells: onnx/*, must_exist: true}\n")
    assert report.met and "no more than guessing" in report.notes
    assert "- no more than guessing\n" in verdicts.markdown(report)


@pytest.fixture
def report(sweep):
    """One of each outcome, with a reason that no format may take for its own syntax."""
    sweep.cell("onnx/w4-kmeans", 61).cell("onnx/w2-kmeans", 400)
    sweep.without_file("onnx/w1-kmeans", results.FAILED, "a <b> | `c` & 100 %\nnext\x00 ::error::")
    sweep.without_file("onnx/fp16", results.UNSUPPORTED, "no type")
    return check(sweep.write(), "- {cells: '*', max_drop: 1, max_bytes: 1 kB}\n")


def test_failures_come_first(report):
    order = [NOT_MET, WITHIN_NOISE, NOT_JUDGED, MET]
    ranks = [order.index(verdict.outcome) for verdict in report.verdicts]
    assert ranks == sorted(ranks) and set(ranks) == {0, 1, 2, 3}
    assert verdicts.sentence(report) == (
        "The budget is not met: 3 of 9 verdicts failed (1 within noise, 2 not judged)."
    )
    named = verdicts.failures(report).splitlines()
    assert len(named) == 4
    assert named[1].startswith("  onnx/w2-kmeans  max_drop: +35 points (+") and "limit 1 point" in named[1]


def test_junit_is_xml_with_a_case_for_each_verdict(report):
    root = ET.fromstring(verdicts.junit(report))
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped"), suite.get("errors")) == (
        "9",
        "3",
        "2",
        "0",
    )
    assert len(suite) == 9 == sum(1 for case in suite if case.get("classname") and case.get("name"))
    failed = [case for case in suite if case.find("failure") is not None]
    assert [(case.get("classname"), case.get("name")) for case in failed] == [
        ("onnx/w2-kmeans", "max_drop"),
        ("onnx/w1-kmeans", "max_bytes"),
        ("onnx/w1-kmeans", "max_drop"),
    ]
    assert "a <b> | `c` & 100 %" in failed[1].find("failure").text
    assert len(suite.findall("testcase/skipped")) == 2


def test_markdown_keeps_its_columns(report):
    text = verdicts.markdown(report)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 9 + 2 * 2  # two tables with a head of two lines
    assert {line.replace("\\|", "").count("|") for line in rows} == {7}
    assert text.startswith("### :x: The budget is not met") and text.count("**not met**") == 3
    assert "a &lt;b&gt; \\| \\`c\\` &amp; 100 % next" in text and "<details><summary>3 met</summary>" in text


def test_annotations_are_one_line_each(report):
    lines = list(verdicts.workflow_commands(report))
    assert [line.partition(" ")[0] for line in lines] == ["::error"] * 3 + ["::warning"]
    assert all(line.startswith(("::error title=mobconv check::onnx/", "::warning title=")) for line in lines)
    assert "100 %25 next" in lines[1] and not any("\n" in line for line in lines)


def test_json_is_all_of_it(report):
    found = json.loads(json.dumps(verdicts.as_json(report), allow_nan=False))
    assert found["met"] is False and found["counts"] == {"met": 3, "within noise": 1, "not judged": 2, "not met": 3}
    first = found["verdicts"][0]
    assert (first["cell"], first["rule"], first["value"], first["limit"]) == ("onnx/w2-kmeans", "max_drop", 35.0, 1.0)
    assert first["interval"]["low"] < 35 < first["interval"]["high"] and first["unit"] == "points"


@pytest.mark.parametrize(
    ("value", "unit", "signed", "text"),
    [
        (1_300_001, "bytes", False, "1,300,001 bytes"),
        (-3, "bytes", True, "-3 bytes"),
        (95.0, "%", False, "95 %"),
        (0.00001, "points", True, "0 points"),
        (1.0004, "points", True, "+1.0004 points"),
        (-1.0, "points", True, "-1 point"),
        (1.5, "x", False, "1.5x"),
        ("ok", "", False, "ok"),
        (None, "points", True, "-"),
    ],
)
def test_figures_for_people(value, unit, signed, text):
    assert verdicts.figure(value, unit, signed) == text


@pytest.mark.parametrize(
    ("rule", "value", "limit", "unit", "text"),
    [
        ("max_drop", 0.4567, 0.5, "points", "+0.46 points"),
        ("max_drop", 0.5012, 0.5, "points", "+0.5012 points"),  # not to be shown as 0.5, at most 0.5
        ("max_drop", 0.5, 0.5, "points", "+0.5 points"),
        ("max_latency_ratio", 1.23456, 1.5, "x", "1.23x"),
        ("min_agreement", 98.9996, 99.0, "%", "98.9996 %"),
        ("max_growth", 0.123, 1.0, "%", "+0.12 %"),
        ("max_bytes", 110_001, 110_000, "bytes", "110,001 bytes"),
    ],
)
def test_a_figure_beside_its_limit(rule, value, limit, unit, text):
    assert verdicts.value(judge.Verdict("onnx/fp32", rule, MET, value, limit, unit)) == text
