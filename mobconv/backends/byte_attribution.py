"""Which constants of a graph make up each weight, and what each of them is to it: shared by all graph formats.

A format lists its constants (`Leaf`), the ops that compute with nothing but constants (`Step`), and where the network
reads a weight (`Site`). `Tally` follows each weight back to its constants, and counts every byte for one owner:

- codes that several weights share, in one stream or because they are equal, are split by number of weights;
- a scale, table or op that several weights use is nobody's, and stands in a line of its own;
- what no weight uses is "other constants".
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
# names that converters count up: the name of what the op gives says more
_NUMBERED = re.compile(r"(onnx::\w+?|arith\.constant|tfl\.\w+|const(ant)?|tensor|val)?[_.]?\d*(_Q\d)?")
_INDICES = ("int32", "int64", "uint32", "uint64", "bool", "string")  # no codes of weights


@dataclass(frozen=True)
class Leaf:
    """A constant. Leaves with equal keys are the same bytes of the file.

    kind   type of an element, as numpy would spell it: 'uint4'
    bits   of an element in that type
    bytes  of data; extra: of header and padding that the constant brings along
    used   bits of an element that hold codes, where not all do
    null   whether all of it is zero: zero points that are none
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
class Step:
    """An op on constants. inputs: (name of a value, what it is to the result); bytes: of the op in the file.

    bits   of the codes it decodes, where it says so; label: its name, where that is the weight's
    shape  of the result, where it is declared
    """

    key: Hashable
    kind: str
    inputs: tuple[tuple[str, str], ...]
    bytes: int = 0
    bits: float | None = None
    label: str = ""
    shape: tuple[int, ...] | None = None


@dataclass
class Site:
    """A weight as the network reads it.

    name    of the value in the file; output: of what its op gives
    beside  (name of a value, role) of parameters that its op reads apart
    bits    of its codes, where the op says so
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
    site: Site
    leaves: dict[Hashable, tuple[Leaf, str]]
    steps: dict[Hashable, Step]
    shape: tuple[int, ...] = ()

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    def of(self, role: str) -> list[Leaf]:
        return [leaf for leaf, held in self.leaves.values() if held == role]


@dataclass
class Tally:
    """All constants and steps of a graph by the name of the value; `weigh` gives the tensors.

    by_value  a weight is called as the value that the network reads, not as the constant that holds its codes
    """

    by_value: bool = False
    leaves: dict[str, Leaf] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)
    shared_bytes: int = 0  # known after `weigh`
    owned: set[Hashable] = field(default_factory=set)

    def constant(self, name: str) -> bool:
        """Whether a value is known before the network runs."""
        return name in self.leaves or name in self.steps

    def add(self, site: Site) -> None:
        """Note that the network reads a weight there, if it is a constant; a second reader is named too."""
        if not self.constant(site.value):
            return
        known = self.sites.setdefault(site.value, site)
        if site.op not in known.op.split(", "):
            known.op += f", {site.op}"

    def weigh(self) -> list[TensorAudit]:
        """The tensors, each with its bytes. Raises InputError for a weight without codes."""
        cones = [cone for cone in map(self._cone, self.sites.values()) if cone is not None]
        users: dict[Hashable, list[_Cone]] = defaultdict(list)
        for cone in cones:
            for key in (*cone.leaves, *cone.steps):
                users[key].append(cone)
        spent: Counter[Hashable] = Counter()  # weights that have their part of a shared constant
        found = []
        for cone in cones:
            parts: Counter[str] = Counter()
            for key, (leaf, role) in cone.leaves.items():
                total = sum(user.weights for user in users[key])
                if role == CODE and total:
                    before, after = spent[key], spent[key] + cone.weights
                    spent[key] = after
                    parts[CODE] += leaf.bytes * after // total - leaf.bytes * before // total
                    parts[REST] += leaf.extra * after // total - leaf.extra * before // total
                elif len(users[key]) == 1:
                    parts[role if role != MASK else REST] += leaf.bytes
                    parts[REST] += leaf.extra
                elif key not in self.owned:
                    self.shared_bytes += leaf.bytes + leaf.extra
                self.owned.add(key)
            for key, step in cone.steps.items():
                if len(users[key]) == 1:
                    parts[REST] += step.bytes
                elif key not in self.owned:
                    self.shared_bytes += step.bytes
                self.owned.add(key)
            found.append(self._tensor(cone, parts, users))
        return found

    def unowned(self) -> list[Leaf]:
        """Constants that are no weight's, each once; after `weigh`."""
        return list({leaf.key: leaf for leaf in self.leaves.values() if leaf.key not in self.owned}.values())

    def _cone(self, site: Site) -> _Cone | None:
        """Everything that a weight is made of; None for what is no weight (indices, vectors)."""
        cone = _Cone(site, {}, {})
        waiting = [*((name, role) for name, role in site.beside if self.constant(name)), (site.value, CODE)]
        seen = set()
        while waiting:
            name, role = waiting.pop()
            if (name, role) in seen:
                continue
            seen.add((name, role))
            if name in self.steps:
                step = self.steps[name]
                cone.steps[step.key] = step
                # codes and scales of a zero point are the weight's zero point, and so on; a table is one wherever it is
                inner = [
                    (given, inside if role == CODE or inside in (TABLE, MASK) else role)
                    for given, inside in step.inputs
                ]
                waiting += reversed(inner)
            elif name in self.leaves:
                leaf = self.leaves[name]
                held = CODE if leaf.used else role
                if cone.leaves.get(leaf.key, (leaf, ""))[1] != CODE:
                    cone.leaves[leaf.key] = (leaf, held)
        declared = site.shape or (self.steps[site.value].shape if site.value in self.steps else None)
        codes = cone.of(CODE)
        if not codes or all(leaf.kind in _INDICES for leaf in codes):
            return None
        cone.shape = declared if declared is not None else max(codes, key=lambda leaf: leaf.count).shape
        if len(cone.shape) < 2 or not cone.weights:
            return None
        for key, (leaf, role) in cone.leaves.items():
            if leaf.bits == 1 and leaf.count == cone.weights and role != MASK:
                cone.leaves[key] = (leaf, CODE)  # one bit a weight is part of its code, whatever it selects
        return cone

    def _tensor(self, cone: _Cone, parts: Counter[str], users: dict[Hashable, list[_Cone]]) -> TensorAudit:
        codes, masks = cone.of(CODE), cone.of(MASK)
        stated = cone.site.bits or next((step.bits for step in cone.steps.values() if step.bits), None)
        if stated is not None:
            stored = stated
        elif masks:
            stored = max(leaf.bits for leaf in codes)
        elif all(leaf.used for leaf in codes):
            pool = sum(user.weights for user in users[codes[0].key])
            stored = sum(leaf.count * leaf.used / (-(-pool // leaf.used) * leaf.used) for leaf in codes)
        else:
            stored = sum(leaf.bits * leaf.count for leaf in {_content(leaf): leaf for leaf in codes}.values())
            stored /= cone.weights
        labels = [step.label for step in cone.steps.values() if step.label]
        cast = bool(cone.steps) and all(step.kind == "Cast" for step in cone.steps.values())
        name = labels[0] if labels else cone.site.name if cast or self.by_value else codes[0].name
        return TensorAudit(
            name=cone.site.output
            if not name
            else f"{name} ({cone.site.output})"
            if _NUMBERED.fullmatch(name)
            else name,
            shape=cone.shape,
            weights=cone.weights,
            op=cone.site.op,
            stored=round(float(stored), 3),
            encoding=_encoding(cone, round(stored, 3)),
            code_bytes=parts[CODE],
            table_bytes=parts[TABLE],
            scale_bytes=parts[SCALE],
            zero_point_bytes=parts[ZERO],
            other_bytes=parts[REST],
        )


def _content(leaf: Leaf) -> Hashable:
    """Constants of which a file holds a second copy are no further bits of a code."""
    return leaf.name or leaf.key


def _encoding(cone: _Cone, stored: float) -> str:
    codes, scales = cone.of(CODE), cone.of(SCALE)
    tables = [leaf for leaf in cone.of(TABLE) if leaf.shape and leaf.count]
    sparse = ""
    if cone.of(MASK):
        sparse = f", sparse ({sum(leaf.count for leaf in codes) / cone.weights:.0%} of the weights and a mask)"
    kinds = " + ".join(dict.fromkeys(leaf.kind for leaf in codes))
    if all("float" in leaf.kind for leaf in codes):
        rounded = any("quantize" in step.kind.lower() and "de" not in step.kind.lower() for step in cone.steps.values())
        return kinds + (", quantized only when it runs" if rounded else "") + sparse
    packed = cone.site.bits or any(step.bits for step in cone.steps.values()) or any(leaf.used for leaf in codes)
    if packed:
        kinds = f"{stored:g}-bit codes"
    if not scales and not tables:
        return kinds + sparse
    tail, groups = "", 1
    if tables:
        table = max(tables, key=lambda leaf: (leaf.kind not in _INDICES, leaf.count))
        # ML Programs of iOS18: [groups .., entries, weights an entry]
        entries, together = table.shape[-2:] if len(table.shape) == len(cone.shape) + 2 else (table.shape[-1], 1)
        groups = table.count // (entries * together)
        tail = f"{entries} x {f'{together} x ' if together > 1 else ''}{table.kind}"
    if not scales:
        return f"lookup table {tail}, {kinds}{_groups(cone, groups) if groups > 1 else ''}{sparse}"
    word = "affine" if any(not leaf.null for leaf in cone.of(ZERO)) else "symmetric"
    by_table = f" by a table {tail}" if tables else ""
    return f"{word} {kinds}{_groups(cone, max(leaf.count for leaf in scales))}{by_table}{sparse}"


def _groups(cone: _Cone, count: int) -> str:
    if count == 1:
        return " per tensor"
    if count in cone.shape:
        return " per channel"
    return f" in blocks of {cone.weights / count:g}"


def rest(lines: Iterable[tuple[str, int]], path: object) -> tuple[tuple[str, int], ...]:
    """Lines that are not empty. Raises InputError where one is negative: parts of the file overlap."""
    found = tuple((what, count) for what, count in lines if count)
    if any(count < 0 for _, count in found):
        raise InputError(f"{path}: its parts overlap, so the file is damaged")
    return found


def framed(size: int, tag: int = 1) -> int:
    """Bytes of a protobuf message of `size` within another: tag, length, content."""
    return tag + (max(size.bit_length(), 1) + 6) // 7 + size
