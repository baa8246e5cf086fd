"""Class names of data and labels of a network: samples get the number of the output that has their class's name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mobconv.data.labelled import Images
from mobconv.errors import InputError, setting


def match(data: Images, labels: Sequence[str], outputs: int | None, network: str) -> tuple[Images, str]:
    """Give samples the number of the output of their class; return the data and a doubt, '' for none.

    labels: of the network, empty where unknown; outputs: their number, None where outputs are not classes. Names are
    compared without case, blanks and punctuation: the data may have some of the classes, in any order. Where no name is
    a label, the classes keep their order: with a doubt, since folders may be named by numbers or by WordNet's. Raises
    InputError where only some names are labels, or none is and the numbers of classes differ.
    """
    if not data.names or outputs is None:
        return data, ""
    if not labels:
        return _by_number(data, outputs)
    ours, theirs = _plain(labels), _plain(data.names)
    if theirs == ours[: len(theirs)]:
        return data, ""
    missing = [str(data.names[number]) for number, name in enumerate(theirs) if name not in ours]
    distinct = len({*ours}) == len(ours) and len({*theirs}) == len(theirs)
    if distinct and not missing:
        return _renumbered(data, [ours.index(name) for name in theirs], outputs, "their names")
    if not {*ours} & {*theirs}:
        if len(ours) != len(theirs) and _numbers(data.names, outputs) is not None:
            return _by_number(data, outputs)
        number = next(i for i, name in enumerate(theirs) if i >= len(ours) or ours[i] != name)
        if len(ours) == len(theirs):
            return data, (
                f"{data.source}: class {number} is {data.names[number]!r}, and output {number} of {network} is "
                f"{labels[number]!r}: if these are not names of the same classes, accuracy on this data means nothing"
            )
    names = ", ".join(map(repr, missing[:4])) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
    raise InputError(
        f"{data.source}: the labels are of other classes: {names or 'names that are equal'} of the data's "
        f"{len(theirs)} classes are missing among the labels of {network}, {labels[0]!r} to {labels[-1]!r}. Accuracy "
        f"on this data would mean nothing; rename the classes, or say {setting('labels')} with the names of the outputs"
    )


def _plain(names: Sequence[str]) -> list[str]:
    """Names without case, blanks and punctuation."""
    return [re.sub(r"[\W_]+", "", str(name)).casefold() for name in names]


def _numbers(names: Sequence[str], outputs: int) -> list[int] | None:
    """Names as numbers of outputs; None where they are names."""
    if not all(name.isascii() and name.isdecimal() for name in names):
        return None
    numbers = [int(name) for name in names]
    return numbers if len({*numbers}) == len(numbers) and max(numbers) < outputs else None


def _by_number(data: Images, outputs: int) -> tuple[Images, str]:
    """Classes of a network without labels: by number where they are some of its numbers, else in their order."""
    if len(data.names) > outputs:
        return data, ""
    if len(data.names) == outputs:
        if all(str(name).isdecimal() for name in data.names):
            return data, ""
        shown = ", ".join(map(str, data.names[:3])) + (f" ... {data.names[-1]}" if outputs > 3 else "")
        note = (
            f"the network's outputs have no names: they are taken for the data's classes in its order, {shown}. Where "
            f"the network has another order, say {setting('labels')}"
        )
        return replace(data, notes=(*data.notes, note)), ""
    numbers = _numbers(data.names, outputs)
    if numbers is not None:
        return _renumbered(data, numbers, outputs, "their numbers")
    return data, (
        f"{data.source} has {len(data.names)} classes and the network {outputs} outputs without names: they are taken "
        f"for the first ones, in order. Say {setting('labels')} with the names of the outputs"
    )


def _renumbered(data: Images, numbers: Sequence[int], outputs: int, by: str) -> tuple[Images, str]:
    if list(numbers) == list(range(len(numbers))):
        return data, ""
    wrong = data.labels >= len(numbers)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(f"{data.source}: row {row} has label {data.labels[row]}, and there are {len(numbers)} names")
    note = f"the data's {len(numbers)} classes are found among the network's {outputs} by {by}"
    labels = np.asarray(numbers, np.int64)[data.labels]
    return replace(data, labels=labels, notes=(*data.notes, note)), ""
