"""What a report says in numbers, against brute force over the real results of the docs."""

from itertools import pairwise
from pathlib import Path

import pytest
from grids import DEMO, THESIS
from hypothesis import given
from hypothesis import strategies as st

from mobconv import results
from mobconv.errors import InputError
from mobconv.report import words
from mobconv.report.digest import Measured, digest, pareto, way


@pytest.fixture(params=[DEMO, THESIS], ids=["demo", "thesis"])
def told(request):
    return digest(results.read(request.param), None, request.param)


def test_choices_are_the_smallest_that_qualify(told):
    assert [choice.backend for choice in told.choices] == list(told.fronts)
    for choice in told.choices:
        files = [each for each in told.measured if each.row.backend == choice.backend]
        within = [each for each in files if each.lost.high <= told.margin]
        assert all(told.metric.loss(told.float_score, each.score) <= told.margin for each in within)
        lossless = [each for each in within if each.lost.low <= 0]
        fast = [each for each in lossless if each.row.latency_ratio is not None and each.row.latency_ratio <= 1.1]
        assert choice.within.bytes == min(each.bytes for each in within) and choice.within in within
        assert choice.lossless.bytes == min(each.bytes for each in lossless) and choice.lossless in lossless
        assert (choice.fast is None) == (not fast) == (not choice.timed)
        assert choice.fast is None or choice.fast.bytes == min(each.bytes for each in fast)


def test_a_drop_of_just_the_margin_is_within_it_only_by_its_figure():
    """No verdict is stronger than its interval: the file may lose more than the margin."""
    told = digest(results.read(DEMO), None, DEMO)
    edge = told.by_cell["onnx/w3-linear"]
    assert edge.lost.loss == told.margin == 5 and edge.lost.high > 5
    assert not told.fallen(edge) and not edge.surely_within(5)
    assert told.choices[0].wide and told.choices[0].within.row.cell == "onnx/w4-kmeans"


def test_few_samples_make_no_verdict():
    """On ten images every interval reaches beyond the margin, and no file is said to have no measurable loss."""
    measured = results.read(DEMO)
    measured.data["samples"] = 10
    for row in measured.cells:
        row.samples = 10
    told = digest(measured, None, DEMO)
    assert any(each.lost.low <= 0 for each in told.measured)
    assert all(choice.wide and choice.lossless is choice.fast is choice.within is None for choice in told.choices)


def test_cliffs_of_panels_are_those_of_the_results(told):
    assert sum(len(panel.points) for panel in told.accuracy) <= len(told.measured)
    for cliff in told.results.cliffs:
        (panel,) = [panel for panel in told.accuracy if cliff.backend in panel.backends and panel.way == way(cliff)]
        assert panel.cliffs.get(cliff.mode) == cliff.bits


def test_every_quantized_file_is_in_a_panel(told):
    for panels in (told.accuracy, told.losses):
        shown = {
            (backend, panel.way, each.row.mode, each.row.bits): each
            for panel in panels
            for backend in panel.backends
            for each in panel.points
        }
        for each in told.measured:
            if each.row.mode:
                there = shown[each.row.backend, way(each.row), each.row.mode, each.row.bits]
                assert there.score == each.score


def test_backends_that_differ_by_one_image_stand_apart():
    found = results.read(DEMO)
    row = next(row for row in found.cells if row.cell == "tflite/w5-linear")
    row.score -= 100 / 2000
    told = digest(found, None, DEMO)
    assert [panel.backends for panel in told.accuracy] == [("onnx", "coreml"), ("tflite",)]
    assert "onnx and coreml lie exactly on one another" in words.panel_caption(told.accuracy[0], "top-1", told.metric)
    assert "tflite alone" in words.panel_caption(told.accuracy[1], "top-1", told.metric)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 20)), min_size=1, max_size=30))
def test_the_front_is_what_nothing_dominates(files):
    measured = [Measured(None, 100.0 - loss, loss, size, None, None, None) for size, loss in files]
    front = {(each.bytes, each.loss) for each in pareto(measured)}
    free = {
        (each.bytes, each.loss)
        for each in measured
        if not any(
            other.bytes <= each.bytes
            and other.loss <= each.loss
            and (other.bytes, other.loss) != (each.bytes, each.loss)
            for other in measured
        )
    }
    assert front == free
    ordered = pareto(measured)
    assert all(one.bytes < other.bytes for one, other in pairwise(ordered))


def test_nothing_measured_is_refused():
    found = results.read(DEMO)
    for row in found.cells:
        row.status, row.score = "unsupported", None
    with pytest.raises(InputError, match="none of its 78 cells was measured"):
        digest(found, None, Path("results.json"))
