"""Keeps the vendors' chatter off the terminal, without losing what an error had to say.

litert-torch prints progress, the converter and the interpreter log from C++ straight to file
descriptor 2, and torch warns of its own internals. None of it is for the user of mobconv. Errors are
exceptions and pass through, with the last thing that was printed before them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator

# descriptors belong to the whole process: one silence at a time
_LOCK = threading.RLock()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send standard output and error, Python's and the process's, to a scratch file; hush warnings.

    An exception gets the last line that was printed as a note (PEP 678), since TFLite often says
    there which op it stumbled on.
    """
    with _LOCK, tempfile.TemporaryFile() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.stdout.flush()
        sys.stderr.flush()
        saved = [(target, os.dup(target)) for target in (1, 2)]
        try:
            for target, _ in saved:
                os.dup2(scratch.fileno(), target)
            # sys.stdout need not be descriptor 1: a notebook or a test has put its own there
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
