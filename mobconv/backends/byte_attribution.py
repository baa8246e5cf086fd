"""Byte attribution: which constants and ops of a graph each weight consists of. Shared by all graph formats.

A format lists its constants (`StoredConstant`), the ops that compute from constants alone (`DecodingOp`), and where the
network reads a weight (`WeightRead`). `ByteAttribution` follows each weight back to its constants, and assigns every
byte once:

- codes that several weights share, in one stream or because they are equal, are split by number of weights;
- a scale, table or op that several weights use belongs to none of them, and is counted in a line of its own;
- a constant that no weight uses is one of the "other constants".
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from mobconv.backends.size_audit import TensorAudit
from mobconv.errors import InputError

CODE, TABLE, SCALE, ZERO, MASK, REST = "code", "table", "scale", "zero_point", "mask", "other"
# names that converters number: the name of the op's output says more
_NUMBERED = re.compile(r"(onnx::\w+?|arith\.constant|tfl\.\w+|const(ant)?|tensor|val)?[_.]?\d*(_Q\d)?")
_INDICES = ("int32", "int64", "uint32", "uint64", "bool", "string")  # never codes of weights


@dataclass(frozen=True)
class StoredConstant:
    """A constant of a file. Two with equal keys are the same bytes.

    kind   type of an element, as numpy would spell it: 'uint4'
    bits   of an element in that type
    bytes  of its data; extra: of its header and padding
    used   bits of an element that codes occupy, where not all of them; 0 for all
    null   whether every byte is zero, as the zero points of a symmetric weight are
    """

    key: Hashable
    name: str
    shape: tuple[int, ...]
    kind: str
    bits: int
    bytes: int
    extra: int = 0
    used: int = 0
    null: bool = False

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class DecodingOp:
    """An op whose inputs are constants, such as one that decodes a weight.

    inputs  (name of a value, its role in the result): 'code', 'scale', ...
    bytes   of the op in the file
    bits    of the codes that it decodes, where it says so
    label   its name, where that is the weight's
    shape   of its output, where that is declared
    """

    key: Hashable
    kind: str
    inputs: tuple[tuple[str, str], ...]
    bytes: int = 0
    bits: float | None = None
    label: str = ""
    shape: tuple[int, ...] | None = None


@dataclass
class WeightRead:
    """A place where an op of the network reads a weight.

    value   name of the weight's value in the graph; name: the name to show
    op      kind of the op: 'conv', 'linear', ...; output: name of its output
    beside  (name of a value, role) of quantization parameters that the op reads as further inputs
    bits    of the codes, where the op says so
    """

    value: str
    name: str
    op: str
    output: str
    beside: tuple[tuple[str, str], ...] = ()
    shape: tuple[int, ...] | None = None
    bits: float | None = None


@dataclass
class _Cone:
    """A weight with all constants and ops that it is computed from."""

    read: WeightRead
    constants: dict[Hashable, tuple[StoredConstant, str]]
    ops: dict[Hashable, DecodingOp]
    shape: tuple[int, ...] = ()

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    def of(self, role: str) -> list[StoredConstant]:
        """The weight's constants of a role."""
        return [constant for constant, its_role in self.constants.values() if its_role == role]


@dataclass
class ByteAttribution:
    """Constants and decoding ops of a graph, by the name of their value; `tensors` assigns their bytes to weights.

    by_value  name weights after the value that the network reads, not after the constant with their codes
    """

    by_value: bool = False
    constants: dict[str, StoredConstant] = field(default_factory=dict)
    ops: dict[str, DecodingOp] = field(default_factory=dict)
    reads: dict[str, WeightRead] = field(default_factory=dict)
    shared_bytes: int = 0  # known after `tensors`, as are the values that the network reads, in order of the tensors
    values: list[str] = field(default_factory=list)
    owned: set[Hashable] = field(default_factory=set)

    def is_constant(self, name: str) -> bool:
        """Whether a value is known before the network runs."""
        return name in self.constants or name in self.ops

    def add(self, read: WeightRead) -> None:
        """Note a place where the network reads a weight, if that is a constant. A second reader's op is added."""
        if not self.is_constant(read.value):
            return
        known = self.reads.setdefault(read.value, read)
        if read.op not in known.op.split(", "):
            known.op += f", {read.op}"

    def tensors(self) -> list[TensorAudit]:
        """The weights, each with its bytes."""
        cones = [cone for cone in map(self._cone, self.reads.values()) if cone is not None]
        users: dict[Hashable, list[_Cone]] = defaultdict(list)
        for cone in cones:
            for key in (*cone.constants, *cone.ops):
                users[key].append(cone)
        assigned: Counter[Hashable] = Counter()  # number of weights that have their share of a constant
        audits = []
        for cone in cones:
            parts: Counter[str] = Counter()
            for key, (constant, role) in cone.constants.items():
                total = sum(user.weights for user in users[key])
                if role == CODE and total:
                    before, after = assigned[key], assigned[key] + cone.weights
                    assigned[key] = after
                    parts[CODE] += constant.bytes * after // total - constant.bytes * before // total
                    parts[REST] += constant.extra * after // total - constant.extra * before // total
                elif len(users[key]) == 1:
                    parts[role if role != MASK else REST] += constant.bytes
                    parts[REST] += constant.extra
                elif key not in self.owned:
                    self.shared_bytes += constant.bytes + constant.extra
                self.owned.add(key)
            for key, op in cone.ops.items():
                if len(users[key]) == 1:
                    parts[REST] += op.bytes
                elif key not in self.owned:
                    self.shared_bytes += op.bytes
                self.owned.add(key)
            audits.append(self._tensor(cone, parts, users))
            self.values.append(cone.read.value)
        return audits

    def unowned(self) -> list[StoredConstant]:
        """Constants that no weight uses, each once; call it after `tensors`."""
        return list(
            {constant.key: constant for constant in self.constants.values() if constant.key not in self.owned}.values()
        )

    def _cone(self, read: WeightRead) -> _Cone | None:
        """All constants and ops that a weight is computed from; None for indices and vectors, which are not weights."""
        cone = _Cone(read, {}, {})
        waiting = [*((name, role) for name, role in read.beside if self.is_constant(name)), (read.value, CODE)]
        seen = set()
        while waiting:
            name, role = waiting.pop()
            if (name, role) in seen:
                continue
            seen.add((name, role))
            if name in self.ops:
                op = self.ops[name]
                cone.ops[op.key] = op
                # codes and scales of a zero point count as zero point, and so on; tables and masks stay what they are
                inner = [
                    (value, input_role if role == CODE or input_role in (TABLE, MASK) else role)
                    for value, input_role in op.inputs
                ]
                waiting += reversed(inner)
            elif name in self.constants:
                constant = self.constants[name]
                if cone.constants.get(constant.key, (constant, ""))[1] != CODE:
                    cone.constants[constant.key] = (constant, CODE if constant.used else role)
        declared = read.shape or (self.ops[read.value].shape if read.value in self.ops else None)
        codes = cone.of(CODE)
        if not codes or all(constant.kind in _INDICES for constant in codes):
            return None
        cone.shape = declared if declared is not None else max(codes, key=lambda constant: constant.count).shape
        if len(cone.shape) < 2 or not cone.weights:
            return None
        for key, (constant, role) in cone.constants.items():
            if constant.bits == 1 and constant.count == cone.weights and role != MASK:
                cone.constants[key] = (constant, CODE)  # one bit for each weight is part of its code
        return cone

    def _tensor(self, cone: _Cone, parts: Counter[str], users: dict[Hashable, list[_Cone]]) -> TensorAudit:
        codes, masks = cone.of(CODE), cone.of(MASK)
        stated = cone.read.bits or next((op.bits for op in cone.ops.values() if op.bits), None)
        if stated is not None:
            stored = stated
        elif masks:
            stored = max(constant.bits for constant in codes)
        elif all(constant.used for constant in codes):
            pool = sum(user.weights for user in users[codes[0].key])
            stored = sum(
                constant.count * constant.used / (-(-pool // constant.used) * constant.used) for constant in codes
            )
        else:
            stored = sum(
                constant.bits * constant.count
                for constant in {_content(constant): constant for constant in codes}.values()
            )
            stored /= cone.weights
        labels = [op.label for op in cone.ops.values() if op.label]
        cast = bool(cone.ops) and all(op.kind == "Cast" for op in cone.ops.values())
        name = labels[0] if labels else cone.read.name if cast or self.by_value else codes[0].name
        return TensorAudit(
            name=cone.read.output
            if not name
            else f"{name} ({cone.read.output})"
            if _NUMBERED.fullmatch(name)
            else name,
            shape=cone.shape,
            weights=cone.weights,
            op=cone.read.op,
            stored=round(float(stored), 3),
            encoding=_encoding(cone, round(stored, 3)),
            code_bytes=parts[CODE],
            table_bytes=parts[TABLE],
            scale_bytes=parts[SCALE],
            zero_point_bytes=parts[ZERO],
            other_bytes=parts[REST],
        )


def _content(constant: StoredConstant) -> Hashable:
    """A key that copies of one constant share: a second copy does not add bits to a code."""
    return constant.name or constant.key


def _encoding(cone: _Cone, stored: float) -> str:
    """How a weight is stored, in words: 'affine int8 per channel'."""
    codes, scales = cone.of(CODE), cone.of(SCALE)
    tables = [constant for constant in cone.of(TABLE) if constant.shape and constant.count]
    sparse = ""
    if cone.of(MASK):
        sparse = f", sparse ({sum(constant.count for constant in codes) / cone.weights:.0%} of the weights and a mask)"
    kinds = " + ".join(dict.fromkeys(constant.kind for constant in codes))
    if all("float" in constant.kind for constant in codes):
        rounded = any("quantize" in op.kind.lower() and "de" not in op.kind.lower() for op in cone.ops.values())
        return kinds + (", quantized only when it runs" if rounded else "") + sparse
    packed = cone.read.bits or any(op.bits for op in cone.ops.values()) or any(constant.used for constant in codes)
    if packed:
        kinds = f"{stored:g}-bit codes"
    if not scales and not tables:
        return kinds + sparse
    tail, groups = "", 1
    if tables:
        table = max(tables, key=lambda constant: (constant.kind not in _INDICES, constant.count))
        # ML Programs of iOS18: [groups .., entries, weights an entry]
        entries, together = table.shape[-2:] if len(table.shape) == len(cone.shape) + 2 else (table.shape[-1], 1)
        groups = table.count // (entries * together)
        tail = f"{entries} x {f'{together} x ' if together > 1 else ''}{table.kind}"
    if not scales:
        return f"lookup table {tail}, {kinds}{_groups(cone, groups) if groups > 1 else ''}{sparse}"
    word = "affine" if any(not constant.null for constant in cone.of(ZERO)) else "symmetric"
    by_table = f" by a table {tail}" if tables else ""
    return f"{word} {kinds}{_groups(cone, max(constant.count for constant in scales))}{by_table}{sparse}"


def _groups(cone: _Cone, count: int) -> str:
    """The granularity of `count` scales or tables, in words."""
    if count == 1:
        return " per tensor"
    if count in cone.shape:
        return " per channel"
    return f" in blocks of {cone.weights / count:g}"


def rest(lines: Iterable[tuple[str, int]], path: object) -> tuple[tuple[str, int], ...]:
    """Lines (description, bytes) without empty ones. Raises InputError where one is negative: parts overlap."""
    filled = tuple((text, count) for text, count in lines if count)
    if any(count < 0 for _, count in filled):
        raise InputError(f"{path}: its parts overlap, so the file is damaged")
    return filled


def framed(size: int, tag: int = 1) -> int:
    """Bytes of a protobuf message of `size` bytes inside another message: tag, length, content."""
    return tag + (max(size.bit_length(), 1) + 6) // 7 + size
