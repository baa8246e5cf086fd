"""Specifications drawn by vl-convert: SVG and PNG files, and SVG that may stand in a page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

from mobconv.errors import BackendError

NEEDS = {"altair": "altair", "jinja2": "jinja2", "vl_convert": "vl-convert-python"}
_SVG = "http://www.w3.org/2000/svg"
_TAGS = ("svg", "g", "path", "line", "rect", "text", "tspan")
_ATTRIBUTES = (
    "d", "transform", "x", "y", "x2", "y2", "width", "height", "viewBox", "fill", "stroke", "stroke-width",
    "stroke-dasharray", "stroke-linejoin", "stroke-miterlimit", "fill-opacity", "text-anchor", "font-size",
    "font-weight", "opacity",
)  # fmt: skip
_NO_MARK = re.compile("axis|legend|title|group|container")


def require(*modules: str) -> None:
    """Raises BackendError where one of these modules of the extra `report` is not installed."""
    from importlib.util import find_spec

    absent = [NEEDS[name] for name in modules or NEEDS if find_spec(name) is None]
    if absent:
        verb = "are" if len(absent) > 1 else "is"
        raise BackendError(
            f'a report needs {" and ".join(absent)}, which {verb} not installed: pip install "mobconv[report]"'
        )


def svg(spec: dict[str, Any]) -> str:
    """The drawing as an SVG file's text."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(spec, vl_version=_version(spec)))


def png(drawn: str, scale: float = 2.0) -> bytes:
    """An SVG as a PNG, `scale` pixels for each of its own."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(drawn, scale=scale))


def _version(spec: dict[str, Any]) -> str:
    """Of Vega-Lite that it is written for, as vl-convert calls it: 6.4."""
    found = re.search(r"/v(\d+\.\d+)", str(spec["$schema"]))
    assert found is not None
    return found[1]


def inline(drawn: str, label: str) -> str:
    """An SVG as a part of a page: one image with a label, no fonts or colour of background of its own.

    Only shapes, text and their looks are kept. What a mark says for a pointer goes to `data-tip`.
    """
    ET.register_namespace("", _SVG)
    root = _kept(ET.fromstring(drawn))
    assert root is not None
    for child in list(root):  # the background
        if child.tag == f"{{{_SVG}}}rect":
            root.remove(child)
    root.set("class", "chart")
    root.set("role", "img")
    root.set("aria-label", label)
    return ET.tostring(root, encoding="unicode")


def _kept(node: ET.Element) -> ET.Element | None:
    """The element with what is shown of it; None where nothing is."""
    tag = node.tag.removeprefix(f"{{{_SVG}}}")
    if tag not in _TAGS or node.get("display") == "none" or (tag == "path" and not node.get("d")):
        return None
    held = {name: node.attrib[name] for name in _ATTRIBUTES if name in node.attrib}
    for name, usual in (("opacity", "1"), ("transform", "translate(0,0)")):
        if held.get(name) == usual:
            del held[name]
    if tag == "path" and "fill" not in held and "stroke" not in held:
        return None  # backgrounds of groups
    kept = ET.Element(node.tag, held)
    said = node.get("aria-label")
    if said and not _NO_MARK.search(node.get("aria-roledescription", "")) and tag == "path":
        kept.set("data-tip", said)
    kept.text = node.text
    children = [child for child in map(_kept, node) if child is not None]
    if tag == "g" and not children:
        return None
    kept.extend(children)
    return kept
