"""`mobconv inspect`: what an artifact is, and where its bytes are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mobconv.cli.common import AsJson
from mobconv.common.text import size

if TYPE_CHECKING:
    from mobconv.backends.size_audit import Audit


def command(
    artifact: Annotated[Path, typer.Argument(help="an .onnx, .tflite, .mlpackage or .mlmodel, ours or not")],
    asked: Annotated[
        int | None, typer.Option("--asked", min=1, max=32, help="bits a weight that you asked the tool for")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """What each weight of an artifact takes on disk, and why it takes more than was asked."""
    import json

    from mobconv.pipeline.inspection import inspect

    inspection = inspect(artifact, asked)
    if as_json:
        from mobconv.report import audits

        print(json.dumps({**inspection.header, **audits.as_json(inspection.audit)}, indent=1))
        return 0
    _show(inspection.header, inspection.audit)
    return 0


def _show(header: dict[str, Any], audit: Audit) -> None:
    from rich.markup import escape
    from rich.table import Table

    from mobconv.backends.size_audit import verdict
    from mobconv.cli import render
    from mobconv.report import audits

    out = render.console()
    for name, text in _lines(header, audit, size(audit.file_bytes)):
        out.print(f"{name:<8}{escape(text)}", soft_wrap=True)
    out.print()
    if audit.tensors:
        table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
        columns, rows, totals = audits.table(audit, out.width)
        for column, total in zip(columns, totals, strict=True):
            justify: Literal["left", "right"] = "right" if column.figure else "left"
            table.add_column(column.title, footer=escape(total), justify=justify, no_wrap=True, overflow="ellipsis")
        for tensor, row in zip(audits.ordered(audit), rows, strict=True):
            table.add_row(*map(escape, row), style="yellow" if tensor.wider else "")
        out.print(table)
        for number, text in enumerate(audits.remarks(audit), 1):
            out.print(escape(f"[{number}] {text}"))
        if any(tensor.wider for tensor in audit.tensors):
            out.print("* stored in more bits than were asked")
        out.print("disk bits: all bytes of the tensor, in bits of a weight")
        if audit.effective_bits is not None:
            out.print(
                f"effective bits, as in a sweep: {audit.effective_bits:.2f} (with what tensors share, without what "
                "float ones need too)"
            )
        out.print()
    lines = Table(box=None, pad_edge=False, show_header=False)
    lines.add_column()
    lines.add_column(justify="right")
    lines.add_column(justify="right")
    for what, count, share in audits.rest(audit):
        lines.add_row(escape(what), count, share, style="bold" if what == "size on disk" else "")
    out.print(lines)
    out.print(f"\n{escape(verdict(audit))}", soft_wrap=True)


def _lines(header: dict[str, Any], audit: Audit, size: str) -> list[tuple[str, str]]:
    """The header for people."""

    def edge(spec: dict[str, Any]) -> str:
        shape = " x ".join("?" if length < 0 else str(length) for length in spec["shape"])
        return f"{spec['name']}: {shape} {spec['dtype']}"

    lines = [("file", header["artifact"]), ("format", audit.format), ("size", f"{size} ({audit.file_bytes:,} bytes)")]
    maker = f"mobconv, as {header['cell']}" if header["cell"] else "another tool: no mobconv record in it"
    if header["record"].get("cell") and not header["cell"]:
        maker = f"another tool, from mobconv's {header['record']['cell']}"
    lines.append(("made by", maker))
    if header["record"].get("biases"):
        lines.append(("biases", "not the checkpoint's: calibration corrected them"))
    if header["not_run"] is None:
        lines += [("takes", edge(spec)) for spec in header["inputs"]] + [
            ("gives", edge(spec)) for spec in header["outputs"]
        ]
        if header["pixels"]:
            lines.append(("pixels", f"{header['pixels']}, by {header['pixels_by']}"))
        else:
            lines.append(("pixels", "the file does not say how they are normalised: ask whoever made it"))
        if header["labels"]:
            lines.append(("labels", _some(header["labels"])))
    else:
        lines.append(("not run", header["not_run"]))
    return lines + [("note", text) for text in audit.notes]


def _some(labels: list[str]) -> str:
    shown = ", ".join(labels[:5])
    return shown if len(labels) <= 5 else f"{shown} .. {labels[-1]} ({len(labels)})"
