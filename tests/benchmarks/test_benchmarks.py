"""The benchmarks' functions give well-formed rows on the small network. No time is asserted here."""

import math

import common
import numpy as np
import overhead
import pytest
import run
import size
import vendors
from rival import Rival
from support import CHECKPOINT, DATA

from mobconv.data import labelled
from mobconv.schemes import Cell


@pytest.fixture
def options(tmp_path):
    return common.Options(CHECKPOINT, DATA, quick=True, threads=2, scratch=tmp_path)


# converting to TFLite and Core ML takes a while; ONNX stands for them in the fast suite
ROWS = [pytest.param(name, marks=[] if name.startswith("onnx") else [pytest.mark.slow]) for name in vendors.QUICK]


def test_contenders_run_in_turn_and_ratios_are_of_rounds():
    order = []
    times = common.in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warm=1)
    assert order == ["a", "b"] * 4 and times.rounds == 3
    times = common.Times({"a": [1.0, 4.0, 9.0], "b": [1.0, 2.0, 3.0]})
    assert times.ratio("a", "b") == 2.0 and times.spread("a", "b") == (1.5, 2.5)


def test_rounds_end_when_the_time_is_up_but_not_before_the_least():
    assert common.in_turn({"a": lambda: None}, rounds=50, seconds=-1, least=4).rounds == 4


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "met"),
    [(1.0, 1.0, False, True), (1.01, 1.0, False, False), (2.9, 3.0, True, False), (3.0, 3.0, True, True)],
)
def test_a_verdict_is_a_figure_beside_its_limit(value, limit, at_least, met):
    assert common.Verdict("x", value, limit, at_least).met is met


def test_what_is_no_number_meets_no_limit():
    assert common.Verdict("x", math.nan, 1.0).met is False and common.Verdict("x", math.nan, 1.0, True).met is False
    assert common.Verdict("x", math.nan).met is None


def test_a_section_has_its_verdicts_on_top_and_tables_of_equal_rows():
    section = common.Section("T", [common.Verdict("x", 2, 1)], [common.Table(["a", "b"], [["1", "c"]])], ["why"], "net")
    text = section.markdown("python x.py")
    assert "`python x.py` on net. 0 of 1 limits met." in text and text.index("missed") < text.index("| a | b |")
    assert text.endswith("- why\n") and "| ---: | --- |" in text


@pytest.mark.parametrize(
    ("value", "text"), [(0.01234, "0.0123"), (1.0, "1.00"), (123.4, "123"), (12345.6, "12,346"), (3, "3")]
)
def test_figures_have_three_digits(value, text):
    assert common.figure(value) == text


@pytest.mark.slow
def test_sizes_of_all_backends_have_a_ratio_above_one(options):
    found = size.ratios(options, (4,))
    assert len(found) == 3 * len(size.BACKENDS) and all(ratio > 1 for ratio, _ in found.values())
    limits = {cell.name: limit for cell, (_, limit) in found.items()}
    assert limits["tflite/w4-kmeans"] == 1.30 and limits["tflite/w4-linear"] is None
    assert limits["coreml/w4-symmetric@fp16"] == 1.25


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_vendors_are_whole(options, name):
    images = labelled.load(str(DATA), 20)
    bench = vendors.Bench(options.load(), images, options.scratch, threads=2)
    with common.hushed():
        rivals = bench.rivals([Cell.parse(name)])
    assert rivals
    rows = [bench.row(rival, rounds=1) for rival in rivals]
    for row in rows:
        assert row.ours.bytes > 0 and row.theirs.bytes > 0 and 0 <= row.p <= 1 and row.speed > 0
        assert 0 < row.ours.squared_error < math.inf and 0 < row.theirs.squared_error < math.inf
        assert row.ours.hits.shape == row.theirs.hits.shape == (len(images),)
        assert 0 < row.tensors[0] <= row.tensors[1] == len(bench.program.sites)
    table = vendors.table(rows)
    assert all(len(cells) == len(table.headers) for cells in table.rows)
    assert [verdict.limit for verdict in vendors.verdicts(rows)][:4] == [1.02, 0, 1.0, 3.0]


def test_mcnemar_asks_only_the_images_that_one_of_two_gets_right():
    def measured(hits):
        return vendors.Measured(1, np.array(hits, bool), 1.0)

    row = vendors.Row(None, measured([1] * 90 + [0] * 10), measured([1] * 100), None, (1, 1))
    assert row.p == pytest.approx(2 * 0.5**10)
    assert vendors.Row(None, measured([1, 0]), measured([1, 0]), None, (1, 1)).p == 1.0


def test_p_is_corrected_for_the_number_of_cells():
    """By hand: 4 * 0.01, 3 * 0.02, 2 * 0.04 and 1 * 0.03 raised to what stands before; none above 1."""
    assert vendors.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert vendors.holm([0.9, 0.6]) == [1.0, 1.0] and vendors.holm([0.03]) == [0.03] and vendors.holm([]) == []


def test_one_low_p_among_many_cells_is_no_verdict():
    def measured(hits):
        return vendors.Measured(1, np.array(hits, bool), 1.0)

    times = common.Times({"ours": [1.0], "theirs": [1.0]})
    rival = Rival("tool", "how", Cell.parse("onnx/w4-linear"), "onnx", lambda path: None, lambda path: {})
    same, worse, far = (
        vendors.Row(rival, measured([1] * (60 - lost) + [0] * lost), measured([1] * 60), times, (1, 1))
        for lost in (0, 7, 30)
    )
    assert worse.p < 0.02
    counts = [vendors.verdicts(rows)[1].value for rows in ([worse], [worse] + [same] * 25, [far] + [same] * 25)]
    assert counts == [1, 0, 1]


def test_stages_that_cells_share_are_counted_once():
    def cell(scheme, compute="fp32"):
        seconds = {"convert": 5.0, "quantize": 2.0, "encode": 1.0, "run": 3.0}
        return {"backend": "onnx", "compute": compute, "scheme": scheme, "seconds": seconds}

    spent = overhead.stages([cell("w4-kmeans"), cell("w4-linear"), cell("w4-linear", "fp16")])
    assert (spent["convert"], spent["quantize"], spent["encode"], spent["run"]) == (10.0, 4.0, 3.0, 9.0)


def test_results_keep_the_sections_that_were_not_run_again():
    sections = {"grid": "## Grid\n\nfirst\n", "size": "## Size\n\nsecond\n"}
    text = run.assemble("a machine", sections)
    assert run.kept(text, "a machine") == sections and text.index("## Size") < text.index("## Grid")
    assert run.kept(text, "another machine") == {}
