"""What the three readers return, and how it is compared with the quantizer: bit for bit, no tolerance.

Neither this file nor a reader (`read_onnx`, `read_tflite`, `read_coreml`) imports mobconv: what they find
in a file, they find by the format's own description and the layouts that the backends document.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np


@dataclass(eq=False)
class Stored:
    """One parameter as it lies in a file, put into the parameter's own layout (OIHW, OI).

    bits         what one code, or float, takes on disk
    values       float32: what a float scheme stores (fp16 widened); None where there are codes
    codes        uint8, unsigned whatever the file's type: 0 .. 2^bits - 1
    zero_points  uint8 (groups,), unsigned likewise; None: symmetric, or a table
    scales       float32 (groups,)
    table        float32 (groups, entries), all entries that are in the file
    rows         which of the groups each output channel has, by the format's rule or the file's own positions;
                 None: one for all, or one for each channel
    wide         parameters are fp32 on disk, not fp16 (they hold the same numbers)
    native       scales and zero points are the constant's own, as TFLite's quantized types have them
    name         where the format carries one
    """

    bits: int
    values: Any = None
    codes: Any = None
    zero_points: Any = None
    scales: Any = None
    table: Any = None
    rows: Any = None
    wide: bool = True
    native: bool = False
    name: str = ""


def spread(words, bits, count):
    """(bytes,) uint8, a bit stream with the lowest bit first -> its first `count` fields of `bits` bits."""
    lanes = np.unpackbits(np.ascontiguousarray(words), bitorder="little")[: count * bits]
    assert lanes.size == count * bits, f"{words.size} bytes do not hold {count} codes of {bits} bits"
    return (lanes.reshape(count, bits) << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)


def used_entries(table):
    """Entries of a (groups, 2^bits) table up to the last that differs from the one before it: the rest is padding."""
    distinct = np.flatnonzero((np.diff(table, axis=1) != 0).any(axis=0))
    return int(distinct[-1]) + 2 if distinct.size else 1


class UnlikeError(Exception):
    """What is in a file cannot be brought to the quantizer's form; says why."""


def grouped(stored, together):
    """Parameters that a file repeats, for each channel or for smaller groups -> one for each `together` channels.

    Raises UnlikeError where channels that should share a parameter have different ones.
    """
    if stored.rows is None:
        return stored
    parts = {}
    for part in ("scales", "zero_points", "table"):
        held = getattr(stored, part)
        if held is not None:
            each = held[stored.rows]  # of every channel
            parts[part] = np.ascontiguousarray(each[::together])
            again = np.repeat(parts[part], together, axis=0)[: len(each)]
            if again.tobytes() != each.tobytes():
                raise UnlikeError(
                    f"{part}: {np.count_nonzero(again != each)} differ within groups of {together} channels"
                )
    return replace(stored, rows=None, **parts)


def narrowed(stored, bits):
    """Codes that a file holds wider than they are -> those of n bits. Raises UnlikeError where they do not fit.

    With zero points or a table a code is the same number in more bits (the table goes on with its last value). A
    symmetric one is a factor and the middle, and at one bit the factor is -1 or 1.
    """
    if stored.bits == bits or stored.codes is None:
        return stored
    codes = stored.codes.astype(int)
    if stored.zero_points is None and stored.table is None:
        factors = codes - 2 ** (stored.bits - 1)
        codes = (factors + 1) // 2 if bits == 1 else factors + 2 ** (bits - 1)
        if bits == 1 and (np.abs(factors) != 1).any():
            raise UnlikeError("codes: factors of one bit are -1 and 1")
    found = replace(stored, bits=bits, codes=codes.astype(np.uint8))
    if stored.table is not None:
        found.table, rest = np.ascontiguousarray(stored.table[:, : 2**bits]), stored.table[:, 2**bits :]
        if (rest != found.table[:, -1:]).any():
            raise UnlikeError("table: its padding is not its last value")
    zero_points = np.zeros(1, int) if stored.zero_points is None else stored.zero_points
    if codes.min() < 0 or max(codes.max(), zero_points.max()) >= 2**bits:
        raise UnlikeError(f"codes: some do not fit in {bits} bits")
    return found


def differences(stored, weight, entries="all", bits=None):
    """What of `stored` is not what the quantizer decided, in words; an empty list when all of it is.

    weight: a FloatWeight or QuantizedWeight. entries: 'all' of the table's 2^bits, or 'used' where a
    file keeps only those in use. bits: what a code shall take in the file, where that is not weight.bits.
    """
    if stored.bits != (bits or weight.bits):
        return [f"{stored.bits} bits in place of {bits or weight.bits}"]
    if hasattr(weight, "codes"):
        try:
            stored = narrowed(grouped(stored, weight.together), weight.bits)
        except UnlikeError as reason:
            return [str(reason)]
    if hasattr(weight, "values"):
        expected = {"values": weight.values}
    else:
        table = weight.table
        if table is not None and entries == "used":
            table = table[:, : used_entries(table)]
        expected = {"codes": weight.codes, "zero_points": weight.zero_point, "scales": weight.scale, "table": table}
    found = []
    for part in ("values", "codes", "zero_points", "scales", "table"):
        held, wanted = getattr(stored, part), expected.get(part)
        if (held is None) != (wanted is None):
            found.append(f"{part}: {'missing' if held is None else 'not asked for'}")
        elif held is not None and not _same(held, wanted):
            found.append(f"{part}: {_where(held, wanted)}")
    return found


def _same(held, wanted):
    """Equal in type, shape and every bit (-0.0 is not 0.0)."""
    return held.dtype == wanted.dtype and held.shape == wanted.shape and held.tobytes() == wanted.tobytes()


def _where(held, wanted):
    if held.shape != wanted.shape or held.dtype != wanted.dtype:
        return f"{held.dtype} {held.shape} in place of {wanted.dtype} {wanted.shape}"
    return f"{np.count_nonzero(held != wanted)} of {held.size} differ"
