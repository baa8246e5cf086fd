"""`mobconv report` as people call it: one sweep's page and plots, two compared, and what is refused."""

import json
import shutil
import xml.etree.ElementTree as ET
from importlib import util

import pytest
from PIL import Image
from support import CHECKPOINT, DATA

from mobconv.cli.app import run

ROOT = CHECKPOINT.parents[1]
DEMO, THESIS = (ROOT / "docs" / f"{name}-results.json" for name in ("demo", "thesis"))


@pytest.fixture
def changed(tmp_path_factory):
    """A results.json in a folder of its own, with a change made to it."""

    def write(change=lambda content: None):
        folder = tmp_path_factory.mktemp("results")
        content = json.loads(DEMO.read_text())
        change(content)
        (folder / "results.json").write_text(json.dumps(content))
        return folder

    return write


def test_the_page_lies_beside_the_results(cli, changed):
    folder = changed()
    code, out, err = cli("report", folder)
    page = (folder / "report.html").read_text()
    assert code == 0 and out == ""
    assert err == f"{folder}/report.html: 78 cells, {(folder / 'report.html').stat().st_size / 1e3:,.0f} kB\n"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "results.json"]
    assert page.startswith("<!doctype html>") and page.count('<tr class="ok"') == 78
    for row in json.loads(DEMO.read_text())["cells"]:
        assert row["cell"] in page and row["sha256"] in page and row["path"] in page


def test_plots_as_files(cli, changed):
    def few(content):
        content["cells"] = [row for row in content["cells"] if row["backend"] == "onnx"]

    code, _, err = cli("report", changed(few), "-o", "page.html", "--plots", "plots/of it")
    assert code == 0 and err.endswith("plots/of it: 12 plots\n")
    names = {
        f"{kind}{tone}.{suffix}"
        for kind in ("cliff", "size-onnx", "losses")
        for tone in ("", "-dark")
        for suffix in ("svg", "png")
    }
    found = {path.name: path for path in (cli.folder / "plots/of it").iterdir()}
    assert set(found) == names
    for name, path in found.items():
        if path.suffix == ".svg":
            assert "onnx" in "".join(ET.fromstring(path.read_text()).itertext())
            continue
        image = Image.open(path).convert("RGB")
        assert image.width > 700 and image.getpixel((2, 2)) == ((15, 19, 24) if "dark" in name else (255, 255, 255))
        assert len(image.getcolors(1 << 24)) > 100


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda c: c.update(schema=1), 3, ["results of schema 1, and this mobconv reads schema 2"]),
        (lambda c: [row.update(status="failed", score=None) for row in c["cells"]], 3, ["none of its 78 cells was"]),
        (lambda c: c["cells"][2].update(score="high"), 3, ["onnx/w8-linear: score is 'high'"]),
        (lambda c: [row.pop("samples") for row in c["cells"]] and c["data"].pop("samples"), 3, ["number of samples"]),
        (lambda c: c["cliffs"][0].update(margin="5"), 3, ["cliff of onnx: margin is '5'"]),
        (lambda c: c.update(notes="none"), 3, ["notes is 'none'", "run the sweep again"]),
    ],
)  # fmt: skip
def test_results_that_cannot_be_shown(cli, changed, change, code, words):
    cli.refuses(code, *words, arguments=["report", changed(change), "-o", "page.html"])
    assert not (cli.folder / "page.html").exists()


def test_results_of_one_float_file(cli, changed):
    """Nothing to plot against bits, and no cliff: the page has what there is."""

    def one(content):
        content["cells"], content["cliffs"] = content["cells"][:1], []
        content["notes"] = ["no more than guessing"]

    code, _, err = cli("report", changed(one), "-o", "page.html", "--plots", "plots")
    assert code == 0 and err.endswith("plots: 4 plots\n"), err
    page = (cli.folder / "page.html").read_text()
    assert "safetensors: no more than guessing\n" in err
    assert '<p role="note"><strong>Note:</strong> no more than guessing.</p>' in page
    assert 'id="size"' in page and 'id="cliff"' not in page and 'id="losses"' not in page
    assert "1 cell</title>" in page and "1 file in 1 format " in page
    assert "of them quantizable" in page
    assert "1 ok" in page and "Smallest within 5 points of float" in page


def test_two_results_of_one_cell(cli, changed):
    def one(content):
        content["cells"] = content["cells"][:1]

    code, out, _ = cli("report", changed(one), changed(one))
    assert code == 0 and out.splitlines()[-1] == "1 cell: 0 worse, 0 better, 1 the same"
    flat = " ".join(out.split())
    assert "adjusted by Holm for 1 comparison. better or worse" in flat and "+0.00 to +0.00" in flat


def test_files_that_are_none(cli):
    cli.refuses(3, "nowhere.json: no such results file", arguments=["report", "nowhere.json", "-o", "page.html"])
    (cli.folder / "torn.json").write_text(DEMO.read_text()[:2000])
    cli.refuses(3, "torn.json: not a results file", arguments=["report", "torn.json"])
    cli.refuses(3, "torn.json: not a results file", arguments=["report", DEMO, "torn.json"])


def test_scores_of_other_results_are_refused(cli, changed):
    import numpy as np

    folder = changed()
    np.savez(folder / "scores.npz", float=np.zeros(2000))
    cli.refuses(3, "does not belong to", "the float baseline has another score there", arguments=["report", folder])


def test_a_page_that_cannot_be_written(cli):
    (cli.folder / "file").write_text("")
    cli.refuses(6, "file/page.html: cannot be written", arguments=["report", DEMO, "-o", "file/page.html"])
    (cli.folder / "folder").mkdir()
    cli.refuses(
        6,
        "folder is a folder; name the page in it, such as -o folder/report.html",
        arguments=["report", DEMO, "-o", "folder"],
    )


def test_what_is_not_installed_is_told_before_the_work(cli, monkeypatch):
    real = util.find_spec
    absent = ["altair", "vl_convert"]
    monkeypatch.setattr(util, "find_spec", lambda name, *rest: None if name in absent else real(name, *rest))
    told = ("altair and vl-convert-python", 'pip install "mobconv[report]"')
    cli.refuses(4, *told, arguments=["report", "nowhere.json"])
    assert cli("report", DEMO, DEMO, "-o", "page.html")[0] == 0, "two compared take no plots"
    absent.append("jinja2")
    cli.refuses(4, "jinja2", arguments=["report", DEMO, DEMO, "-o", "page.html"])
    assert cli("report", DEMO, DEMO)[0] == 0, "and a table no page"


def test_options_of_the_other_kind(cli):
    cli.refuses(2, "--json is for two results", arguments=["report", DEMO, "--json"])
    cli.refuses(2, "--plots draws one sweep's results", arguments=["report", DEMO, DEMO, "--plots", "plots"])


def test_two_results(cli, changed):
    def worse(content):
        content["cells"][4]["score"] -= 30
        content["cells"][5]["file_bytes"] *= 2
        content["cells"].pop()

    other = changed(worse)
    code, out, err = cli("report", DEMO, other, "-o", "page.html")
    assert code == 0 and err == "page.html: 78 cells\n"
    lines = out.splitlines()
    assert lines[1].split()[:6] == ["worse", "onnx/w8-kmeans", "96.35", "→", "66.35", "-30.00"]
    assert lines[2].split()[:3] == ["only", "in", "A"]
    assert any("onnx/w7-linear" in line and "(+100.0 %)" in line for line in lines)
    assert "no scores.npz beside A and B: intervals are unpaired" in out
    assert lines[-1] == "78 cells: 1 worse, 0 better, 1 only in A, 1 within noise, 75 the same"
    page = (cli.folder / "page.html").read_text()
    assert "1 worse, 0 better, 1 only in A, 1 within noise, 75 the same." in page and page.count("<tr class=") == 78
    code, out, _ = cli("report", DEMO, other, "--json")
    found = json.loads(out)
    assert code == 0 and found["counts"]["worse"] == 1 and not found["paired"] and len(found["cells"]) == 78
    first = found["cells"][0]
    assert first["outcome"] == "worse" and first["score"] == [96.35, pytest.approx(66.35)]
    assert first["change"]["value"] == pytest.approx(-30) and first["change"]["high"] < 0 and first["p_holm"] < 1e-9


def test_other_networks_and_other_images_are_named(cli, changed):
    _, out, _ = cli("report", DEMO, THESIS)
    assert "two checkpoints: A is of digits-fed-mobilenet-v2-w025.safetensors, B of digits-mobilenet-v2" in out
    other = changed(lambda content: content["data"].update(sha256="0" * 64, source="others.parquet"))
    code, out, _ = cli("report", DEMO, other)
    assert code == 0
    assert "OTHER IMAGES: 2,000 images of digits-test.parquet (A) and 2,000 images of others.parquet (B)" in out


@pytest.mark.slow
def test_of_a_real_sweep(cli):
    """With its scores of samples: intervals are paired, over scans, and a sweep is its own equal."""
    recipe = f"checkpoint: {CHECKPOINT}\ndata: {DATA}\nimages: 256\nthreads: 1\nbackends: [onnx, tflite]\n"
    (cli.folder / "job.yaml").write_text(recipe + "schemes: [fp32, w8-linear, w3-kmeans, w2-linear]\n")
    assert run(["sweep", "job.yaml", "-o", "out"]) == 0
    code, _, err = cli("report", "out", "--plots", "plots")
    assert code == 0, err
    page = (cli.folder / "out" / "report.html").read_text()
    assert "paired image by image (bootstrap over" in page and "groups of the 256 images" in page
    assert "onnx and tflite lie exactly on one another" in page
    shutil.copytree(
        cli.folder / "out", cli.folder / "again", ignore=shutil.ignore_patterns(".templates", "onnx", "tflite")
    )
    code, out, _ = cli("report", "out", "again", "--json")
    found = json.loads(out)
    assert found["paired"] and found["groups"] < 256 and found["counts"]["the same"] == 8
    assert all(cell["change"] == {"value": 0.0, "low": 0.0, "high": 0.0, "p": 1.0} for cell in found["cells"])
