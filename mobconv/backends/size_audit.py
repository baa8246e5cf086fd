"""Size audit: the bytes of each weight of an artifact on disk, and why it has more bits than were asked for.

A backend's `size_audit(path)` parses the file and returns an `Audit`; `judged` compares it with the bits asked for.
Every byte of the file belongs to a tensor or to a line of `rest`: an `Audit` that does not add up raises AuditError.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobconv.errors import AuditError, InputError, UsageError
from mobconv.schemes import Cell, Compute

OTHER = "other constants (biases, normalisation, shapes)"
SHARED = "decoding shared by several tensors"
PROGRAM = "program and metadata"
_MOST = 1 << 62  # weights of a tensor


@dataclass(frozen=True)
class TensorAudit:
    """One weight tensor of a file. Each byte is counted once: bytes that two tensors share are split between them.

    name      in the file
    weights   number of elements
    op        kind of op that reads it: conv, linear, matmul, embedding ...
    asked     bits of a weight that were asked for; None where that is not known
    stored    bits of a code on disk, divided by the weights that one code stands for; 32 or 16 for floats
    encoding  'float32', 'affine int8 per channel', 'lookup table 16 x float16' ...
    reason    why it is float, or wider than asked
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    op: str
    stored: float
    encoding: str
    code_bytes: int
    table_bytes: int = 0
    scale_bytes: int = 0
    zero_point_bytes: int = 0
    other_bytes: int = 0
    reason: str = ""
    asked: float | None = None

    @property
    def bytes(self) -> int:
        """Bytes of codes, parameters, padding, headers and of the ops that decode this tensor alone."""
        return self.code_bytes + self.table_bytes + self.scale_bytes + self.zero_point_bytes + self.other_bytes

    @property
    def disk_bits(self) -> float:
        """Bits of a weight on disk: all bytes of the tensor, without what several tensors share."""
        return 8 * self.bytes / self.weights if self.weights else 0.0

    @property
    def is_float(self) -> bool:
        """Whether it is stored as plain floats."""
        return "float" in self.encoding.split()[0] and "sparse" not in self.encoding

    @property
    def wider(self) -> bool:
        """Whether it is stored in more bits than were asked for."""
        return self.asked is not None and self.stored > self.asked


@dataclass(frozen=True)
class Added:
    """What quantized weights (of a float file: all weights) add to a file of ours.

    bytes    of the file without its record, less those of the same network with weights that take none: with what the
             weights share, and without what float ones have too, such as their names. `Encoded.weight_bytes` is this
    weights  their number
    """

    bytes: int
    weights: int


@dataclass(frozen=True)
class Audit:
    """An artifact with all its bytes accounted for.

    Raises AuditError when the parts do not add up to the file, InputError for shapes that no file can have.

    format           'ONNX', 'TFLite' ...
    file_bytes       on disk: of all files of a folder, and of external data
    rest             (description, bytes) of everything that is not a weight
    record           the text under `mobconv` in the file's metadata
    notes            further facts about the file
    default_compute  of the backend, to read the cell's name in the record
    added            what the weights add to a file of ours; None in other files, whose float network is not known
    """

    path: Path
    format: str
    file_bytes: int
    tensors: tuple[TensorAudit, ...]
    rest: tuple[tuple[str, int], ...]
    record: str = ""
    notes: tuple[str, ...] = ()
    default_compute: Compute = Compute.FP32
    added: Added | None = None

    def __post_init__(self) -> None:
        for tensor in self.tensors:
            if not 0 <= tensor.weights < _MOST:
                raise InputError(
                    f"{self.path}: {tensor.name} declares a shape that is too large for a file: it is damaged"
                )
        parts = [count for _, count in self.rest]
        for tensor in self.tensors:
            parts += [tensor.code_bytes, tensor.table_bytes, tensor.scale_bytes]
            parts += [tensor.zero_point_bytes, tensor.other_bytes]
        if sum(parts) != self.file_bytes or min(parts, default=0) < 0:
            raise AuditError(
                f"{self.path}: the audit's parts are {sum(parts):,} bytes, the smallest {min(parts, default=0):,}, and "
                f"the file has {self.file_bytes:,}: a mistake of mobconv, please report this file"
            )

    @property
    def weights(self) -> int:
        """Number of elements of all weight tensors."""
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weight tensors."""
        return sum(tensor.bytes for tensor in self.tensors)

    @property
    def effective_bits(self) -> float | None:
        """Bits that a weight adds to the file, as in the row of a sweep or export; None where that is not known."""
        return round(8 * self.added.bytes / self.added.weights, 4) if self.added and self.added.weights else None


def cell_of(audit: Audit) -> Cell | None:
    """The cell in the file's record; None without a record, and in a file that another tool has quantized since.

    Raises InputError for a damaged record.
    """
    name = record_of(audit.record, audit.path).get("cell")
    try:
        cell = Cell.parse(name, audit.default_compute) if isinstance(name, str) else None
    except UsageError:  # a later mobconv's
        return None
    # tools copy metadata, so the record of a quantized file may be that of the float one
    changed = cell is not None and cell.scheme.mode is None and not all(tensor.is_float for tensor in audit.tensors)
    return None if changed else cell


def counted(cell: Cell, tensors: Iterable[TensorAudit], values: Iterable[str]) -> dict[str, TensorAudit]:
    """Those of a file's tensors that are weights of its cell, by their values: quantized ones, or all of a float cell.

    values: what the network reads, in order of the tensors.
    """
    plain = cell.scheme.mode is None
    return {value: tensor for value, tensor in zip(values, tensors, strict=True) if plain or not tensor.is_float}


def with_added(audit: Audit, count: Callable[[Cell], Added | None]) -> Audit:
    """The audit of a file of ours with what its weights add to it, where the float network can be rebuilt.

    Tools that change a file keep its record: where the file is not as mobconv writes it, there is no figure.
    """
    cell = cell_of(audit)
    try:
        added = None if cell is None else count(cell)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        added = None
    return replace(audit, added=added if added is not None and added.bytes > 0 else None)


def record_of(text: str, path: Path) -> dict[str, Any]:
    """A record's text as an object; empty for no text. Raises InputError for a damaged one."""
    try:
        record = json.loads(text or "{}")
        if not isinstance(record, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise InputError(f"{path}: its mobconv record is damaged: {error}") from error
    return record


def explained(audit: Audit, why: Callable[[TensorAudit], str]) -> Audit:
    """The audit with a reason for each float tensor, in a file that has quantized ones too.

    why: a tensor's reason as far as its format knows, else ''; then the other tensors of another tool's file give it.
    """
    ours = cell_of(audit) is not None
    quantized = Counter(tensor.op for tensor in audit.tensors if not (ours or tensor.is_float))
    tensors = [replace(tensor, reason=why(tensor) or _unlike(tensor, quantized)) for tensor in audit.tensors]
    return replace(audit, tensors=tuple(tensors))


def _unlike(tensor: TensorAudit, quantized: Counter[str]) -> str:
    """Why a tensor is float, judged by the ops whose weights are quantized."""
    if not tensor.is_float or not quantized:
        return ""
    if quantized[tensor.op]:
        return f"other {tensor.op} weights of the file are quantized: this one was left out, by its name or its shape"
    return f"no {tensor.op} weight of the file is quantized: the tool does not know the op, or was not asked to"


def threshold(tensors: Iterable[TensorAudit], limit: int, reason: str) -> Callable[[TensorAudit], str]:
    """`reason` for float tensors of at most `limit` weights, unless a quantized tensor of the file is as small."""
    sizes = [tensor.weights for tensor in tensors if not tensor.is_float]
    applies = bool(sizes) and min(sizes) > limit
    return lambda tensor: reason if applies and tensor.is_float and tensor.weights <= limit else ""


def judged(audit: Audit, asked: float | None, native: str = "") -> Audit:
    """The audit with the bits that were asked for, and a reason for each tensor that is wider.

    asked: bits of a weight, None for an audit without; native: why a file of ours is wider as a whole, as its backend's
    `support` says.
    """
    if asked is None:
        return audit
    plain = all(tensor.is_float for tensor in audit.tensors)
    cell = cell_of(audit)
    tensors = []
    for tensor in audit.tensors:
        compared = replace(tensor, asked=asked)
        if not compared.wider:
            compared = replace(compared, reason="")
        elif not compared.reason or (plain and compared.is_float):
            compared = replace(compared, reason=_wider(compared, plain, cell, native))
        tensors.append(compared)
    return replace(audit, tensors=tuple(tensors))


def _wider(tensor: TensorAudit, plain: bool, cell: Cell | None, native: str) -> str:
    """Why a tensor is wider than asked. plain: no tensor of the file is quantized."""
    if cell is not None and cell.scheme.bits != tensor.asked:
        return f"the file was exported as {cell}"
    if native and not tensor.is_float:
        return native
    if cell is not None and tensor.is_float:
        return "exported in float: by a layer rule, or because the network does not use it as the weight of a layer"
    if cell is not None:
        return f"a layer rule of the recipe keeps it at {tensor.stored:g} bits"
    if tensor.is_float:
        return "the file has no quantized weights at all" if plain else "left float"
    return f"bits asked {tensor.asked:g}, but a code takes {tensor.stored:g} ({tensor.encoding})"


def verdict(audit: Audit) -> str:
    """A sentence: the share of weights with the bits asked for, and why others are wider; or just the widths."""
    if not audit.tensors:
        return "no weights of a convolution, linear layer, matrix product or embedding in this file"
    asked = audit.tensors[0].asked
    if asked is None:
        groups = _groups(audit.tensors, lambda tensor: tensor.stored)
        parts = [_part(audit, tensors, f"in {bits:g} bits") for bits, tensors in groups]
        return "stored: " + "; ".join(parts)
    narrow = [tensor for tensor in audit.tensors if not tensor.wider]
    wide = [tensor for tensor in audit.tensors if tensor.wider]
    text = (
        f"asked {asked:g} bits: {len(narrow)} of {len(audit.tensors)} tensors, {_share(narrow, audit)} of the weights, "
    )
    text += f"are stored in {_widths(narrow) if narrow else f'{asked:g}'}"
    parts = []
    for (bits, reason), tensors in _groups(wide, lambda tensor: (tensor.stored, tensor.reason)):
        share = _percent(sum(tensor.bytes for tensor in tensors), audit.file_bytes)
        parts.append(f"{_part(audit, tensors, f'stored in {bits:g} bits')}: {share} of the file, because: {reason}")
    return "; ".join([text, *parts])


def _groups(tensors: Iterable[TensorAudit], key: Callable[[TensorAudit], Any]) -> list[tuple[Any, list[TensorAudit]]]:
    """Tensors by key, the group with most bytes first."""
    groups: dict[Any, list[TensorAudit]] = {}
    for tensor in tensors:
        groups.setdefault(key(tensor), []).append(tensor)
    return sorted(groups.items(), key=lambda item: -sum(tensor.bytes for tensor in item[1]))


def _part(audit: Audit, tensors: list[TensorAudit], text: str) -> str:
    return f"{len(tensors)} ({_share(tensors, audit)} of the weights) {text}"


def _widths(tensors: list[TensorAudit]) -> str:
    return " or ".join(f"{bits:g}" for bits in sorted({tensor.stored for tensor in tensors}))


def _share(tensors: Iterable[TensorAudit], audit: Audit) -> str:
    return _percent(sum(tensor.weights for tensor in tensors), audit.weights)


def _percent(part: int, whole: int) -> str:
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.0f} %" if percent in (0, 100) or 10 <= percent < 99 else f"{percent:.1f} %"
