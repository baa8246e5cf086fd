"""Draw specifications with vl-convert: SVG and PNG files, and SVG as a part of a page."""

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
    """Raise BackendError where one of these modules of the extra `report` is not installed."""
    from importlib.util import find_spec

    absent = [NEEDS[name] for name in modules or NEEDS if find_spec(name) is None]
    if absent:
        verb = "are" if len(absent) > 1 else "is"
        raise BackendError(
            f'a report needs {" and ".join(absent)}, which {verb} not installed: pip install "mobconv[report]"'
        )


def svg(spec: dict[str, Any]) -> str:
    """Draw a specification; returns the text of an SVG file."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(spec, vl_version=_version(spec)))


def png(drawn: str, scale: float = 2.0) -> bytes:
    """Draw an SVG as a PNG, with `scale` pixels for each of its own."""
    import vl_convert

    return bytes(vl_convert.svg_to_png(drawn, scale=scale))


def _version(spec: dict[str, Any]) -> str:
    """Vega-Lite's version that a specification is written for, as vl-convert calls it: 6.4."""
    version = re.search(r"/v(\d+\.\d+)", str(spec["$schema"]))
    assert version is not None
    return version[1]


def inline(drawn: str, label: str) -> str:
    """An SVG as a part of a page: one image with a label, without fonts and background.

    Only shapes, text and their looks are kept. A mark's text for a pointer goes to `data-tip`.
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
    """The element with its visible parts; None where it has none."""
    tag = node.tag.removeprefix(f"{{{_SVG}}}")
    if tag not in _TAGS or node.get("display") == "none" or (tag == "path" and not node.get("d")):
        return None
    attributes = {name: node.attrib[name] for name in _ATTRIBUTES if name in node.attrib}
    for name, usual in (("opacity", "1"), ("transform", "translate(0,0)")):
        if attributes.get(name) == usual:
            del attributes[name]
    if tag == "path" and "fill" not in attributes and "stroke" not in attributes:
        return None  # backgrounds of groups
    kept = ET.Element(node.tag, attributes)
    label = node.get("aria-label")
    if label and not _NO_MARK.search(node.get("aria-roledescription", "")) and tag == "path":
        kept.set("data-tip", label)
    kept.text = node.text
    children = [child for child in map(_kept, node) if child is not None]
    if tag == "g" and not children:
        return None
    kept.extend(children)
    return kept
