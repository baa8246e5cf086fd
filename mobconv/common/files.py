"""Write files whole or not at all; a full disk is a message."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from mobconv.errors import OutputError, setting

# EFBIG: a limit on the size of files (ulimit -f), which is a disk that is full for this process
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# names that `aside` and the writers of folders give to unfinished paths
_PARTIAL = re.compile(r"\..+\.(\d+\.partial|partial-\d+|old-\d+)")
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG)


ELSEWHERE = f"choose another folder ({setting('out')})"


@contextlib.contextmanager
def output_errors(path: Path, instead: str = ELSEWHERE) -> Iterator[None]:
    """Turn 'disk full' and 'not writable' below this into OutputError; other errors pass. instead: what to do next."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise OutputError(f"{path}: the disk is full; free some space and run the same command again") from error
        if error.errno in (*_REFUSED, *_IN_THE_WAY) or _cannot_be_made(path, error):
            raise OutputError(f"{path}: cannot be written ({error.strerror}); {instead}") from error
        raise


def _cannot_be_made(path: Path, error: OSError) -> bool:
    """Whether the missing path is the one to be made or one of its folders, as below /proc."""
    if error.errno != errno.ENOENT or not isinstance(error.filename, str):
        return False
    missing = Path(error.filename)
    return missing == path or missing in path.parents or missing.name.startswith(f".{path.name}.")


def disk_full(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is a full disk."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in FULL:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def ensure_folder(path: Path, instead: str = ELSEWHERE) -> None:
    """Make a folder before the work begins, so that an obstacle is reported first. Raises OutputError."""
    with output_errors(path, instead):
        path.mkdir(parents=True, exist_ok=True)


@contextlib.contextmanager
def aside(path: Path, keep: bool = False, instead: str = ELSEWHERE) -> Iterator[Path]:
    """A path beside `path` to write to; renamed over it on success, removed on any failure.

    Works for files and folders: a file replaces a file, a folder a folder, and neither the other. keep: a folder that
    another process made in the meantime stays. Raises OutputError when the disk is full or not writable.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with output_errors(path, instead):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove(partial)
            yield partial
            if path.is_dir() and partial.is_dir():
                if keep:
                    return
                remove(path)
            partial.replace(path)
    finally:
        # the error that ended the block is the one to report, not a failure to remove its remains
        with contextlib.suppress(OSError):
            remove(partial)


def remove_partials(folder: Path) -> None:
    """Remove unfinished files of killed writers from a folder, which no process may be writing to."""
    if folder.is_dir():
        for entry in list(folder.iterdir()):
            if _PARTIAL.fullmatch(entry.name):
                with output_errors(entry):
                    remove(entry)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str, instead: str = ELSEWHERE) -> None:
    """Write a file aside, then rename. Raises OutputError when the disk is full or not writable."""
    with aside(path, instead=instead) as partial:
        partial.write_bytes(content if isinstance(content, bytes) else content.encode())


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size


def sha256(path: Path) -> str:
    """Hex digest of a file; of a folder, over names and contents of its files, sorted by name."""
    digest = hashlib.sha256()
    if not path.is_dir():
        digest.update(path.read_bytes())
        return digest.hexdigest()
    for entry in sorted(path.rglob("*")):
        if entry.is_file():
            name = entry.relative_to(path).as_posix().encode()
            content = entry.read_bytes()
            digest.update(len(name).to_bytes(8, "little") + name + len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
