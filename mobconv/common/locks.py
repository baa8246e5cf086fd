"""One process at a time in an output folder: a lock that the kernel releases when its process ends."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mobconv.common import files
from mobconv.errors import LockedError, setting

NAME = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
# byte-range locks of Windows keep others from reading the range: this byte is past the file's content
_FAR = 1 << 30


@contextlib.contextmanager
def folder(path: Path, what: str) -> Iterator[None]:
    """Lock an existing folder while the block runs; what: the command, for the messages of other processes.

    Raises LockedError at once where another process has locked it: a second sweep into one folder is a mistake more
    often than a plan, and a job that waits looks like one that hangs. The kernel releases the lock of a process that
    was killed.
    """
    with files.output_errors(path / NAME):
        stream = _acquire(path, what)
    try:
        yield
    finally:
        # while it is still locked: a process that waits sees that the name is gone, and starts over
        with contextlib.suppress(OSError):
            (path / NAME).unlink()
        stream.close()


@contextlib.contextmanager
def moment(path: Path) -> Iterator[None]:
    """Lock a file for a moment, after other processes that lock it for a moment."""
    with files.output_errors(path), path.open("a+b") as stream:
        while not _lock(stream, wait=True):
            time.sleep(0.01)
        yield


def _acquire(path: Path, what: str) -> IO[bytes]:
    while True:
        # closed by `folder`, or below
        stream = (path / NAME).open("a+b")
        try:
            if not _lock(stream, wait=False):
                raise LockedError(
                    f"{path} is in use by {_owner(path)}. Wait until it has ended, or choose another folder "
                    f"({setting('out')})"
                )
            if _same(stream, path / NAME):
                stream.truncate(0)
                owner = {"what": what, "pid": os.getpid(), "host": socket.gethostname()}
                stream.write(json.dumps(owner).encode())
                stream.flush()
                return stream
        except BaseException:
            stream.close()
            raise
        stream.close()  # the process before us removed the name between our opening and locking


def _same(stream: IO[bytes], path: Path) -> bool:
    """Whether a name still leads to an open file."""
    if sys.platform == "win32":
        return True  # an open file cannot be removed there
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    try:
        owner = json.loads((path / NAME).read_text())
        here = "" if owner["host"] == socket.gethostname() else f" on {owner['host']}"
        return f"{owner['what']}, process {owner['pid']}{here}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _lock(stream: IO[bytes], wait: bool) -> bool:
    """Lock an open file for this process alone; False where another has locked it, and waiting is not possible."""
    try:
        if sys.platform == "win32":
            import msvcrt

            stream.seek(_FAR)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True
