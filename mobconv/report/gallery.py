"""The plots of a report as files, for a README: SVG and PNG, on light and on dark paper."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mobconv.common.files import write_whole
from mobconv.report import charts, drawing, fronts, words
from mobconv.report.digest import Digest, Panel
from mobconv.report.style import DARK, LIGHT, Palette, Spec
from mobconv.results.tables import plural


def write(told: Digest, folder: Path) -> int:
    """Write every plot; returns how many files. Raises OutputError."""
    count = 0
    for name, draw in plots(told):
        for suffix, palette in (("", LIGHT), ("-dark", DARK)):
            drawn = drawing.svg(draw(palette))
            write_whole(folder / f"{name}{suffix}.svg", drawn)
            write_whole(folder / f"{name}{suffix}.png", drawing.png(drawn))
            count += 2
    return count


def plots(told: Digest) -> Iterator[tuple[str, Callable[[Palette], Spec]]]:
    """File names, less suffix, and what draws each: cliff*, size-<backend>, losses*."""
    taken: set[str] = set()
    for panel in told.accuracy:
        yield _name("cliff", panel, told.accuracy, taken), _cliff(told, panel)
    for backend in told.fronts:
        yield _free(f"size-{_plain(backend)}", taken), _size(told, backend)
    for panel in told.losses:
        yield _name("losses", panel, told.losses, taken), _losses(told, panel)


def _cliff(told: Digest, panel: Panel) -> Callable[[Palette], Spec]:
    return lambda palette: charts.accuracy(told, panel, palette, title("Top-1 against bits", told, panel))


def _size(told: Digest, backend: str) -> Callable[[Palette], Spec]:
    return lambda palette: fronts.sizes(told, backend, palette, f"Top-1 against size: {backend}\n{_of(told)}")


def _losses(told: Digest, panel: Panel) -> Callable[[Palette], Spec]:
    return lambda palette: charts.losses(told, panel, palette, title("Points of top-1 lost", told, panel))


def title(what: str, told: Digest, panel: Panel) -> str:
    """A heading and, below it, what the plot is of."""
    together = ": the same weights, the same lines" if len(panel.backends) > 1 else ""
    way = f", {panel.way}" if panel.way else ""
    return f"{what}{way}\n{words.joined(panel.backends)}{together}\n{_of(told)}"


def _of(told: Digest) -> str:
    return f"{told.results.model.get('path', '')}, {plural(told.results.data.get('images', 0), 'image')}"


def _name(kind: str, panel: Panel, panels: tuple[Panel, ...], taken: set[str]) -> str:
    """`cliff` for cells stored by default where backends agree; else with what tells it apart."""
    alone = sum(other.way == panel.way for other in panels) == 1
    parts = [kind, panel.way, *(() if alone else panel.backends)]
    return _free("-".join(_plain(part) for part in parts if part), taken)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "other"


def _free(name: str, taken: set[str]) -> str:
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}-{count}"
    taken.add(found)
    return found
