"""MkDocs: reference pages generated from the code at build, and linked files of the repository outside docs/."""

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
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "fixtures/README.md": "fixtures.md",
    "action.yml": "action.yml",
    **{f"recipes/{path.name}": f"recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml")},
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the reference pages and the files of SHOWN to the site."""
    for uri, text in reference.pages().items():
        files.append(File.generated(config, uri, content=text))
    for path, uri in SHOWN.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Rewrite links of the repository for the site: those out of docs/ to the copies, those into docs/ to its pages."""
    markdown = re.sub(r"\]\(\.\./([^)#]+)", lambda link: f"]({SHOWN.get(link[1], link[0])}", markdown)
    return re.sub(r"\]\(docs/", "](", markdown)
