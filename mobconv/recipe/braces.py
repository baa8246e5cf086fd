"""Braces in names of schemes and in globs, as a shell expands them."""

from __future__ import annotations

import re


def expand(text: str) -> list[str]:
    """Expand braces: ``w{8..6}-{linear,kmeans}`` becomes six names. Braces within braces are not supported."""
    braces = re.search(r"\{([^{}]*)\}", text)
    if braces is None:
        return [text]
    inner = braces[1]
    span = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if span:
        first, last = int(span[1]), int(span[2])
        step = 1 if last >= first else -1
        choices = [str(number) for number in range(first, last + step, step)]
    else:
        choices = inner.split(",")
    before, after = text[: braces.start()], text[braces.end() :]
    return [name for choice in choices for name in expand(before + choice + after)]
