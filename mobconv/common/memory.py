"""Keep freed memory in the process, by options of glibc's allocator.

PyTorch allocates memory for the result of every operation. By default much of the freed memory goes back to the system,
and all of it under Dask, which sets MALLOC_TRIM_THRESHOLD_=65536 for its workers. The system clears each page before it
gives it out again: a sweep of a small network spends a fifth of its time on that, and PyTorch under Dask takes three
times as long.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# mallopt(3); 32 MB is the most that glibc takes for M_MMAP_THRESHOLD
_TRIM, _MMAP = -1, -3
_KEPT = {_MMAP: 32 << 20, _TRIM: 64 << 20}
_DEFAULT = {_MMAP: 128 << 10, _TRIM: 128 << 10}


def keep_freed() -> None:
    """Keep up to 64 MB of freed memory for the next operation. Does nothing where the allocator is not glibc's."""
    library = _glibc()
    if library is not None:
        _set(library.mallopt, _KEPT)


@contextmanager
def freed_is_kept() -> Iterator[None]:
    """Keep freed memory during a block, in a process of another program; its own settings apply again afterwards."""
    library = _glibc()
    if library is None:
        yield
        return
    before = dict(_DEFAULT)
    for option, name in ((_MMAP, "MALLOC_MMAP_THRESHOLD_"), (_TRIM, "MALLOC_TRIM_THRESHOLD_")):
        value = os.environ.get(name, "")
        if value.isdigit():
            before[option] = int(value)
    _set(library.mallopt, _KEPT)
    try:
        yield
    finally:
        _set(library.mallopt, before)
        library.malloc_trim(0)


def _set(mallopt: Callable[[int, int], int], values: dict[int, int]) -> None:
    for option, value in values.items():
        mallopt(option, value)


def _glibc() -> Any:
    """The C library; None where it has no such options (macOS, Windows, musl)."""
    if sys.platform != "linux":
        return None
    import ctypes

    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
