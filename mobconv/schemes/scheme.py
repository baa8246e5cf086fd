"""Schemes: how weights are stored."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mobconv.errors import UsageError, did_you_mean
from mobconv.schemes.algorithms import ALGORITHMS, DEFAULT_ALGORITHM, Needs, supporting
from mobconv.schemes.parts import BITS, DEFAULT_GRANULARITY, Granularity, Mode

WEIGHTS_ONLY = "Weights only; activations stay float"
# what people ask for whose tools quantize activations too: int8, uint8, INT4, 8bit, w8a8, qint8, dynamic
_INTEGER = re.compile(r"(?:q?u?int|i|u)(\d+)|(\d+)-?bits?|w(\d+)a\d+(?:-.*)?|q(\d+)(?:_.*)?|w?(\d)", re.IGNORECASE)


def syntax() -> str:
    """The grammar of a scheme in words, for help and messages."""
    algorithms = []
    for name, algorithm in ALGORITHMS.items():
        notes = ["default"] if name == DEFAULT_ALGORITHM else []
        notes += [] if set(algorithm.modes) == set(Mode) else [f"{' and '.join(algorithm.modes)} only"]
        algorithms.append(name + (f" ({', '.join(notes)})" if notes else ""))
    return (
        f"fp32, fp16 or w<bits>-<mode>[-<granularity>][-<algorithm>]; bits {BITS[0]} to {BITS[-1]}; "
        f"mode {', '.join(Mode)}; granularity {', '.join(Granularity)}; algorithm {', '.join(algorithms)}"
    )


@dataclass(frozen=True)
class Scheme:
    """How weights are stored, checked when built: UsageError for a combination that does not exist.

    bits         1 to 8; 32 and 16 for the float schemes
    mode         None for the float schemes
    granularity  the weights that share one scale or table
    algorithm    how codes and parameters are chosen: a name of `ALGORITHMS`
    """

    bits: int
    mode: Mode | None = None
    granularity: Granularity = Granularity.TENSOR
    algorithm: str = DEFAULT_ALGORITHM

    def __post_init__(self) -> None:
        if self.mode is None:
            if self.bits not in (16, 32):
                raise UsageError(f"{self.bits} bits need a mode: w{self.bits}-linear, -symmetric or -kmeans")
            return
        if self.bits not in BITS:
            raise UsageError(f"w{self.bits}-{self.mode}: widths are 1 to 8 bits, or fp16 and fp32")
        if self.algorithm not in ALGORITHMS:
            near = did_you_mean(self.algorithm, ALGORITHMS)
            raise UsageError(f"Unknown algorithm {self.algorithm!r}{near}: {', '.join(ALGORITHMS)}")
        modes, usable = ALGORITHMS[self.algorithm].modes, supporting(self.mode)
        if self.mode not in modes:
            raise UsageError(
                f"w{self.bits}-{self.mode}-{self.algorithm}: {self.algorithm} supports {' and '.join(modes)}; "
                f"for {self.mode} choose {' or '.join(usable)}"
            )

    @property
    def name(self) -> str:
        """The canonical name, defaults left out."""
        if self.mode is None:
            return f"fp{self.bits}"
        parts = [f"w{self.bits}", self.mode.value]
        if self.granularity is not DEFAULT_GRANULARITY[self.mode]:
            parts.append(self.granularity.value)
        if self.algorithm != DEFAULT_ALGORITHM:
            parts.append(self.algorithm)
        return "-".join(parts)

    @property
    def calibrated(self) -> bool:
        """Whether its codes are chosen on calibration data, of a whole network at once."""
        return self.mode is not None and ALGORITHMS[self.algorithm].needs is not Needs.WEIGHTS

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """The scheme of a name, defaults spelled out or not. Raises UsageError naming the part that is wrong."""
        if text in ("fp32", "fp16"):
            return cls(int(text[2:]))
        width, *parts = text.split("-")
        bits = re.fullmatch(r"w(\d+)", width)
        if wish := _INTEGER.fullmatch(text):
            wanted = min(max(int(next(filter(None, wish.groups()))), BITS[0]), BITS[-1])
            raise UsageError(
                f"Unknown scheme {text!r}. {WEIGHTS_ONLY}: w{wanted}-symmetric stores them in "
                f"{wanted} bit{'s' * (wanted > 1)}, "
                f"a scale for each channel; w{wanted}-linear adds zero points, w{wanted}-kmeans has a lookup table"
            )
        if bits is None or not parts:
            near = did_you_mean(text, ["fp32", "fp16", *(f"w{b}-{m}" for b in BITS for m in Mode)])
            raise UsageError(f"Unknown scheme {text!r}{near}: fp32, fp16 or w<bits>-<mode>, such as w4-kmeans")
        if parts[0] not in list(Mode):
            near = did_you_mean(parts[0], Mode)
            raise UsageError(f"{text!r}: unknown mode {parts[0]!r}{near}: {', '.join(Mode)}")
        mode = Mode(parts.pop(0))
        granularity, algorithm = DEFAULT_GRANULARITY[mode], DEFAULT_ALGORITHM
        if parts and parts[0] in list(Granularity):
            granularity = Granularity(parts.pop(0))
        if parts and parts[0] in ALGORITHMS:
            algorithm = parts.pop(0)
        if parts:
            known = [*Granularity, *ALGORITHMS]
            near = did_you_mean(parts[0], known)
            raise UsageError(
                f"{text!r}: unknown or misplaced part {parts[0]!r}{near}: after the mode come a granularity "
                f"({', '.join(Granularity)}) and an algorithm ({', '.join(ALGORITHMS)}), in that order"
            )
        return cls(int(bits[1]), mode, granularity, algorithm)
