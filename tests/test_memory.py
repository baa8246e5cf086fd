"""Freed memory is kept for what comes next. glibc tells (mallinfo2) which blocks it has straight from the system."""

import os
import subprocess
import sys

import pytest

PROBE = """
import ctypes
from mobconv.common import memory

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Info
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def straight():
    before = library.mallinfo2().hblkhd
    block = library.malloc(16 << 20)
    found = library.mallinfo2().hblkhd - before >= 16 << 20
    library.free(block)
    return found

def kept():
    library.free(library.malloc(16 << 20))
    return library.mallinfo2().fordblks >= 16 << 20

print(straight())
with memory.freed_is_kept():
    print(straight(), kept())
print(straight(), kept())
memory.keep_freed()
print(straight(), kept())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
@pytest.mark.parametrize("environment", [{}, {"MALLOC_TRIM_THRESHOLD_": "65536"}])
def test_blocks_stay_with_the_process(environment):
    held = os.environ | environment
    done = subprocess.run([sys.executable, "-c", PROBE], env=held, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:4] == ["True", "False True", "True False", "False True"]
