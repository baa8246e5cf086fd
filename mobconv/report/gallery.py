"""The plots of a report as files, for a README: SVG and PNG, on light and on dark paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mobconv.common.files import write_whole
from mobconv.common.text import plural
from mobconv.report import charts, drawing, fronts, words
from mobconv.report.digest import Digest, Panel
from mobconv.report.style import DARK, LIGHT, Palette, Spec


def write(digest: Digest, folder: Path) -> int:
    """Write every plot; returns the number of files. Raises OutputError."""
    count = 0
    for name, draw in plots(digest):
        for suffix, palette in (("", LIGHT), ("-dark", DARK)):
            drawn = drawing.svg(draw(palette))
            write_whole(folder / f"{name}{suffix}.svg", drawn)
            write_whole(folder / f"{name}{suffix}.png", drawing.png(drawn))
            count += 2
    return count


def plots(digest: Digest) -> Iterator[tuple[str, Callable[[Palette], Spec]]]:
    """File names without suffix, each with the function that draws it: cliff*, size-<backend>, losses*."""
    taken: set[str] = set()
    for panel in digest.accuracy:
        yield _name("cliff", panel, digest.accuracy, taken), _cliff(digest, panel)
    for backend in digest.fronts:
        yield _free(f"size-{_plain(backend)}", taken), _size(digest, backend)
    for panel in digest.losses:
        yield _name("losses", panel, digest.losses, taken), _losses(digest, panel)


def _cliff(digest: Digest, panel: Panel) -> Callable[[Palette], Spec]:
    heading = title(f"{digest.metric.title} against bits", digest, panel)
    return lambda palette: charts.accuracy(digest, panel, palette, heading)


def _size(digest: Digest, backend: str) -> Callable[[Palette], Spec]:
    heading = f"{digest.metric.title} against size: {backend}\n{_source(digest)}"
    return lambda palette: fronts.sizes(digest, backend, palette, heading)


def _losses(digest: Digest, panel: Panel) -> Callable[[Palette], Spec]:
    heading = title(words.losses_title(digest.metric), digest, panel)
    return lambda palette: charts.losses(digest, panel, palette, heading)


def title(what: str, digest: Digest, panel: Panel) -> str:
    """A heading and, below it, the formats, the network and the data of the plot."""
    together = ": the same weights, the same lines" if len(panel.backends) > 1 else ""
    way = f", {panel.way}" if panel.way else ""
    return f"{what}{way}\n{words.joined(panel.backends)}{together}\n{_source(digest)}"


def _source(digest: Digest) -> str:
    results = digest.results
    return f"{results.model.get('path', '')}, {plural(results.data.get('samples', 0), results.sample)}"


def _name(kind: str, panel: Panel, panels: tuple[Panel, ...], taken: set[str]) -> str:
    """`cliff` for cells stored by default where backends agree; else with the way of storing and the backends."""
    alone = sum(other.way == panel.way for other in panels) == 1
    parts = [kind, panel.way, *(() if alone else panel.backends)]
    return _free("-".join(_plain(part) for part in parts if part), taken)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "other"


def _free(name: str, taken: set[str]) -> str:
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}-{count}"
    taken.add(free)
    return free
