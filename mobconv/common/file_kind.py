"""Kind of a file by its content: zip, pickle; or text, a web page, a pointer of Git LFS in place of binary data."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path

from mobconv.errors import InputError

_HEAD = 4096  # bytes that show the kind of a file
_LFS = b"version https://git-lfs.github.com/spec"  # git-lfs, docs/spec.md: the first line of every pointer
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<?xml")
_SPACES = "\t\n\r\f\ufeff"
_ZIP = b"PK"


def head(path: Path) -> bytes:
    """Read the first 4096 bytes of a file; none of one that is missing, a folder or unreadable."""
    try:
        with path.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError:
        return b""


def zip_members(path: Path) -> frozenset[str]:
    """List the files in a zip below its top folder, where torch.save and its kind put everything.

    Empty for any other file, also for a zip that is cut short.
    """
    if not head(path).startswith(_ZIP):
        return frozenset()
    try:
        with zipfile.ZipFile(path) as archive:
            return frozenset(name.partition("/")[2] for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return frozenset()


def is_pickle(path: Path) -> bool:
    """Whether a file is a bare pickle, by its opcodes; nothing is unpickled."""
    start = head(path)
    if len(start) > 1 and start[0] == 0x80 and 2 <= start[1] <= 5:  # the opcode PROTO, of protocols 2 to 5
        return True
    try:
        with path.open("rb") as stream:  # protocols 0 and 1 begin with any opcode
            return sum(1 for _ in pickletools.genops(stream)) > 1
    except Exception:  # the parser raises dozens of types
        return False


def read(path: Path, wanted: str) -> bytes:
    """Read a file. Raises InputError for one that is missing, a folder, unreadable or empty; wanted: see `refuse`."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; a {wanted} is one file")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not content:
        raise InputError(f"{path} is empty")
    return content


def refuse(path: Path, wanted: str) -> None:
    """Raise InputError where a binary file is expected and this one is text, with its kind and what to do.

    wanted: what was expected, such as 'checkpoint'.
    """
    start = head(path)
    if start.startswith(_LFS):
        raise InputError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` in its repository")
    if start.lstrip().lower().startswith(_PAGES):
        raise InputError(
            f"{path} is a web page, not the file itself, as a download that needs a login or has moved leaves it: "
            "download it again"
        )
    if text := _text(start):
        line = next(line for line in text.splitlines() if line.strip()).strip()
        begins = line if len(line) <= 40 else f"{line[:40]}..."
        raise InputError(
            f"{path} is a text file (it begins with {begins!r}), not a {wanted}: name another file, or download it "
            "again"
        )


def refuse_broken_zip(path: Path) -> None:
    """Raise InputError for a file that begins as a zip and is cut short or damaged."""
    if not head(path).startswith(_ZIP):
        return
    try:
        zipfile.ZipFile(path).close()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InputError(f"{path}: truncated or damaged ({error}); copy or download it again") from error


def _text(start: bytes) -> str:
    """The start of a file as text; '' where it is binary, or blank."""
    try:
        text = start.decode()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # else the end of `start` cuts a letter
            return ""
        text = start[: error.start].decode()
    return text if text.strip() and all(letter.isprintable() or letter in _SPACES for letter in text) else ""
