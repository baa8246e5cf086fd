"""Numbers as text for people."""

from __future__ import annotations


def plural(count: int, word: str) -> str:
    """A count with its noun: '1 cell', '2,000 cells'."""
    return f"{count:,} {word}{'s' * (count != 1)}"


def size(count: int | None) -> str:
    """Bytes in units of 1000: '1.30 MB'; '-' for None."""
    if count is None:
        return "-"
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"
