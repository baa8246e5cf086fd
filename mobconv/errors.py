"""Every error that mobconv raises on purpose, and the exit code of each.

    MobconvError                1   (base; never raised itself)
    |- GateError                1   a budget is not met
    |- UsageError               2   a wrong option, recipe, scheme or cell name
    |- InputError               3   a file or data set that is missing, broken or of another shape
    |- BackendError             4   a backend is missing, or cannot do what was asked
    |- CellError                5   a cell failed where it should have worked
    |  `- AuditError            5   the parts of an audited file do not add up to its size: a mistake of ours
    `- OutputError              6   the disk is full or not writable
       `- LockedError           6   another process works in the output folder

0 is success (rows that say `unsupported` included), 1 a gate that was not met, 130 an
interruption (Ctrl-C), 143 a termination (SIGTERM); both clean up first. 141: the reader of the
output has closed it, as in `| head`.
A message says what was wrong, in which file or cell, and what to do next. Where a setting is wrong or missing, such
as the shape of the input, the message contains `setting("input_shape")`: it is shown as an option on the command
line, as a key in a recipe, and as a keyword argument in Python.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

Style = Literal["python", "cli", "recipe"]

# A setting within a message: name and value (JSON, '' for none) between two control characters, which JSON escapes.
_TOKEN = re.compile("\x02(\\w+)\x1f([^\x03]*)\x03")
# options whose name is not the setting's
_OPTIONS = {"arguments": "--model-arg", "out": "-o"}
# keys of recipes whose name is not the setting's
KEYS = {
    "calibrate": "calibration",
    "calibrate_images": "calibration.images",
    "calibrate_seed": "calibration.seed",
    "calibrate_split": "calibration.split",
    "allow_leak": "calibration.allow_leak",
}
# settings without a key in recipes: there, too, they are options of the command line
_STARTING = ("artifacts", "baseline", "compute", "example", "out", "scheme", "takes", "to", "trust_pickle")
_RUNNING = ("cluster", "jobs", "only", "plots")
OPTIONS_ONLY = frozenset((*_STARTING, *_RUNNING))
_PLAIN = re.compile(r"[A-Za-z_][\w./-]*(:[\w.]+)*")  # text that YAML reads as text without quotes
_WORDS = frozenset(("true", "false", "null", "yes", "no", "on", "off"))  # except these


def setting(name: str, value: Any = None) -> str:
    """Put a setting into a message of a MobconvError, with a value where there is one to show.

    name: as in Python and in recipes, such as "input_shape". value: anything that JSON can say; None for the name
    alone; True and False for a flag. `setting("input_shape", (1, 3, 224, 224))` becomes `--input-shape 1,3,224,224`,
    `` `input_shape: [1, 3, 224, 224]` `` or `input_shape=(1, 3, 224, 224)`.
    """
    return f"\x02{name}\x1f{'' if value is None else json.dumps(value)}\x03"


_NEGATED = {"higher_is_better": "--lower-is-better"}  # flags whose opposite has a name of its own
_LONGEST = 300  # characters of a vendor's message that are shown


def shortened(error: BaseException) -> str:
    """The first line with words of a vendor's error, cut: compilers append their whole program to it."""
    lines = [line.strip() for line in str(error).splitlines() if re.search(r"[A-Za-z]{3}", line)]
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= _LONGEST else line[:_LONGEST].rstrip() + " ..."


def worded(text: str, style: Style) -> str:
    """Replace the settings in a text by the words of a style."""
    return _TOKEN.sub(lambda token: _STYLES[style](token[1], json.loads(token[2]) if token[2] else None), text)


def _as_option(name: str, value: Any) -> str:
    if value is False and name in _NEGATED:
        return _NEGATED[name]
    option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
    if value is None or value is True:
        return option
    if value is False:
        return option.replace("--", "--no-", 1)
    if name == "arguments":
        return " ".join(f"{option} {_quoted(f'{key}={_bare(each)}')}" for key, each in value.items())
    return f"{option} {_quoted(','.join(map(str, value)) if isinstance(value, list) else _bare(value))}"


def _quoted(text: str) -> str:
    """Quote a text so that a shell reads it as one word."""
    import shlex

    return shlex.quote(text)


def _bare(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _as_key(name: str, value: Any) -> str:
    if name in OPTIONS_ONLY:
        return _as_option(name, value)
    if name == "calibrate" and isinstance(value, str):
        value = {"data": value}
    name = KEYS.get(name, name)
    return f"`{name}`" if value is None else f"`{name}: {_yaml(value)}`"


def _yaml(value: Any) -> str:
    """Write a value in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_yaml(key)}: {_yaml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_yaml, value))}]"
    plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return value if plain else json.dumps(value)


def _as_argument(name: str, value: Any) -> str:
    if value is None:
        return f"{name}="
    return f"{name}={tuple(value) if isinstance(value, list) else value!r}"


_STYLES = {"python": _as_argument, "cli": _as_option, "recipe": _as_key}


class MobconvError(Exception):
    """Base of all errors that are shown to people as one message, without a traceback."""

    exit_code = 1

    @property
    def text(self) -> str:
        """The message before `worded`, to become part of another error's message."""
        return super().__str__()

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings in the message, in order, each once."""
        return tuple(dict.fromkeys(token[1] for token in _TOKEN.finditer(self.text)))

    @property
    def setting(self) -> str | None:
        """The first of `settings`, or None."""
        return next(iter(self.settings), None)

    def message(self, style: Style = "python") -> str:
        """The message, its settings named as in Python, on the command line or in a recipe."""
        return worded(self.text, style)

    def __str__(self) -> str:
        return self.message()


class GateError(MobconvError):
    """A budget is not met."""


class UsageError(MobconvError):
    """The command line, the recipe or the budget asks for something that does not exist."""

    exit_code = 2


class InputError(MobconvError):
    """A checkpoint, artifact or data set is missing, damaged or of another kind."""

    exit_code = 3


class BackendError(MobconvError):
    """A backend is not installed, or cannot store or run the cell."""

    exit_code = 4


class CellError(MobconvError):
    """One cell failed."""

    exit_code = 5


class AuditError(CellError):
    """The parts that an audit counted in a file do not add up to its size."""


class OutputError(MobconvError):
    """Nothing more can be written: the disk is full, or the folder is not writable."""

    exit_code = 6


class LockedError(OutputError):
    """Another sweep or export works in the output folder."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the nearest known word, or '' when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {str(near[0])!r}?)" if near else ""
