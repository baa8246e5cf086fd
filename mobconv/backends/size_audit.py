"""The bits audit: what each weight of an artifact takes on disk, and why it takes more than was asked.

A backend's `audit(path)` parses the file and gives an `Audit`; what was asked is put in by `judged`. Every byte of the
file is either a tensor's or in a line of `rest`: an `Audit` that does not add up cannot be made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobconv.errors import AuditError, InputError, UsageError
from mobconv.schemes import Cell

OTHER = "other constants (biases, normalisation, shapes)"
SHARED = "decoding shared by several tensors"
PROGRAM = "program and metadata"
_MOST = 1 << 62  # weights of a tensor


@dataclass(frozen=True)
class TensorAudit:
    """One weight tensor as it lies in the file. All bytes are counted once: what two tensors share is split.

    name      as the file has it
    weights   number of elements
    op        what reads it: conv, linear, matmul, embedding ...
    asked     bits a weight; None where nobody knows
    stored    bits a code on disk (a weight, where one code stands for several); of floats 32 or 16
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
        """All of the tensor, with parameters, padding, headers and the ops that decode it alone."""
        return self.code_bytes + self.table_bytes + self.scale_bytes + self.zero_point_bytes + self.other_bytes

    @property
    def effective_bits(self) -> float:
        return 8 * self.bytes / self.weights if self.weights else 0.0

    @property
    def is_float(self) -> bool:
        """Whether nothing compresses it."""
        return "float" in self.encoding.split()[0] and "sparse" not in self.encoding

    @property
    def wider(self) -> bool:
        """Whether it is stored in more bits than asked."""
        return self.asked is not None and self.stored > self.asked


@dataclass(frozen=True)
class Audit:
    """An artifact, taken apart. Raises AuditError when the parts are not the whole, InputError for absurd shapes.

    format      'ONNX', 'TFLite' ...
    file_bytes  on disk; of a folder, all files in it; with the files of external data
    rest        (what, bytes) of everything that is no weight
    record      the text under `mobconv` in the file's metadata
    notes       what else is to be said of the file
    """

    path: Path
    format: str
    file_bytes: int
    tensors: tuple[TensorAudit, ...]
    rest: tuple[tuple[str, int], ...]
    record: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for tensor in self.tensors:
            if not 0 <= tensor.weights < _MOST:
                raise InputError(f"{self.path}: {tensor.name} declares a shape that no file holds, so it is damaged")
        parts = [count for _, count in self.rest]
        for tensor in self.tensors:
            parts += [tensor.code_bytes, tensor.table_bytes, tensor.scale_bytes]
            parts += [tensor.zero_point_bytes, tensor.other_bytes]
        if sum(parts) != self.file_bytes or min(parts, default=0) < 0:
            raise AuditError(
                f"{self.path}: the audit's parts are {sum(parts):,} bytes, the smallest {min(parts, default=0):,}, and "
                f"the file is {self.file_bytes:,}: please report this file"
            )

    @property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @property
    def weight_bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors)


def cell_of(audit: Audit) -> Cell | None:
    """The cell that the file was made as: None in a file that is not ours, or that another tool quantized since.

    Raises InputError for a damaged record.
    """
    found = record_of(audit.record, audit.path)
    try:
        cell = Cell.parse(found["cell"]) if isinstance(found.get("cell"), str) else None
    except UsageError:  # of a later mobconv
        return None
    # tools copy metadata, so a quantized file may say that it is a float one
    changed = cell is not None and cell.scheme.mode is None and not all(tensor.is_float for tensor in audit.tensors)
    return None if changed else cell


def record_of(text: str, path: Path) -> dict[str, Any]:
    """A record as an object, empty where there is none. Raises InputError when it is damaged."""
    try:
        found = json.loads(text or "{}")
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise InputError(f"{path}: its mobconv record is damaged: {error}") from error
    return found


def explained(audit: Audit, why: Callable[[TensorAudit], str]) -> Audit:
    """Give each float tensor of a file that also has quantized ones its reason.

    why: what the format knows; where that is empty and the file is not ours, what the other tensors tell.
    """
    ours = cell_of(audit) is not None
    quantized = Counter(tensor.op for tensor in audit.tensors if not (ours or tensor.is_float))
    tensors = [replace(tensor, reason=why(tensor) or _unlike(tensor, quantized)) for tensor in audit.tensors]
    return replace(audit, tensors=tuple(tensors))


def _unlike(tensor: TensorAudit, quantized: Counter[str]) -> str:
    if not tensor.is_float or not quantized:
        return ""
    if quantized[tensor.op]:
        return f"other {tensor.op} weights of the file are quantized: this one was left out, by its name or its shape"
    return f"no {tensor.op} weight of the file is quantized: the tool does not know the op, or was not asked to"


def threshold(tensors: Iterable[TensorAudit], limit: int, reason: str) -> Callable[[TensorAudit], str]:
    """A reason for float tensors of at most `limit` weights, unless the file has a quantized one as small."""
    sizes = [tensor.weights for tensor in tensors if not tensor.is_float]
    applies = bool(sizes) and min(sizes) > limit
    return lambda tensor: reason if applies and tensor.is_float and tensor.weights <= limit else ""


def judged(audit: Audit, asked: float | None, native: str = "") -> Audit:
    """The audit with what was asked of every tensor, and a reason for all that are wider.

    native: why our own file is stored wider as a whole, as the backend's `support` has it.
    """
    if asked is None:
        return audit
    plain = all(tensor.is_float for tensor in audit.tensors)
    cell = cell_of(audit)
    tensors = []
    for tensor in audit.tensors:
        held = replace(tensor, asked=asked)
        if not held.wider:
            held = replace(held, reason="")
        elif not held.reason or (plain and held.is_float):
            held = replace(held, reason=_wider(held, plain, cell, native))
        tensors.append(held)
    return replace(audit, tensors=tuple(tensors))


def _wider(tensor: TensorAudit, plain: bool, cell: Cell | None, native: str) -> str:
    if cell is not None and cell.scheme.bits != tensor.asked:
        return f"the file was exported as {cell}"
    if native and not tensor.is_float:
        return native
    if cell is not None:
        return f"a layer rule of the recipe keeps it {'float' if tensor.is_float else f'at {tensor.stored:g} bits'}"
    if tensor.is_float:
        return "the file has no quantized weights at all" if plain else "left float"
    return f"bits asked {tensor.asked:g}, but a code takes {tensor.stored:g} ({tensor.encoding})"


def verdict(audit: Audit) -> str:
    """What became of the bits asked, in a sentence; without them, what is stored in how many bits."""
    if not audit.tensors:
        return "no weights of a convolution, linear layer, matrix product or embedding in this file"
    asked = audit.tensors[0].asked
    if asked is None:
        parts = [_part(audit, held, f"in {bits:g} bits") for bits, held in _groups(audit.tensors, lambda t: t.stored)]
        return "stored: " + "; ".join(parts)
    narrow = [tensor for tensor in audit.tensors if not tensor.wider]
    wide = [tensor for tensor in audit.tensors if tensor.wider]
    text = (
        f"asked {asked:g} bits: {len(narrow)} of {len(audit.tensors)} tensors, {_share(narrow, audit)} of the weights, "
    )
    text += f"are stored in {_widths(narrow) if narrow else f'{asked:g}'}"
    parts = []
    for (bits, reason), held in _groups(wide, lambda tensor: (tensor.stored, tensor.reason)):
        share = _percent(sum(tensor.bytes for tensor in held), audit.file_bytes)
        parts.append(f"{_part(audit, held, f'stored in {bits:g} bits')}: {share} of the file, because: {reason}")
    return "; ".join([text, *parts])


def _groups(tensors: Iterable[TensorAudit], key: Callable[[TensorAudit], Any]) -> list[tuple[Any, list[TensorAudit]]]:
    """Tensors by key, those with most bytes first."""
    found: dict[Any, list[TensorAudit]] = {}
    for tensor in tensors:
        found.setdefault(key(tensor), []).append(tensor)
    return sorted(found.items(), key=lambda item: -sum(tensor.bytes for tensor in item[1]))


def _part(audit: Audit, held: list[TensorAudit], what: str) -> str:
    return f"{len(held)} ({_share(held, audit)} of the weights) {what}"


def _widths(tensors: list[TensorAudit]) -> str:
    return " or ".join(f"{bits:g}" for bits in sorted({tensor.stored for tensor in tensors}))


def _share(tensors: Iterable[TensorAudit], audit: Audit) -> str:
    return _percent(sum(tensor.weights for tensor in tensors), audit.weights)


def _percent(part: int, whole: int) -> str:
    found = 100 * part / whole if whole else 0.0
    return f"{found:.0f} %" if found in (0, 100) or 10 <= found < 99 else f"{found:.1f} %"
