"""MkDocs: reference pages made from the code at build, and files of the repository outside docs/ that pages link."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import reference  # noqa: E402

# in the repository -> in the site
SHOWN = {
    "CHANGELOG.md": "changelog.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "fixtures/README.md": "fixtures.md",
    "action.yml": "action.yml",
    **{f"recipes/{path.name}": f"recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")},
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    for uri, text in reference.pages().items():
        files.append(File.generated(config, uri, content=text))
    for path, uri in SHOWN.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links out of docs/ are right in the repository; in the site they go to the copies."""
    return re.sub(r"\]\(\.\./([^)#]+)", lambda found: f"]({SHOWN.get(found[1], found[0])}", markdown)
