"""Keys that are repeated in a YAML file: YAML itself takes the last of them in silence."""

from __future__ import annotations

from collections.abc import Iterator

import yaml


def repeated_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield a complaint for each repeated key of a mapping, with the lines of both."""
    lines: dict[str, int] = {}
    for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            yield f"{name}: given twice, in lines {lines[name]} and {line}"
        lines[name] = line


def all_repeated_keys(node: yaml.Node | None) -> Iterator[str]:
    """Yield a complaint for each repeated key of a node and of every node inside it."""
    yield from repeated_keys(node)
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            yield from all_repeated_keys(child[1] if isinstance(child, tuple) else child)
