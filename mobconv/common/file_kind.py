"""Files that are not what their name says: pointers of Git LFS, web pages and text in place of weights or data."""

from __future__ import annotations

import pickletools
from pathlib import Path

from mobconv.errors import InputError

_HEAD = 4096  # bytes that tell
_LFS = b"version https://git-lfs.github.com/spec"  # git-lfs, docs/spec.md: the first line of every pointer
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml")
_SPACES = "\t\n\r\f\ufeff"


def refuse(path: Path, wanted: str, content: bytes | None = None) -> None:
    """Raise InputError where a binary file is expected and this one is text, saying of what kind and what to do.

    wanted: what was expected, 'checkpoint' for one; content: of the file, where it was read already; a text that is
    a pickle (of protocol 0) passes.
    """
    if content is None:
        with path.open("rb") as stream:
            content = stream.read(_HEAD)
    head = content[:_HEAD]
    if head.startswith(_LFS):
        raise InputError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` in its repository")
    if head.lstrip().lower().startswith(_PAGES):
        raise InputError(
            f"{path} is a web page, not the file itself, as a download that needs a login or has moved leaves it: "
            "download it again"
        )
    if (text := _text(head)) and not _pickled(content):
        line = next(line for line in text.splitlines() if line.strip()).strip()
        begins = line if len(line) <= 40 else f"{line[:40]}..."
        raise InputError(
            f"{path} is a text file (it begins with {begins!r}), no {wanted}: name another file, or download it again"
        )


def _text(head: bytes) -> str:
    """The start of a file as text; "" where it is none, or blank."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # else the end of `head` cuts a letter
            return ""
        text = head[: error.start].decode()
    return text if text.strip() and all(letter.isprintable() or letter in _SPACES for letter in text) else ""


def _pickled(content: bytes) -> bool:
    """Whether it is a whole pickle, which is not loaded for that."""
    try:
        return sum(1 for _ in pickletools.genops(content)) > 1
    except Exception:  # whatever a text leads to that is none
        return False
