"""Tables at the width of a terminal: fewer columns where it is narrow, and nothing cut."""

import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from mobconv import results
from mobconv.cli import render
from mobconv.common.text import plural
from mobconv.gate.judge import GateReport, Verdict
from mobconv.gate.rules import MET, NOT_MET
from mobconv.report import verdicts
from mobconv.results import tables

DOCS = Path(__file__).parents[2] / "docs"
LONG = "coreml-mlmodel/w4-symmetric-oc16@native"


def printed(table, width, capsys):
    Console(width=width).print(table)
    return capsys.readouterr().out


@pytest.fixture(scope="module", params=["demo", "thesis"])
def found(request):
    return results.read(DOCS / f"{request.param}-results.json")


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_figure_is_cut(found, width, capsys):
    columns = tables.fitting(found, width)
    lines = printed(render.rows(found.cells, columns), width, capsys).splitlines()
    assert max(map(len, lines)) <= width and not any("…" in line for line in lines)
    heading = max(column.title.count("\n") for column in columns) + 1
    rows = [line.split() for line in lines[heading:] if line.strip()]
    assert rows == [" ".join(tables.texts(row, columns)).split() for row in found.cells]


def test_what_goes_first():
    found = results.read(DOCS / "demo-results.json")
    every = tables.columns(found.metric)

    def hidden(width):
        return [column.name for column in every if column not in tables.fitting(found, width)]

    assert hidden(100) == [] and hidden(80) == ["SNR dB", "needs"]
    assert hidden(70) == ["stored", "SNR dB", "needs"]
    assert tables.fitting(found, 10) == [column for column in every if column.drop is None]


def test_the_legend_is_of_what_is_shown():
    found = results.read(DOCS / "thesis-results.json")
    assert any(row.stored_bits not in (None, row.bits) for row in found.cells)
    whole = "\n".join(tables.legend(found))
    assert "* stored wider" in whole and "latency:" in whole and "Left out" not in whole
    shown = [column for column in tables.columns(found.metric) if column.name not in ("stored", "latency")]
    few = "\n".join(tables.legend(found, shown))
    assert "* stored wider" not in few and "latency:" not in few and "quant. loss:" in few
    assert "Left out, as the terminal is too narrow: stored, latency." in few


def test_counts_in_words():
    found = results.read(DOCS / "demo-results.json")
    assert tables.summary(dataclasses.replace(found, cells=found.cells[:1])) == "1 cell: 1 ok"
    assert tables.summary(found) == "78 cells: 78 ok"
    assert plural(2000, "image") == "2,000 images"


@pytest.mark.parametrize(("width", "beside"), [(80, False), (100, False), (160, True)])
def test_verdicts_name_cells_whole(width, beside, capsys):
    shown = (
        Verdict(LONG, "max_conversion_loss", NOT_MET, 1.25, 0.1, "points", note="by the figure alone"),
        Verdict("onnx/w4-kmeans", "max_bytes", MET, 116_935.0, 120_000.0, "bytes"),
    )
    report = GateReport(shown, (), 2000)
    out = printed(verdicts.table(report, width), width, capsys)
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    assert any(line.startswith(f"not met  {LONG} ") for line in lines)
    assert ("why" in lines[0]) == beside
    flat = " ".join(out.split())
    for text in ("max_conversion_loss", "+1.25", "116,935 bytes", "120,000 bytes"):
        assert text in flat
