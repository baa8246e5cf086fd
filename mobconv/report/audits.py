"""A size audit as text: the columns of its table, the bytes that are not of weights, and JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobconv.backends.size_audit import Audit, TensorAudit, verdict

_WIDE = 150  # characters of a line with room for parameters by kind and the encoding
_LEAST, _MOST = 10, 40  # characters of a name
_GAP = 2  # between columns
_SUFFIXES = re.compile(r"(_to_fp16|_palettized|_quantized|_sparsified)+$")


@dataclass(frozen=True)
class TensorColumn:
    """A column of the table of tensors.

    show    text of a tensor; total: text below all of them
    figure  whether it is a number, which is set to the right
    extra   whether only a wide terminal shows it
    """

    title: str
    show: Callable[[TensorAudit], str]
    total: Callable[[Sequence[TensorAudit]], str] = lambda tensors: ""
    figure: bool = True
    extra: bool = False


def _summed(title: str, count: Callable[[TensorAudit], int], extra: bool = False) -> TensorColumn:
    return TensorColumn(title, lambda t: f"{count(t):,}", lambda tensors: f"{sum(map(count, tensors)):,}", extra=extra)


def _parameters(tensor: TensorAudit) -> int:
    return tensor.table_bytes + tensor.scale_bytes + tensor.zero_point_bytes


def columns(audit: Audit, wide: bool) -> list[TensorColumn]:
    """The columns of the table; with parameters by kind where the line is wide."""
    notes = remarks(audit)
    every = [
        TensorColumn("tensor", lambda t: t.name, lambda ts: f"{len(ts)} tensors", figure=False),
        TensorColumn("of a", lambda t: t.op, figure=False),
        _summed("weights", lambda t: t.weights),
        TensorColumn("bits", lambda t: f"{t.stored:g}" + ("*" if t.wider else "")),
        TensorColumn("disk\nbits", lambda t: f"{t.disk_bits:.2f}", lambda ts: f"{disk_bits(ts):.2f}"),
        _summed("bytes", lambda t: t.bytes),
        _summed("codes", lambda t: t.code_bytes, extra=True),
    ]
    if wide:
        every += [
            _summed("table", lambda t: t.table_bytes),
            _summed("scales", lambda t: t.scale_bytes),
            _summed("zero p.", lambda t: t.zero_point_bytes),
        ]
    else:
        every.append(_summed("params", _parameters))
    every += [
        _summed("other", lambda t: t.other_bytes),
        TensorColumn("stored as", lambda t: t.encoding, figure=False, extra=True),
    ]
    if notes:
        every.append(TensorColumn("why", lambda t: f"[{notes.index(t.reason) + 1}]" if t.reason else ""))
    return [column for column in every if wide or not column.extra]


def shortened(name: str, room: int) -> str:
    """A name without the suffixes of tools, and of a long one the end, where layers differ."""
    name = _SUFFIXES.sub("", name)
    return name if len(name) <= room else "…" + name[1 - room :]


def table(audit: Audit, width: int) -> tuple[list[TensorColumn], list[list[str]], list[str]]:
    """Columns, rows and totals for a line of `width` characters; names are cut to the room beside the figures."""
    shown = columns(audit, wide=width >= _WIDE)
    rows = [[column.show(tensor) for column in shown] for tensor in ordered(audit)]
    totals = [column.total(audit.tensors) for column in shown]
    titles = [max(column.title.split("\n"), key=len) for column in shown]
    figures = sum(max(map(len, texts)) + _GAP for texts in list(zip(*rows, totals, titles, strict=True))[1:])
    for row in rows:
        row[0] = shortened(row[0], min(max(width - figures, _LEAST), _MOST))
    return shown, rows, totals


def disk_bits(tensors: Sequence[TensorAudit]) -> float:
    """All bytes of these tensors in bits, over their weights."""
    weights = sum(tensor.weights for tensor in tensors)
    return 8 * sum(tensor.bytes for tensor in tensors) / weights if weights else 0.0


def ordered(audit: Audit) -> list[TensorAudit]:
    """The largest first."""
    return sorted(audit.tensors, key=lambda tensor: -tensor.bytes)


def remarks(audit: Audit) -> list[str]:
    """Each reason once, in the order of the table."""
    return list(dict.fromkeys(tensor.reason for tensor in ordered(audit) if tensor.reason))


def rest(audit: Audit) -> list[tuple[str, str, str]]:
    """(part, bytes, share of the file) of the weights, of every other part, and of the file."""
    lines = [("weights", audit.weight_bytes), *audit.rest, ("size on disk", audit.file_bytes)]
    return [(part, f"{count:,}", f"{100 * count / audit.file_bytes:.1f} %") for part, count in lines]


def as_json(audit: Audit) -> dict[str, Any]:
    """Everything in the audit, for `--json`."""
    return {
        "format": audit.format,
        "file_bytes": audit.file_bytes,
        "weights": audit.weights,
        "weight_bytes": audit.weight_bytes,
        "disk_bits": disk_bits(audit.tensors),
        "effective_bits": audit.effective_bits,
        "verdict": verdict(audit),
        "notes": list(audit.notes),
        "tensors": [
            {**asdict(tensor), "bytes": tensor.bytes, "disk_bits": tensor.disk_bits} for tensor in ordered(audit)
        ],
        "rest": [{"what": part, "bytes": count} for part, count in audit.rest],
    }
