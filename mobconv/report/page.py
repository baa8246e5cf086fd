"""One self-contained HTML page: templates, styles and script inlined, under a policy that lets nothing else in."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Heading:
    """A heading of a table that sorts, by number where it is a figure."""

    title: str
    figure: bool = True


@dataclass(frozen=True)
class TableEntry:
    """One entry of a row.

    value  it is sorted by, None for the end; sub: a smaller line below; kind: a CSS class; span: columns that it fills
    """

    text: str
    value: float | str | None = None
    sub: str = ""
    figure: bool = True
    kind: str = ""
    span: int = 1


@dataclass(frozen=True)
class Line:
    """One row. details: lines that are seen once the row is opened; data: by name, for the filters."""

    cell: str
    entries: Sequence[TableEntry]
    details: Sequence[str] = ()
    kind: str = ""
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Select:
    """A filter: the name in `Line.data` that it looks at, its label and choices."""

    name: str
    label: str
    values: Sequence[str]


def selects(lines: Sequence[Line], **labels: str) -> list[Select]:
    """Filters by these names in `Line.data`, where there are at least two values to choose from."""
    filters = []
    for name, label in labels.items():
        values = list(dict.fromkeys(line.data[name] for line in lines if line.data.get(name)))
        if len(values) > 1:
            filters.append(Select(name, label, values))
    return filters


def render(template: str, **values: Any) -> str:
    """Fill a template; values are data, and escaped unless they are Markup."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from mobconv.common.version import __version__

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES, encoding="utf-8"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    css, js = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; style-src '{_hash(css)}'; script-src '{_hash(js)}'; base-uri 'none'; form-action 'none'"
    )
    return environment.get_template(template).render(
        css=Markup(css), js=Markup(js), policy=policy, version=__version__, **values
    )


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline element's text (W3C CSP 3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
