"""An audit as text: the columns of its table, what is no weight, and the verdict."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobconv.backends.size_audit import Audit, TensorAudit, verdict

_WIDE = 150  # columns of a terminal that parameters by kind and the encoding take
_LEAST, _MOST = 10, 40  # of a name
_GAP = 2  # between columns
_SUFFIXES = re.compile(r"(_to_fp16|_palettized|_quantized|_sparsified)+$")


@dataclass(frozen=True)
class Column:
    """A heading, what it shows of a tensor and below all of them.

    figure  set to the right
    extra   only where the line is wide enough
    """

    title: str
    show: Callable[[TensorAudit], str]
    total: Callable[[Sequence[TensorAudit]], str] = lambda tensors: ""
    figure: bool = True
    extra: bool = False


def _summed(title: str, count: Callable[[TensorAudit], int], extra: bool = False) -> Column:
    return Column(title, lambda t: f"{count(t):,}", lambda tensors: f"{sum(map(count, tensors)):,}", extra=extra)


def _parameters(tensor: TensorAudit) -> int:
    return tensor.table_bytes + tensor.scale_bytes + tensor.zero_point_bytes


def columns(audit: Audit, wide: bool) -> list[Column]:
    """What the table shows; parameters by kind where there is room for it."""
    notes = remarks(audit)
    found = [
        Column("tensor", lambda t: t.name, lambda ts: f"{len(ts)} tensors", figure=False),
        Column("of a", lambda t: t.op, figure=False),
        _summed("weights", lambda t: t.weights),
        Column("bits", lambda t: f"{t.stored:g}" + ("*" if t.wider else "")),
        Column("eff.\nbits", lambda t: f"{t.effective_bits:.2f}", lambda ts: f"{effective_bits(ts):.2f}"),
        _summed("bytes", lambda t: t.bytes),
        _summed("codes", lambda t: t.code_bytes, extra=True),
    ]
    if wide:
        found += [
            _summed("table", lambda t: t.table_bytes),
            _summed("scales", lambda t: t.scale_bytes),
            _summed("zero p.", lambda t: t.zero_point_bytes),
        ]
    else:
        found.append(_summed("params", _parameters))
    found += [
        _summed("other", lambda t: t.other_bytes),
        Column("stored as", lambda t: t.encoding, figure=False, extra=True),
    ]
    if notes:
        found.append(Column("why", lambda t: f"[{notes.index(t.reason) + 1}]" if t.reason else ""))
    return [column for column in found if wide or not column.extra]


def shortened(name: str, room: int) -> str:
    """A name without what tools hang on it, and of a long one the end, where layers differ."""
    name = _SUFFIXES.sub("", name)
    return name if len(name) <= room else "…" + name[1 - room :]


def table(audit: Audit, width: int) -> tuple[list[Column], list[list[str]], list[str]]:
    """Columns, rows and totals for a line of `width`; names take what the figures leave."""
    found = columns(audit, wide=width >= _WIDE)
    rows = [[column.show(tensor) for column in found] for tensor in ordered(audit)]
    totals = [column.total(audit.tensors) for column in found]
    titles = [max(column.title.split("\n"), key=len) for column in found]
    taken = sum(max(map(len, held)) + _GAP for held in list(zip(*rows, totals, titles, strict=True))[1:])
    for row in rows:
        row[0] = shortened(row[0], min(max(width - taken, _LEAST), _MOST))
    return found, rows, totals


def effective_bits(tensors: Sequence[TensorAudit]) -> float:
    """All bytes of these tensors, in bits a weight."""
    weights = sum(tensor.weights for tensor in tensors)
    return 8 * sum(tensor.bytes for tensor in tensors) / weights if weights else 0.0


def ordered(audit: Audit) -> list[TensorAudit]:
    """The largest first."""
    return sorted(audit.tensors, key=lambda tensor: -tensor.bytes)


def remarks(audit: Audit) -> list[str]:
    """Each reason once, in the order of the table."""
    return list(dict.fromkeys(tensor.reason for tensor in ordered(audit) if tensor.reason))


def rest(audit: Audit) -> list[tuple[str, str, str]]:
    """(what, bytes, share of the file) of the weights, of everything else, and of the file."""
    lines = [("weights", audit.weight_bytes), *audit.rest, ("size on disk", audit.file_bytes)]
    return [(what, f"{count:,}", f"{100 * count / audit.file_bytes:.1f} %") for what, count in lines]


def as_json(audit: Audit) -> dict[str, Any]:
    """Everything in the audit, for `--json`."""
    return {
        "format": audit.format,
        "file_bytes": audit.file_bytes,
        "weights": audit.weights,
        "weight_bytes": audit.weight_bytes,
        "effective_bits": effective_bits(audit.tensors),
        "verdict": verdict(audit),
        "notes": list(audit.notes),
        "tensors": [
            {**asdict(tensor), "bytes": tensor.bytes, "effective_bits": tensor.effective_bits}
            for tensor in ordered(audit)
        ],
        "rest": [{"what": what, "bytes": count} for what, count in audit.rest],
    }
