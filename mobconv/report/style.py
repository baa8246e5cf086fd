"""The look of plots: colours, shapes, legends and text that all of them share.

Colours are those of Okabe and Ito (2008), which any colour vision distinguishes; each mode has a shape and a dash too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]

WIDTH = 330  # of a plot's inside, pixels: with its axis it fits a phone
TEXT = 11
LETTER = 6.1  # pixels of a letter at that size, on average
_SHAPES = ("circle", "square", "triangle-up", "diamond")
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
_MODE_NAMES = {"kmeans": "k-means"}


@dataclass(frozen=True)
class Palette:
    """Colours of a plot, each its own: a page maps them to those of its theme."""

    ink: str
    muted: str
    grid: str
    paper: str
    modes: tuple[str, str, str, str]
    quantization: str
    conversion: str
    limit: str


LIGHT = Palette(
    ink="#1b1f24",
    muted="#57606a",
    grid="#e1e4e8",
    paper="#ffffff",
    modes=("#0072b2", "#d55e00", "#007a5a", "#a0518a"),
    quantization="#56b4e9",
    conversion="#b34700",
    limit="#8a6100",
)
DARK = Palette(
    ink="#e6edf3",
    muted="#9aa4af",
    grid="#2b323b",
    paper="#0f1318",
    modes=("#5cb8f0", "#ff8b3d", "#2fc79a", "#e08cc8"),
    quantization="#3d8fc4",
    conversion="#ff9a52",
    limit="#e6b422",
)


def mode_name(mode: str) -> str:
    """A mode as people write it."""
    return _MODE_NAMES.get(mode, mode)


def chart(rows: Sequence[Spec]) -> Any:
    """A chart of rows that are part of the specification."""
    import altair as alt

    return alt.Chart(alt.InlineData(values=list(rows)))


def haloed(palette: Palette, points: int = TEXT) -> tuple[Spec, Spec]:
    """Text that stays legible on lines: its outline in the paper's colour, and itself."""
    outline = {"stroke": palette.paper, "strokeWidth": 3, "strokeJoin": "round", "color": palette.paper}
    return {"fontSize": points, **outline}, {"fontSize": points, "color": palette.ink}


def looks_of(known: Sequence[str], palette: Palette) -> dict[str, Any]:
    """Colour, shape and dash of modes, with one legend."""
    import altair as alt

    names = [mode_name(mode) if mode else "float" for mode in known]
    order = ("linear", "symmetric", "kmeans")
    slots = [order.index(mode) if mode in order else 3 for mode in known]
    colours = [palette.modes[slot] if mode else palette.ink for mode, slot in zip(known, slots, strict=True)]
    return {
        "color": alt.Color("mode:N", title=None, scale=alt.Scale(domain=names, range=colours), legend=legend()),
        "shape": alt.Shape(
            "mode:N", title=None, scale=alt.Scale(domain=names, range=[_SHAPES[s] for s in slots]), legend=legend()
        ),
        "dash": alt.StrokeDash(
            "mode:N", title=None, scale=alt.Scale(domain=names, range=[_DASHES[s] for s in slots]), legend=None
        ),
    }


def legend(**more: Any) -> Any:
    """A legend above the plot, in one line."""
    import altair as alt

    return alt.Legend(
        orient="top",
        direction="horizontal",
        symbolSize=70,
        columnPadding=16,
        symbolStrokeWidth=0,
        symbolOpacity=1,
        **more,
    )


def whole(chart: Any, palette: Palette, title: str) -> Spec:
    """A chart as a specification in the palette's colours."""
    import altair as alt

    if title:
        head, _, rest = title.partition("\n")
        chart = chart.properties(title=alt.TitleParams(head, subtitle=rest.split("\n") if rest else []))
    chart = chart.configure(
        background=palette.paper, font="sans-serif", padding=8,
        axis=alt.AxisConfig(
            labelColor=palette.muted, titleColor=palette.ink, gridColor=palette.grid, domainColor=palette.muted,
            tickColor=palette.muted, labelFontSize=TEXT, titleFontSize=TEXT, titleFontWeight="normal",
        ),
        legend=alt.LegendConfig(
            labelColor=palette.ink, titleColor=palette.ink, labelFontSize=12,
        ),
        title=alt.TitleConfig(
            color=palette.ink, subtitleColor=palette.muted, anchor="start", fontSize=14, subtitleFontSize=11,
        ),
        view=alt.ViewConfig(stroke=None),
    )  # fmt: skip
    spec: Spec = chart.to_dict(validate=False)  # which takes as long as all the rest; a test validates
    return spec
