"""The page of one sweep's results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mobconv.report import charts, drawing, fronts, page, style, words
from mobconv.report.digest import FLOAT_SPEED, Choice, Digest, Measured, Panel, way
from mobconv.report.page import Column, Line, Shown
from mobconv.results import OK, Row
from mobconv.results.tables import plural, size

PLOTS = 12  # of a kind in one page: more than that nobody compares, and each takes a quarter of a second to draw

_COLUMNS = (
    Column("cell", figure=False),
    Column("bits"),
    Column("size"),
    Column("top-1 %"),
    Column("against float"),
    Column("latency"),
    Column("quant. loss"),
    Column("conv. loss"),
    Column("eff. bits"),
    Column("measured by", figure=False),
    Column("needs", figure=False),
)
_SHIP = ("no measurable loss", "no measurable loss, at float speed", "within the margin")


def html(told: Digest) -> str:
    """The whole page. Raises BackendError where the extra `report` is not installed."""
    drawing.require()
    found = told.results
    lines = [_line(told, row) for row in found.cells]
    images, source = found.data.get("images", 0), found.data.get("source", "unnamed data")
    model = str(found.model.get("path", "a network"))
    backends = list(dict.fromkeys(row.backend for row in found.cells))
    return page.render(
        "report.html",
        title=f"{model}: {plural(len(found.cells), 'cell')}",
        heading=model,
        lead=(
            f"{plural(len(told.measured), 'file')} in {plural(len(backends), 'format')} "
            f"({words.joined(backends)}), "
            f"each read back from disk and measured on {plural(images, 'image')} of {source}."
        ),
        notes=found.notes,
        tiles=_tiles(told),
        ship_note=_ship_note(told),
        ship_titles=_SHIP,
        ship=[_ship(choice) for choice in told.choices],
        cliff_note=(
            f"Where top-1 falls more than {told.margin:g} points below float ({told.float_top1:.2f} %): the "
            "cliff. Files that fell "
            f"are ringed; a line stands in front of each cliff. {words.intervals(told)} Bars shorter than a mark "
            "are hidden by it; "
            "the table has their ends."
        ),
        cliff_lines=words.cliff_lines(told),
        accuracy=_plots(
            told.accuracy, lambda panel: charts.accuracy(told, panel), words.panel_finding, "top-1"
        ),
        accuracy_more=_more(told.accuracy),
        sizes=[
            {
                "title": backend,
                "svg": _svg(fronts.sizes(told, backend), words.front_finding(told, backend)),
                "caption": words.front_finding(told, backend).partition(". ")[2],
            }
            for backend in list(told.fronts)[:PLOTS]
        ],
        size_note=(
            "Up and to the left is better. The line is the Pareto front: no other file of the format is as small "
            "and as accurate. "
            "Bars: 95 % intervals of the difference to float. Hollow marks are stored @native. The axis is "
            "straight near "
            "float and logarithmic beyond, because what one may ship differs by tenths."
        ),
        losses=_plots(told.losses, lambda panel: charts.losses(told, panel), words.loss_finding, "losses"),
        losses_more=_more(told.losses),
        losses_note=words.losses_note(told),
        cells_note=(
            "Open a cell for its file, hash and notes. ▼: more than the margin below float. Bits as asked, and → as "
            "stored where that is another width. Losses are points of top-1, positive is worse; "
            "latency against the format's fp32 file."
        ),
        label="All cells, one row each",
        columns=_COLUMNS,
        rows=lines,
        selects=page.selects(lines, backend="format", mode="mode", way="stored", status="status"),
        within=True,
        facts=_facts(told),
        tools=list(found.tools.items()),
    )  # fmt: skip


def _svg(spec: style.Spec, finding: str) -> Any:
    from markupsafe import Markup

    return Markup(drawing.inline(drawing.svg(spec), finding))


def _plots(
    panels: Sequence[Panel], draw: Callable[[Panel], style.Spec], finding: Callable[[Panel], str], what: str
) -> list[dict[str, Any]]:
    return [
        {
            "title": words.panel_title(panel),
            "svg": _svg(draw(panel), finding(panel)),
            "caption": words.panel_caption(panel, what),
        }
        for panel in panels[:PLOTS]
    ]


def _more(panels: Sequence[Panel]) -> str:
    if len(panels) <= PLOTS:
        return ""
    rest = "; ".join(words.panel_title(panel) for panel in panels[PLOTS:])
    return f"{len(panels) - PLOTS} more are in the table alone: {rest}."


def _tiles(told: Digest) -> list[dict[str, Any]]:
    counts = words.counts(told.results.cells)
    rest = [f"{count} {status}" for status, count in counts.items() if status != OK]
    tiles = [
        _best(told, "Smallest, no measurable loss", [choice.lossless for choice in told.choices]),
        _best(told, f"Smallest within {told.margin:g} points of float", [choice.within for choice in told.choices]),
        {
            "title": "Float top-1", "figure": f"{told.float_top1:.2f} %",
            "lines": [f"the baseline, PyTorch, on {plural(told.results.data.get('images', 0), 'image')}"],
        },
        {"title": "Cells", "figure": f"{counts[OK]} ok", "lines": [", ".join(rest)]},
    ]  # fmt: skip
    cliffs = [cliff for cliff in told.results.cliffs if not way(cliff)]
    if cliffs:
        tiles.append(_cliff_tile(told))
    return tiles


def _best(told: Digest, title: str, files: Sequence[Measured | None]) -> dict[str, Any]:
    best = min((each for each in files if each is not None), key=lambda each: each.bytes, default=None)
    if best is None:
        return {"title": title, "figure": "none", "lines": ["no file is"]}
    float32 = next(choice.float32 for choice in told.choices if choice.backend == best.row.backend)
    lines = words.choice_lines(best, float32)
    return {"title": title, "figure": best.row.cell, "lines": lines}


def _cliff_tile(told: Digest) -> dict[str, Any]:
    """By mode, of cells stored by default; where formats differ, from the widest to the narrowest."""
    by_mode: dict[str, list[int | None]] = {}
    for cliff in told.results.cliffs:
        if not way(cliff):
            by_mode.setdefault(cliff.mode, []).append(cliff.bits)
    lines, every = [], []
    for mode, held in by_mode.items():
        bits = sorted({each for each in held if each is not None}, reverse=True)
        every += bits
        text = " or ".join(map(str, bits)) + " bits" if bits else "none measured"
        lines.append(f"{style.mode_name(mode)}: {text}" + (", or none" if bits and None in held else ""))
    low, high = min(every, default=0), max(every, default=0)
    figure = "none" if not every else f"{high} bit{'s' * (high != 1)}" if low == high else f"{high} to {low} bits"
    return {"title": f"Cliff: more than {told.margin:g} points lost at", "figure": figure, "lines": lines}


def _ship_note(told: Digest) -> str:
    return (
        "The smallest file of each format. No measurable loss: the 95 % interval of the difference to float "
        "holds 0, or is all a gain; on "
        f"few images that says little, so look at the interval. At float speed: at most {FLOAT_SPEED:g} times the "
        "latency of fp32. Within "
        f"the margin: no more than {told.margin:g} points below float, by the figure."
    )


def _ship(choice: Choice) -> dict[str, Any]:
    untimed = "latency not measured here" if not choice.timed else ""
    shown = []
    for each, missing in (
        (choice.lossless, "none"), (choice.fast, "none" if choice.timed else "not known"), (choice.within, "none")
    ):  # fmt: skip
        if each is None:
            shown.append({"name": missing, "lines": [untimed] if missing == "not known" else []})
        else:
            name = each.row.cell.partition("/")[2]
            shown.append({"name": name, "lines": words.choice_lines(each, choice.float32)})
    fp32 = f"fp32: {size(choice.float32)}" if choice.float32 else ""
    return {"backend": choice.backend, "note": fp32, "choices": shown}


def _line(told: Digest, row: Row) -> Line:
    """A row of the table of all cells."""
    each = told.by_cell.get(row.cell)
    within = each is not None and not told.fallen(each)
    data = {
        "backend": row.backend, "mode": style.mode_name(row.mode) if row.mode else "float", "status": row.status,
        "way": way(row) or "packed", "within": "1" if within else "0",
    }  # fmt: skip
    bits = f"{row.bits}" if row.stored_bits in (None, row.bits) else f"{row.bits} → {row.stored_bits}"
    shown = [Shown(bits, row.bits)]
    if each is None:
        why = row.reason or "no reason given"
        shown.append(Shown(f"{row.status}: {why}", figure=False, kind="reason", span=len(_COLUMNS) - 2))
        return Line(row.cell, shown, [text for text in (row.note,) if text], kind=row.status, data=data)
    shown += [
        Shown(size(each.bytes), each.bytes),
        Shown(f"{each.top1 * 100:.2f}", each.top1),
        Shown(
            words.signed(-each.lost.points) + ("" if within else " ▼"), -each.lost.points,
            sub=words.minus(charts.interval(each)), kind="" if within else "fell",
        ),
        _figure(row.latency_ratio, "{:.2f}x"),
        _figure(row.quantization_loss, "{:+.2f}"),
        _figure(row.conversion_loss, "{:+.2f}", "bad" if (row.conversion_loss or 0) >= 0.5 else ""),
        _figure(row.effective_bits, "{:.2f}"),
        Shown({"runtime": "its runtime"}.get(str(row.verified), str(row.verified)), str(row.verified), figure=False),
        Shown(row.requires or "-", row.requires or None, figure=False),
    ]  # fmt: skip
    return Line(row.cell, shown, _told(row), kind=row.status, data=data)


def _figure(value: float | None, pattern: str, kind: str = "") -> Shown:
    return Shown("-" if value is None else words.minus(pattern.format(value + 0.0)), value, kind=kind)


def _told(row: Row) -> list[str]:
    """What the file is and how it was made, a line each."""
    lines = [f"file: {row.path}" if row.path else "", f"sha256: {row.sha256}" if row.sha256 else ""]
    if row.file_bytes is not None:
        lines.append(
            f"{row.file_bytes:,} bytes" + ("" if row.weight_bytes is None else f", {row.weight_bytes:,} of weights")
        )
    if row.mode:
        how = f"{style.mode_name(row.mode)} per {row.granularity}, {row.algorithm}"
        lines.append(
            f"asked {row.bits} bits, stored at {row.stored_bits}, {how}, {row.storage}, computed in {row.compute}"
        )
    lines.append(f"measured by {words.measured_by(row)}")
    figures = [
        f"top-5 {row.top5 * 100:.2f} %" if row.top5 is not None else "",
        f"agrees with PyTorch of the same weights on {row.agreement * 100:.2f} % of images"
        if row.agreement is not None
        else "",
        f"SNR {row.snr_db:.0f} dB" if row.snr_db is not None else "",
        f"{row.latency_ms:.2f} ms an image" if row.latency_ms is not None else "",
        f"loads in {row.load_ms:.0f} ms" if row.load_ms is not None else "",
    ]
    lines.append(", ".join(text for text in figures if text))
    if row.fp32_tensors:
        lines.append(f"{row.fp32_tensors} tensors keep scales or tables in fp32: fp16 cannot hold them")
    return [text for text in (*lines, row.reason, row.note) if text]


def _facts(told: Digest) -> list[tuple[str, str]]:
    found = told.results
    by: dict[str, int] = {}
    for each in told.measured:
        by[words.measured_by(each.row)] = by.get(words.measured_by(each.row), 0) + 1
    parameters, weights = found.model.get("parameters"), found.model.get("quantizable_weights")
    return [
        ("checkpoint", str(found.model.get("path", "-"))),
        ("its sha256", str(found.model.get("sha256", "-"))),
        ("parameters", f"{parameters:,}, {weights:,} of them quantizable" if _both(parameters, weights) else "-"),
        ("data", f"{found.data.get('source', '-')}, {plural(found.data.get('images', 0), 'image')}"),
        ("its sha256", str(found.data.get("sha256", "-"))),
        ("measured by", "; ".join(f"{plural(count, 'file')}: {who}" for who, count in by.items())),
        ("intervals", words.intervals(told)),
        ("size", "the whole artifact on disk; eff. bits: of a weight, with scales, tables and decoding ops"),
        ("latency", "one image on one thread, median, against the format's fp32 file; emulated files have none"),
    ]  # fmt: skip


def _both(*values: Any) -> bool:
    return all(isinstance(value, int) for value in values)
