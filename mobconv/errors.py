"""Every error that mobconv raises on purpose, and the exit code of each.

    MobconvError                1   (base; never raised itself)
    |- GateError                1   a budget is not met
    |- UsageError               2   a wrong option, recipe, scheme or cell name
    |- InputError               3   a file or data set that is missing, broken or of another shape
    |- BackendError             4   a backend is missing, or cannot do what was asked
    |- CellError                5   a cell failed where it should have worked
    |  `- AuditError            5   the parts of an audited file are not the whole: a mistake of ours
    `- OutputError              6   the disk is full or not writable
       `- LockedError           6   another process works in the output folder

0 is success (rows that say `unsupported` included), 1 a gate that was not met, 130 an
interruption (Ctrl-C), 143 a termination (SIGTERM); both clean up first. 141: whoever read the
output is gone, as in `| head`.
A message says what was wrong, in which file or cell, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MobconvError(Exception):
    """Base of all errors that are shown to people as one message, without a traceback."""

    exit_code = 1


class GateError(MobconvError):
    """Measured, and not good enough: a budget is not met."""


class UsageError(MobconvError):
    """The command line, the recipe or the budget asks for something that does not exist."""

    exit_code = 2


class InputError(MobconvError):
    """A checkpoint, artifact or data set cannot be read as what it should be."""

    exit_code = 3


class BackendError(MobconvError):
    """A backend is not installed, or what was asked is beyond it."""

    exit_code = 4


class CellError(MobconvError):
    """One cell failed."""

    exit_code = 5


class AuditError(CellError):
    """What an audit found in a file does not add up to its size."""


class OutputError(MobconvError):
    """Nothing more can be written: the disk is full, or the folder is not writable."""

    exit_code = 6


class LockedError(OutputError):
    """Another sweep or export works in the output folder."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the nearest known word, or '' when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {str(near[0])!r}?)" if near else ""
