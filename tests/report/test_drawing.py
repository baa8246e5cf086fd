"""What is drawn: the results' own figures, in both palettes, and nothing that could run."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from grids import DEMO, HOSTILE, THESIS, hostile, write

from mobconv import results
from mobconv.errors import BackendError
from mobconv.report import charts, drawing, fronts, gallery, style
from mobconv.report.digest import digest

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def told():
    return digest(results.read(THESIS), None, THESIS)


def texts(drawn):
    return ["".join(node.itertext()) for node in ET.fromstring(drawn).iter(f"{SVG}text")]


def rows(spec):
    """All rows of a specification, wherever they stand."""
    return [row for values in spec["datasets"].values() for row in values]


def test_every_point_of_a_panel_is_in_the_plot_with_its_figures(told):
    panel = told.accuracy[0]
    found = {(row["mode"], round(row["x"])): row for row in rows(charts.accuracy(told, panel)) if "tip" in row}
    for each in panel.points:
        row = found[style.mode_name(each.row.mode), each.row.bits]
        assert row["score"] == each.score
        assert row["low"] <= row["score"] <= row["high"]
        assert f"top-1 {each.score:.2f} %" in row["tip"]
    drawn = drawing.inline(drawing.svg(charts.accuracy(told, panel)), "a finding")
    assert drawn.count("data-tip=") == len(panel.points) == 24
    assert {"cliff at 3: symmetric, k-means", "cliff at 2: linear", "float 96.05"} <= set(texts(drawn))


@pytest.mark.parametrize("backend", ["onnx", "tflite", "coreml", "coreml-mlmodel"])
def test_every_file_of_a_format_is_in_its_plot_and_the_front_is_named(told, backend):
    spec = fronts.sizes(told, backend)
    files = [each for each in told.measured if each.row.backend == backend]
    assert sorted(row["bytes"] for row in rows(spec) if "tip" in row) == sorted(each.bytes for each in files)
    named = set(texts(drawing.svg(spec)))
    shippable = [each for each in told.fronts[backend] if each.loss <= 20]
    assert len(shippable) >= 4
    assert {each.row.cell.partition("/")[2] for each in shippable} <= named
    assert {"float", "margin", "\N{MINUS SIGN}5", "\N{MINUS SIGN}1"} <= named


def test_bars_add_up_to_the_loss_or_to_where_they_are_cut(told):
    found = results.read(DEMO)
    found.cells[2].conversion_loss, found.cells[3].conversion_loss = 0.75, -0.4
    found.cells[3].quantization_loss = 0.1
    told = digest(found, None, DEMO)
    alone = [panel for panel in told.losses if panel.backends == ("onnx",)]
    assert len(alone) == 1 and len(told.losses) == 2
    bars = [row for row in rows(charts.losses(told, alone[0])) if "loss" in row]
    of = {(row["mode"], row["bits"], row["loss"]): (row["from"], row["to"]) for row in bars}
    assert of["linear", 8, "quantization"] == (0, 0.05) and of["linear", 8, "conversion"] == pytest.approx((0.05, 0.8))
    assert of["symmetric", 8, "quantization"] == (0, 0.1) and of["symmetric", 8, "conversion"] == (0, -0.4)
    assert of["linear", 1, "quantization"] == (0, 10)
    figures = {(row["mode"], row["bits"]): row["text"] for row in rows(charts.losses(told, alone[0])) if "at" in row}
    assert figures["linear", 8] == "0.80" and figures["linear", 1] == "86.5↑"


def test_colours_are_those_that_the_pages_style_maps(told):
    """A page is themed by the light palette's colours; all of them have a rule, and the plots use no other."""
    css = Path(style.__file__)
    css = (css.parent / "templates" / "page.css").read_text()
    known = set(re.findall(r'\.chart \[(?:fill|stroke)="(#\w+)"\]', css))
    assert known == {*style.LIGHT.modes, *(v for k, v in vars(style.LIGHT).items() if k != "modes")}
    for spec in (
        charts.accuracy(told, told.accuracy[0]),
        fronts.sizes(told, "tflite"),
        charts.losses(told, told.losses[0]),
    ):
        drawn = drawing.inline(drawing.svg(spec), "a finding")
        used = set(re.findall(r'(?:fill|stroke)="([^"]+)"', drawn)) - {"none", "transparent"}
        assert used <= known
        assert 'role="img"' in drawn and 'aria-label="a finding"' in drawn


def test_specifications_are_valid(told):
    """By Vega-Lite's schema."""
    import altair

    for spec in (charts.accuracy(told, told.accuracy[0], title="a\nb"), fronts.sizes(told, "tflite")):
        assert altair.LayerChart.from_dict(spec, validate=True)
    assert altair.VConcatChart.from_dict(charts.losses(told, told.losses[0]), validate=True)


def test_modes_differ_in_shape_and_dash_too(told):
    drawn = drawing.svg(charts.accuracy(told, told.accuracy[0]))
    for colour in style.LIGHT.modes[:3]:
        assert f'"{colour}"' in drawn
    marks = {
        row.get("d") for row in ET.fromstring(drawn).iter(f"{SVG}path") if row.get("aria-roledescription") == "point"
    }
    assert len(marks) == 3
    assert {"6,3", "2,2"} <= set(re.findall(r'stroke-dasharray="([^"]+)"', drawn))


def contrast(one, other):
    """WCAG 2.2's ratio of relative luminance."""
    lights = []
    for colour in (one, other):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        lights.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


@pytest.mark.parametrize("palette", [style.LIGHT, style.DARK], ids=["light", "dark"])
def test_contrast_is_enough(palette):
    """WCAG 2.2: 4.5 for text (1.4.3), 3 for marks (1.4.11); bars have an outline in ink besides."""
    for text in (palette.ink, palette.muted, palette.limit):
        assert contrast(text, palette.paper) >= 4.5, text
    for mark in (*palette.modes, palette.conversion):
        assert contrast(mark, palette.paper) >= 3, mark


def test_values_are_text_wherever_they_stand(tmp_path):
    path = write(tmp_path, hostile()) / "results.json"
    told = digest(results.read(path), None, path)
    every = dict(gallery.plots(told))
    hard = [name for name in every if "script" in name]
    assert {name.partition("-")[0] for name in hard} == {"cliff", "size", "losses"}
    for draw in (every["size-onnx"], *(every[name] for name in hard)):
        drawn = drawing.svg(draw(style.LIGHT))
        for text in (drawn, drawing.inline(drawn, HOSTILE)):
            tags = {node.tag.removeprefix(SVG) for node in ET.fromstring(text).iter()}
            assert tags <= {"svg", "g", "path", "line", "rect", "text", "tspan", "title", "defs", "clipPath"}
            assert "<script" not in text and "<img" not in text


def test_what_is_missing_is_named_with_what_to_install(monkeypatch):
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name == "altair" else real(name, *rest))
    with pytest.raises(BackendError, match=r'needs altair, which is not installed: pip install "mobconv\[report\]"'):
        drawing.require()
    drawing.require("jinja2")


def test_names_of_plots_are_file_names(told):
    names = [name for name, _ in gallery.plots(told)]
    assert names[0] == "cliff" and "size-coreml-mlmodel" in names and "losses-per-oc16" in names
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[A-Za-z0-9.-]+", name) for name in names)
