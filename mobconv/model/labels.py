"""Labels: names of a network's classes, from a file or the user, checked against its outputs.

Core ML turns scores into a dictionary by label, and Android's libraries read one label a line: two equal labels, or
fewer labels than outputs, give an app wrong names for right scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobconv.errors import InputError, setting

NONE = "none"  # as a file of labels: no labels, whatever checkpoint and data say
_MOST = 1 << 24  # bytes of a file


def read(source: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Labels in the order of the outputs, from a file, a list, or `none`.

    A file has one label a line, or is JSON: a list, an object of labels by their numbers (`id2label`), or an object
    with such an `id2label`. Raises InputError for a file that is missing or nothing of that, and for equal or empty
    labels.
    """
    if not isinstance(source, str | Path):
        labels, where = tuple(map(str, source)), "labels"
    elif str(source) == NONE:
        return ()
    else:
        labels, where = _from_file(Path(source)), str(source)
        if not labels:
            raise InputError(f"{where}: no labels in it: one a line, in the order of the outputs")
    check(labels, where)
    return labels


def check(labels: Sequence[str], where: str) -> None:
    """Raise InputError for two equal labels, and for one that is empty or of several lines."""
    first: dict[str, int] = {}
    for number, label in enumerate(labels):
        if not label.strip() or len(label.splitlines()) != 1:
            raise InputError(f"{where}: label {number} is {label!r}; a label is one line of text")
        if label in first:
            raise InputError(
                f"{where}: outputs {first[label]} and {number} have the same label, {label!r}, and an app could not "
                f"tell them apart; say {setting('labels')} with a label for each, or {setting('labels', NONE)}"
            )
        first[label] = number


def check_number(labels: Sequence[str], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise InputError where a network has not one output a label.

    shapes: of its outputs, by name. Checked where the network has one output of a number for each class, (N, classes).
    """
    count = classes(shapes)
    if labels and count is not None and count != len(labels):
        raise InputError(
            f"{where}: {len(labels)} labels ({labels[0]!r} to {labels[-1]!r}), and the network has {count} outputs; "
            f"say {setting('labels')} with a label for each output, or {setting('labels', NONE)}"
        )


def classes(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Number of classes of a network whose only output is (N, classes); None for any other one."""
    if len(shapes) != 1:
        return None
    shape = next(iter(shapes.values()))
    return shape[1] if len(shape) == 2 and shape[1] > 0 else None


def _from_file(path: Path) -> tuple[str, ...]:
    try:
        if path.stat().st_size > _MOST:
            raise InputError(f"{path}: too large for a file of labels")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file of labels") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a file of labels: {error}") from error
    if path.suffix != ".json":
        return tuple(line.strip() for line in text.rstrip().splitlines())
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    return _from_json(content, path)


def _from_json(content: Any, path: Path) -> tuple[str, ...]:
    if isinstance(content, dict):
        content = content.get("id2label", content)
    if isinstance(content, dict):
        try:
            numbered = {int(number): label for number, label in content.items()}
        except ValueError:
            numbered = {}
        if sorted(numbered) != list(range(len(content))) or not content:
            raise InputError(f'{path}: a label for each number from 0 on, as {{"0": "cat", "1": "dog"}}')
        content = [numbered[number] for number in range(len(numbered))]
    if not isinstance(content, list) or not all(isinstance(label, str) for label in content):
        raise InputError(f"{path}: a list of labels, or an object of labels by their numbers")
    return tuple(content)
