"""Keeps vendors' output off the terminal, without losing the text of an error.

litert-torch prints progress, the converter and the interpreter log from C++ straight to file
descriptor 2, and torch warns of its own internals. Users of mobconv need none of that. Errors are
exceptions: they pass through, with the last line that was printed before them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator

# descriptors belong to the whole process: one block at a time
_LOCK = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send standard output and error, Python's and the process's, to a scratch file; ignore warnings.

    An exception gets the last printed line as a note (PEP 678), since TFLite often names the op there.
    """
    with _LOCK, tempfile.TemporaryFile() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.stdout.flush()
        sys.stderr.flush()
        saved = [(target, os.dup(target)) for target in (1, 2)]
        try:
            for target, _ in saved:
                os.dup2(scratch.fileno(), target)
            # sys.stdout is not always descriptor 1: notebooks and tests replace it
            with (
                os.fdopen(os.dup(scratch.fileno()), "w", errors="replace") as text,
                contextlib.redirect_stdout(text),
                contextlib.redirect_stderr(text),
            ):
                yield
        except Exception as error:
            scratch.seek(0)
            lines = scratch.read().decode(errors="replace").strip().splitlines()
            if lines:
                error.add_note(lines[-1].strip())
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for target, copy in saved:
                os.dup2(copy, target)
                os.close(copy)
