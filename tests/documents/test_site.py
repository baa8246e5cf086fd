"""The site: built with warnings as errors and nothing from elsewhere; its reference is of the code."""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from support import FIXTURES

from mobconv.backends.base import Backend
from mobconv.cli.app import app
from mobconv.gate.budget import BudgetEntry
from mobconv.recipe import Recipe

ROOT = FIXTURES.parent


def build(config, target):
    """Not with --quiet, under which --strict counts no warnings."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", target],
        cwd=config.parent,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", target)
    assert done.returncode == 0, done.stderr
    return target


class Page(HTMLParser):
    """What a browser would fetch for a page, and its text."""

    def __init__(self, path):
        super().__init__()
        self.fetched, self.text = [], ""
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        held = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.fetched.append(held.get("src") or "")
        if tag == "link" and held.get("rel") not in ("canonical", "prev", "next"):
            self.fetched.append(held.get("href") or "")

    def handle_data(self, data):
        self.text += data


def test_every_page_is_built_and_fetches_nothing_from_elsewhere(site):
    pages = sorted(site.rglob("*.html"))
    written = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert written <= {path.stem for path in pages} and len(pages) >= 24
    for path in pages:
        fetched = [link for link in Page(path).fetched if link]
        assert fetched and not [link for link in fetched if re.match(r"(https?:)?//", link)], path
        for link in fetched:
            if not link.startswith("data:"):
                assert (path.parent / link.partition("?")[0]).exists() or path.stem == "404", (path, link)
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", style.read_text()), style


def test_every_command_and_option_is_in_the_reference(site):
    text = Page(site / "cli.html").text
    for name, command in typer.main.get_command(app).commands.items():
        assert f"mobconv {name}" in text
        for parameter in command.params:
            for spelled in parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]:
                assert spelled in text, (name, spelled)


@pytest.mark.parametrize(("page", "model"), [("recipe", Recipe), ("budget", BudgetEntry)])
def test_every_key_is_in_the_reference(site, page, model):
    text = Page(site / f"{page}.html").text
    for name, field in model.model_fields.items():
        assert name in text
        assert field.description.split("`")[0][1:30].replace("*", "") in text.replace("*", ""), name
    assert (site / "schema" / f"{page}.schema.json").read_bytes() == (
        ROOT / "docs" / "schema" / f"{page}.schema.json"
    ).read_bytes()


def test_every_method_of_a_backend_is_in_the_how_to():
    text = (ROOT / "docs" / "backend.md").read_text()
    for name in (*Backend.__annotations__, *(name for name in vars(Backend) if not name.startswith("_"))):
        assert f"`{name}`" in text, name


@pytest.mark.slow
def test_a_link_to_nowhere_fails_the_build(tmp_path):
    for name in (
        "docs",
        "recipes",
        "benchmarks",
        "fixtures",
        "mkdocs.yml",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "action.yml",
    ):
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / name)
    page = Path(tmp_path / "docs" / "support.md")
    page.write_text(page.read_text() + "\n[gone](gone.md) [gone too](modes.md#nowhere)\n")
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode != 0 and "gone.md" in done.stderr and "nowhere" in done.stderr
