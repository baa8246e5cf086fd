"""The page of one sweep's results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mobconv.common.text import plural, size
from mobconv.evaluate.tasks import Metric
from mobconv.report import charts, drawing, fronts, page, style, words
from mobconv.report.digest import FLOAT_SPEED, Choice, Digest, Measured, Panel, way
from mobconv.report.page import Heading, Line, TableEntry
from mobconv.results import OK, Results, Row

PLOTS = 12  # of a kind in one page: nobody compares more than that, and each takes a quarter of a second to draw

_WIDE = "intervals reach beyond the margin: measure on more samples"
_NO_INTERVALS = "no intervals without scores of samples"
_SHIP = ("no measurable loss", "no measurable loss, at float speed", "within the margin")


def _headings(metric: Metric) -> tuple[Heading, ...]:
    return (
        Heading("cell", figure=False),
        Heading("bits"),
        Heading("size"),
        Heading(metric.heading),
        Heading("against float"),
        Heading("latency"),
        Heading("quant. loss"),
        Heading("conv. loss"),
        Heading("eff. bits"),
        Heading("measured by", figure=False),
        Heading("needs", figure=False),
    )


def html(digest: Digest) -> str:
    """The whole page. Raises BackendError where the extra `report` is not installed."""
    drawing.require()
    results, metric = digest.results, digest.metric
    headings = _headings(metric)
    lines = [_line(digest, row, len(headings)) for row in results.cells]
    samples, source = results.data.get("samples", 0), results.data.get("source", "unnamed data")
    model = str(results.model.get("path", "a network"))
    backends = list(dict.fromkeys(row.backend for row in results.cells))
    side = "above" if metric.higher_is_better else "below"
    return page.render(
        "report.html",
        title=f"{model}: {plural(len(results.cells), 'cell')}",
        heading=model,
        lead=(
            f"{plural(len(digest.measured), 'file')} in {plural(len(backends), 'format')} "
            f"({words.joined(backends)}), each read back from disk and measured on "
            f"{plural(samples, results.sample)} of {source}."
        ),
        notes=results.notes,
        tiles=_tiles(digest),
        ship_note=_ship_note(digest),
        ship_titles=_SHIP,
        ship=[_ship(choice, metric) for choice in digest.choices],
        bits_title=f"{metric.title} against bits",
        size_title=f"{metric.title} against size",
        cliff_note=(
            f"Where {metric.name} {metric.worsens} {metric.beyond(digest.margin)} float "
            f"({metric.text(digest.float_score)}): the cliff. Files beyond it are ringed; a line stands in front of "
            f"each cliff. {words.intervals(digest)} Bars shorter than a mark are hidden by it; the table has their "
            "ends."
        ),
        cliff_lines=words.cliff_lines(digest),
        accuracy=_plots(
            digest.accuracy, lambda panel: charts.accuracy(digest, panel), words.panel_finding, metric.name, metric
        ),
        accuracy_more=_more(digest.accuracy),
        sizes=[
            {
                "title": backend,
                "svg": _svg(fronts.sizes(digest, backend), words.front_finding(digest, backend)),
                "caption": words.front_finding(digest, backend).partition(". ")[2],
            }
            for backend in list(digest.fronts)[:PLOTS]
        ],
        size_note=(
            "Up and to the left is better. The line is the Pareto front: no other file of the format is as small and "
            "as good. Bars: 95 % intervals of the difference to float. Hollow marks are stored @native. The axis is "
            "straight near float and logarithmic beyond, because files that one may ship differ by little."
        ),
        losses=_plots(digest.losses, lambda panel: charts.losses(digest, panel), words.loss_finding, "losses", metric),
        losses_more=_more(digest.losses),
        losses_note=words.losses_note(digest),
        cells_note=(
            f"Open a cell for its file, hash and notes. ▼: {metric.beyond(digest.margin)} float. Bits as asked, and → "
            f"as stored where that is another width. Losses are {metric.losses}, positive is worse; against float, "
            f"{side} 0 is better; latency against the format's fp32 file."
        ),
        label="All cells, one row each",
        columns=headings,
        rows=lines,
        selects=page.selects(lines, backend="format", mode="mode", way="stored", status="status"),
        within=True,
        facts=_facts(digest),
        tools=list(results.tools.items()),
    )


def _svg(spec: style.Spec, finding: str) -> Any:
    from markupsafe import Markup

    return Markup(drawing.inline(drawing.svg(spec), finding))


def _plots(
    panels: Sequence[Panel],
    draw: Callable[[Panel], style.Spec],
    finding: Callable[[Panel, Metric], str],
    figures: str,
    metric: Metric,
) -> list[dict[str, Any]]:
    return [
        {
            "title": words.panel_title(panel),
            "svg": _svg(draw(panel), finding(panel, metric)),
            "caption": words.panel_caption(panel, figures, metric),
        }
        for panel in panels[:PLOTS]
    ]


def _more(panels: Sequence[Panel]) -> str:
    if len(panels) <= PLOTS:
        return ""
    rest = "; ".join(words.panel_title(panel) for panel in panels[PLOTS:])
    return f"{len(panels) - PLOTS} more are in the table alone: {rest}."


def _tiles(digest: Digest) -> list[dict[str, Any]]:
    counts, metric = words.counts(digest.results.cells), digest.metric
    rest = [f"{count} {status}" for status, count in counts.items() if status != OK]
    margin, samples = metric.amount(digest.margin), plural(digest.results.data.get("samples", 0), digest.results.sample)
    sure = any(choice.sure for choice in digest.choices)
    wide = any(choice.wide for choice in digest.choices)
    unsure = ("not known", _WIDE) if wide else ("none", "no file is")
    none = unsure if sure else ("not known", _NO_INTERVALS)
    tiles = [
        _best(digest, "Smallest, no measurable loss", [choice.lossless for choice in digest.choices], none),
        _best(digest, f"Smallest within {margin} of float", [choice.within for choice in digest.choices], unsure),
        {
            "title": f"Float {metric.name}",
            "figure": metric.text(digest.float_score),
            "lines": [f"the baseline, PyTorch, on {samples}"],
        },
        {"title": "Cells", "figure": f"{counts[OK]} ok", "lines": [", ".join(rest)]},
    ]
    cliffs = [cliff for cliff in digest.results.cliffs if not way(cliff)]
    if cliffs:
        tiles.append(_cliff_tile(digest))
    return tiles


def _best(
    digest: Digest, title: str, files: Sequence[Measured | None], none: tuple[str, str] = ("none", "no file is")
) -> dict[str, Any]:
    """The tile of the smallest file; none: figure and line without such a file."""
    best = min((each for each in files if each is not None), key=lambda each: each.bytes, default=None)
    if best is None:
        return {"title": title, "figure": none[0], "lines": [none[1]]}
    float32 = next(choice.float32 for choice in digest.choices if choice.backend == best.row.backend)
    return {"title": title, "figure": best.row.cell, "lines": words.choice_lines(best, float32, digest.metric)}


def _cliff_tile(digest: Digest) -> dict[str, Any]:
    """By mode, of cells stored by default; where formats differ, from the widest to the narrowest."""
    by_mode: dict[str, list[int | None]] = {}
    for cliff in digest.results.cliffs:
        if not way(cliff):
            by_mode.setdefault(cliff.mode, []).append(cliff.bits)
    lines, every = [], []
    for mode, widths in by_mode.items():
        bits = sorted({width for width in widths if width is not None}, reverse=True)
        every += bits
        text = " or ".join(map(str, bits)) + " bits" if bits else "none measured"
        lines.append(f"{style.mode_name(mode)}: {text}" + (", or none" if bits and None in widths else ""))
    low, high = min(every, default=0), max(every, default=0)
    figure = "none" if not every else plural(high, "bit") if low == high else f"{high} to {low} bits"
    margin = digest.metric.amount(digest.margin)
    return {"title": f"Cliff: more than {margin} lost at", "figure": figure, "lines": lines}


def _ship_note(digest: Digest) -> str:
    metric = digest.metric
    return (
        f"The smallest file of each format. Within the margin: no more than {metric.amount(digest.margin)} "
        f"{metric.worse_side} float by all of the 95 % interval of the difference, or by the figure where there is no "
        "interval. No measurable loss: within the margin, and the interval contains 0 or is all a gain. At float "
        f"speed: at most {FLOAT_SPEED:g} times the latency of fp32."
    )


def _ship(choice: Choice, metric: Metric) -> dict[str, Any]:
    within = _WIDE if choice.wide else ""
    lossless = within if choice.sure else _NO_INTERVALS
    fast = lossless or ("" if choice.timed else "latency not measured here")
    entries = []
    # why it is not known; '' where no file is
    for each, why in ((choice.lossless, lossless), (choice.fast, fast), (choice.within, within)):
        if each is None:
            entries.append({"name": "not known" if why else "none", "lines": [why] if why else []})
        else:
            name = each.row.cell.partition("/")[2]
            entries.append({"name": name, "lines": words.choice_lines(each, choice.float32, metric)})
    fp32 = f"fp32: {size(choice.float32)}" if choice.float32 else ""
    return {"backend": choice.backend, "note": fp32, "choices": entries}


def _line(digest: Digest, row: Row, columns: int) -> Line:
    """A row of the table of all cells; columns: their number."""
    metric = digest.metric
    each = digest.by_cell.get(row.cell)
    within = each is not None and not digest.fallen(each)
    data = {
        "backend": row.backend, "mode": style.mode_name(row.mode) if row.mode else "float", "status": row.status,
        "way": way(row) or "packed", "within": "1" if within else "0",
    }  # fmt: skip
    bits = f"{row.bits}" if row.stored_bits in (None, row.bits) else f"{row.bits} → {row.stored_bits}"
    entries = [TableEntry(bits, row.bits)]
    if each is None:
        why = row.reason or "no reason given"
        entries.append(TableEntry(f"{row.status}: {why}", figure=False, kind="reason", span=columns - 2))
        return Line(row.cell, entries, [text for text in (row.note,) if text], kind=row.status, data=data)
    bad = row.conversion_loss is not None and 0 < digest.small_loss <= row.conversion_loss
    measured_by = {"runtime": "its runtime"}.get(str(row.verified), str(row.verified))
    entries += [
        TableEntry(size(each.bytes), each.bytes),
        TableEntry(metric.number(each.score), each.score),
        TableEntry(
            words.signed(each.loss, metric) + ("" if within else " ▼"),
            metric.change(each.loss),
            sub=words.minus(charts.interval(each.lost, metric)) if each.lost.known else "no interval",
            kind="" if within else "fell",
        ),
        _figure(row.latency_ratio, "{:.2f}x"),
        _loss(row.quantization_loss, metric),
        _loss(row.conversion_loss, metric, "bad" if bad else ""),
        _figure(row.effective_bits, "{:.2f}"),
        TableEntry(measured_by, str(row.verified), figure=False),
        TableEntry(row.requires or "-", row.requires or None, figure=False),
    ]
    return Line(row.cell, entries, _details(row, digest.results), kind=row.status, data=data)


def _loss(value: float | None, metric: Metric, kind: str = "") -> TableEntry:
    return TableEntry(words.minus(metric.loss_text(value)), value, kind=kind)


def _figure(value: float | None, pattern: str) -> TableEntry:
    return TableEntry("-" if value is None else pattern.format(value), value)


def _details(row: Row, results: Results) -> list[str]:
    """The file, its storage and its further figures, a line each."""
    lines = [f"file: {row.path}" if row.path else "", f"sha256: {row.sha256}" if row.sha256 else ""]
    if row.file_bytes is not None:
        lines.append(
            f"{row.file_bytes:,} bytes" + ("" if row.weight_bytes is None else f", {row.weight_bytes:,} of weights")
        )
    if row.mode:
        scheme = f"{style.mode_name(row.mode)} per {row.granularity}, {row.algorithm}"
        lines.append(
            f"asked {row.bits} bits, stored at {row.stored_bits}, {scheme}, {row.storage}, computed in {row.compute}"
        )
    lines.append(f"measured by {words.measured_by(row)}")
    a_sample = "an image" if results.sample == "image" else f"a {results.sample}"
    figures = [
        *(f"{name} {results.further(name).text(value)}" for name, value in row.metrics.items()),
        f"agrees with PyTorch of the same weights on {row.agreement * 100:.2f} % of {results.sample}s"
        if row.agreement is not None
        else "",
        f"SNR {row.snr_db:.0f} dB" if row.snr_db is not None else "",
        f"{row.latency_ms:.2f} ms {a_sample}" if row.latency_ms is not None else "",
        f"loads in {row.load_ms:.0f} ms" if row.load_ms is not None else "",
    ]
    lines.append(", ".join(text for text in figures if text))
    if row.fp32_tensors:
        lines.append(f"{row.fp32_tensors} tensors keep scales or tables in fp32: fp16 cannot hold them")
    return [text for text in (*lines, row.reason, row.note) if text]


def _facts(digest: Digest) -> list[tuple[str, str]]:
    model, data = digest.results.model, digest.results.data
    runtimes: dict[str, int] = {}
    for each in digest.measured:
        runtime = words.measured_by(each.row)
        runtimes[runtime] = runtimes.get(runtime, 0) + 1
    parameters, weights = model.get("parameters"), model.get("quantizable_weights")
    return [
        ("checkpoint", str(model.get("path", "-"))),
        ("its sha256", str(model.get("sha256", "-"))),
        ("parameters", f"{parameters:,}, {weights:,} of them quantizable" if _both(parameters, weights) else "-"),
        ("data", f"{data.get('source', '-')}, {plural(data.get('samples', 0), digest.results.sample)}"),
        ("its sha256", str(data.get("sha256", "-"))),
        ("measured by", "; ".join(f"{plural(count, 'file')}: {runtime}" for runtime, count in runtimes.items())),
        ("intervals", words.intervals(digest)),
        ("size", "the whole artifact on disk; eff. bits: of a weight, with scales, tables and decoding ops"),
        (
            "latency",
            f"one {digest.results.sample} on one thread, median, against the format's fp32 file; emulated files have "
            "none",
        ),
    ]


def _both(*values: Any) -> bool:
    return all(isinstance(value, int) for value in values)
