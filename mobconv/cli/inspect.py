"""`mobconv inspect`: what an artifact is, and where its bytes are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mobconv.cli.common import AsJson

if TYPE_CHECKING:
    from mobconv.backends.base import Backend
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

    from mobconv import backends
    from mobconv.backends.size_audit import cell_of, judged
    from mobconv.errors import BackendError, InputError

    if not artifact.exists():
        raise InputError(f"{artifact}: no such file or folder")
    backend = backends.for_path(artifact)
    missing = backend.missing()
    if missing:
        raise BackendError(missing)
    if not hasattr(backend, "audit"):
        raise BackendError(f"the backend {backend.name} does not say what its files hold: it has no method `audit`")
    found = backend.audit(artifact)
    cell = cell_of(found)
    native = "" if cell is None or asked is not None else backend.support(cell).reason
    found = judged(found, asked if asked is not None or cell is None else cell.scheme.bits, native)
    head = header(artifact, backend, found)
    if as_json:
        from mobconv.report import audits

        print(json.dumps({**head, **audits.as_json(found)}, indent=1))
        return 0
    _show(head, found)
    return 0


def header(artifact: Path, backend: Backend, audit: Audit) -> dict[str, Any]:
    """What the file is, takes and gives; opens it. A file that cannot be run here says why, under `not_run`."""
    from dataclasses import asdict

    from mobconv.backends.size_audit import cell_of, record_of
    from mobconv.errors import MobconvError
    from mobconv.evaluate import input_spec

    cell = cell_of(audit)
    head: dict[str, Any] = {
        "artifact": str(artifact),
        "cell": None if cell is None else cell.name,
        "record": record_of(audit.record, artifact),
    }
    try:
        runner = backend.open(artifact)
    except MobconvError as error:
        text = str(error).removeprefix(f"{artifact}: ").partition("\n")[0]
        return {**head, "inputs": None, "outputs": None, "not_run": text}
    head |= {"inputs": [asdict(spec) for spec in runner.inputs], "outputs": [asdict(spec) for spec in runner.outputs]}
    labels = runner.labels or tuple(head["record"].get("labels", ()))
    head |= {"pixels": None, "pixels_by": None, "labels": list(labels)}
    try:
        takes = input_spec.expected(runner, artifact)
        head |= {"pixels": input_spec.told(takes.preprocessing, runner.inputs[0]), "pixels_by": takes.source}
    except MobconvError:  # it takes no images, or does not say
        pass
    finally:
        runner.close()
    return {**head, "not_run": None}


def _show(head: dict[str, Any], audit: Audit) -> None:
    from rich.markup import escape
    from rich.table import Table

    from mobconv.backends.size_audit import verdict
    from mobconv.cli import render
    from mobconv.report import audits
    from mobconv.results import tables

    out = render.console()
    for name, text in _lines(head, audit, tables.size(audit.file_bytes)):
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
        out.print()
    lines = Table(box=None, pad_edge=False, show_header=False)
    lines.add_column()
    lines.add_column(justify="right")
    lines.add_column(justify="right")
    for what, count, share in audits.rest(audit):
        lines.add_row(escape(what), count, share, style="bold" if what == "size on disk" else "")
    out.print(lines)
    out.print(f"\n{escape(verdict(audit))}", soft_wrap=True)


def _lines(head: dict[str, Any], audit: Audit, size: str) -> list[tuple[str, str]]:
    """The header for people."""

    def edge(spec: dict[str, Any]) -> str:
        shape = " x ".join("?" if length < 0 else str(length) for length in spec["shape"])
        return f"{spec['name']}: {shape} {spec['dtype']}"

    lines = [("file", head["artifact"]), ("format", audit.format), ("size", f"{size} ({audit.file_bytes:,} bytes)")]
    maker = f"mobconv, as {head['cell']}" if head["cell"] else "another tool: no mobconv record in it"
    if head["record"].get("cell") and not head["cell"]:
        maker = f"another tool, from mobconv's {head['record']['cell']}"
    lines.append(("made by", maker))
    if head["not_run"] is None:
        lines += [("takes", edge(spec)) for spec in head["inputs"]] + [
            ("gives", edge(spec)) for spec in head["outputs"]
        ]
        if head["pixels"]:
            lines.append(("pixels", f"{head['pixels']}, by {head['pixels_by']}"))
        else:
            lines.append(("pixels", "the file does not say how they are normalised: ask whoever made it"))
        if head["labels"]:
            lines.append(("labels", _some(head["labels"])))
    else:
        lines.append(("not run", head["not_run"]))
    return lines + [("note", text) for text in audit.notes]


def _some(labels: list[str]) -> str:
    shown = ", ".join(labels[:5])
    return shown if len(labels) <= 5 else f"{shown} .. {labels[-1]} ({len(labels)})"
