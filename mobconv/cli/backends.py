"""`mobconv backends`: what each backend can do here, and why not."""

from __future__ import annotations

from typing import Any

from mobconv.cli.common import AsJson


def command(as_json: AsJson = False) -> int:
    """List the backends: installed or not, their tools, and what files need."""
    import json

    from mobconv import backends
    from mobconv.schemes import BITS, Cell, Mode, Scheme

    entries: list[dict[str, Any]] = []
    for name in backends.names():
        backend = backends.get(name)
        missing = backend.missing()
        widths = {
            mode.value: {
                bits: backend.support(Cell(name, Scheme.parse(f"w{bits}-{mode}"))).stored_bits for bits in BITS
            }
            for mode in Mode
        }
        entries.append(
            {
                "backend": name,
                "suffix": backend.suffix,
                "missing": missing,
                "tools": backend.versions() if missing is None else {},
                "stored_bits": widths,
            }
        )
    if as_json:
        print(json.dumps(entries, indent=1))
        return 0
    from rich.markup import escape
    from rich.table import Table

    from mobconv.cli import render

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("backend", "files", *(f"{mode}, bits on disk" for mode in Mode), "here"):
        table.add_column(title)
    for entry in entries:
        stored = entry["stored_bits"]
        tools = entry["tools"]
        table.add_row(
            str(entry["backend"]),
            f".{entry['suffix']}",
            *(
                " ".join(_width(asked, stored_bits) for asked, stored_bits in reversed(stored[mode.value].items()))
                for mode in Mode
            ),
            escape(entry["missing"] or ", ".join(f"{tool} {version}" for tool, version in tools.items())),
        )
    render.console().print(table)
    return 0


def _width(asked: int, stored: int | None) -> str:
    if stored is None:
        return "-"
    return str(asked) if asked == stored else f"{asked}>{stored}"
