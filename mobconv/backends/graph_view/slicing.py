"""Cutting a graph between fed and fetched tensors, and running files of a fixed batch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import BackendError, InputError

Edges = tuple[Sequence[str], Sequence[str]]  # inputs and outputs of a node
Arrays = Mapping[str, NDArray[Any]]


def needed(
    nodes: Sequence[Edges], feeds: Collection[str], fetch: Iterable[str], constants: Collection[str]
) -> list[int]:
    """Positions of the nodes that compute the tensors `fetch` from `feeds` and constants, in order.

    A tensor that is fetched is computed even if it is fed too. Raises BackendError naming inputs that are missing.
    """
    producer = producers(nodes)
    wanted: set[int] = set()
    missing: set[str] = set()
    todo = list(fetch)
    direct = set(todo)
    while todo:
        name = todo.pop()
        if name in feeds and name not in direct:
            continue
        direct.discard(name)
        position = producer.get(name)
        if position is None:
            if name and name not in constants and name not in feeds:
                missing.add(name)
        elif position not in wanted:
            wanted.add(position)
            todo += [name for name in nodes[position][0] if name not in feeds]
    if missing:
        raise BackendError(f"the file cannot be cut there: {', '.join(sorted(missing))} is needed as an input as well")
    return sorted(wanted)


def producers(nodes: Sequence[Edges]) -> dict[str, int]:
    """Tensor -> position of the node that computes it."""
    return {name: position for position, (_, outputs) in enumerate(nodes) for name in outputs if name}


def fixed(nodes: Sequence[Edges], constants: Collection[str]) -> set[str]:
    """Tensors that depend on no input: constants, and all that is computed from them alone."""
    known = set(constants)
    for inputs, outputs in nodes:
        if all(name in known for name in inputs if name):
            known.update(outputs)
    return known


def in_batches(feeds: Arrays, lengths: Mapping[str, int], once: Callable[[Arrays], dict[str, Any]]) -> dict[str, Any]:
    """Run a file of a fixed batch as often as the samples need.

    lengths: of each fed tensor's first axis in one run, -1 for any; once: one run. The last run repeats its last sample
    where samples are missing. Results are joined along their first axis. Raises InputError where the fed tensors have
    different numbers of samples.
    """
    counts = {len(value) / lengths[name] for name, value in feeds.items() if lengths[name] > 0}
    if not counts or counts == {1.0}:
        return once(feeds)
    if len(counts) > 1 or not max(counts) > 0:
        raise InputError(f"the fed tensors have different numbers of samples: {sorted(counts)} batches")
    count = counts.pop()
    parts = []
    for start in range(int(np.ceil(count))):
        part = {}
        for name, value in feeds.items():
            length = lengths[name] if lengths[name] > 0 else round(len(value) / count)
            rows = np.minimum(np.arange(start * length, (start + 1) * length), len(value) - 1)
            part[name] = value[rows[0] : rows[-1] + 1] if rows[-1] - rows[0] + 1 == length else value[rows]
        parts.append(once(part))
    whole = {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}
    return {name: value[: round(len(value) * count / len(parts))] for name, value in whole.items()}
