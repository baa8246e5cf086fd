"""The grammar of schemes and cells: one string names a file, a row of the table and an ``--only`` glob.

    cell    <backend>/<scheme>[@native][@fp16]
    scheme  fp32 | fp16 | w<bits>-<mode>[-<granularity>][-<algorithm>]

Defaults are left out of the canonical name: granularity `channel` for linear and symmetric, `tensor`
for kmeans; algorithm `mse`; storage packed; compute fp32. So `w4-kmeans-tensor` is `w4-kmeans`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

from mobconv.errors import UsageError, did_you_mean

BITS = range(1, 9)


class Mode(StrEnum):
    """How n-bit codes stand for weights."""

    LINEAR = "linear"  # w = scale * (code - zero point); at 1 bit a table of two free values
    SYMMETRIC = "symmetric"  # w = scale * q, |q| <= 2^(n-1) - 1; at 1 bit {-scale, +scale}
    KMEANS = "kmeans"  # w = table[code]


class Granularity(StrEnum):
    """What shares one scale or table."""

    TENSOR = "tensor"
    CHANNEL = "channel"  # one output channel
    OC16 = "oc16"  # 16 output channels; the last group may be shorter


class Algorithm(StrEnum):
    """How scales and zero points are chosen."""

    MSE = "mse"
    MINMAX = "minmax"


class Storage(StrEnum):
    """What codes take on disk."""

    PACKED = "packed"  # n bits each
    NATIVE = "native"  # the next width that the runtime accelerates


class Compute(StrEnum):
    """The precision that the program runs in; schemes are about storage."""

    FP32 = "fp32"
    FP16 = "fp16"


DEFAULT_GRANULARITY = {
    Mode.LINEAR: Granularity.CHANNEL,
    Mode.SYMMETRIC: Granularity.CHANNEL,
    Mode.KMEANS: Granularity.TENSOR,
}


def grammar() -> str:
    """The grammar of a scheme with its storage and compute, as a regular expression of JSON Schema (ECMA 262)."""
    shares = "|".join(Granularity)
    scales = f"w[1-8]-({Mode.LINEAR}|{Mode.SYMMETRIC})(-({shares}))?(-({'|'.join(Algorithm)}))?"
    tables = f"w[1-8]-{Mode.KMEANS}(-({shares}))?(-{Algorithm.MSE})?"
    return f"(fp32|fp16|{scales}|{tables})(@native(@fp16)?|@fp16(@native)?)?"


@dataclass(frozen=True)
class Scheme:
    """How weights are stored. `mode` is None for the float schemes (bits 32 and 16)."""

    bits: int
    mode: Mode | None = None
    granularity: Granularity = Granularity.TENSOR
    algorithm: Algorithm = Algorithm.MSE

    def __post_init__(self) -> None:
        if self.mode is None:
            if self.bits not in (16, 32):
                raise UsageError(f"{self.bits} bits need a mode: w{self.bits}-linear, -symmetric or -kmeans")
            return
        if self.bits not in BITS:
            raise UsageError(f"w{self.bits}-{self.mode}: widths are 1 to 8 bits, or fp16 and fp32")
        if self.mode is Mode.KMEANS and self.algorithm is Algorithm.MINMAX:
            raise UsageError(f"w{self.bits}-kmeans-minmax: k-means minimises squared error; minmax is for scales")

    @property
    def name(self) -> str:
        """The canonical name, defaults left out."""
        if self.mode is None:
            return f"fp{self.bits}"
        parts = [f"w{self.bits}", self.mode.value]
        if self.granularity is not DEFAULT_GRANULARITY[self.mode]:
            parts.append(self.granularity.value)
        if self.algorithm is not Algorithm.MSE:
            parts.append(self.algorithm.value)
        return "-".join(parts)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """Raises UsageError naming the part that is not understood."""
        if text in ("fp32", "fp16"):
            return cls(int(text[2:]))
        head, *rest = text.split("-")
        width = re.fullmatch(r"w(\d+)", head)
        if width is None or not rest:
            raise UsageError(
                f"{text!r} is no scheme: fp32, fp16 or w<bits>-<mode>, such as w4-kmeans"
                + did_you_mean(text, ["fp32", "fp16", *(f"w{b}-{m}" for b in BITS for m in Mode)])
            )
        if rest[0] not in list(Mode):
            raise UsageError(f"{text!r}: {rest[0]!r} is no mode of {', '.join(Mode)}" + did_you_mean(rest[0], Mode))
        mode = Mode(rest.pop(0))
        granularity, algorithm = DEFAULT_GRANULARITY[mode], Algorithm.MSE
        if rest and rest[0] in list(Granularity):
            granularity = Granularity(rest.pop(0))
        if rest and rest[0] in list(Algorithm):
            algorithm = Algorithm(rest.pop(0))
        if rest:
            known = [*Granularity, *Algorithm]
            raise UsageError(
                f"{text!r}: {rest[0]!r} is no granularity or algorithm ({', '.join(known)}, in that order)"
                + did_you_mean(rest[0], known)
            )
        return cls(int(width[1]), mode, granularity, algorithm)


@dataclass(frozen=True)
class Cell:
    """One backend x one scheme, with storage and precision of compute."""

    backend: str
    scheme: Scheme
    storage: Storage = Storage.PACKED
    compute: Compute = Compute.FP32

    @property
    def rest(self) -> str:
        """The name without its backend: also the file name, without suffix."""
        text = self.scheme.name
        if self.storage is Storage.NATIVE:
            text += "@native"
        if self.compute is Compute.FP16:
            text += "@fp16"
        return text

    @property
    def name(self) -> str:
        return f"{self.backend}/{self.rest}"

    def __str__(self) -> str:
        return self.name

    def path(self, suffix: str) -> PurePosixPath:
        """Where its artifact lies below the output folder: ``<backend>/<rest>.<suffix>``."""
        return PurePosixPath(self.backend) / f"{self.rest}.{suffix}"

    @classmethod
    def parse(cls, text: str) -> Cell:
        """Raises UsageError; the backend's name is not looked up here."""
        backend, slash, rest = text.partition("/")
        if not slash or not backend or not rest:
            raise UsageError(f"{text!r} is no cell: <backend>/<scheme>, such as onnx/w4-kmeans")
        name, *flags = rest.split("@")
        unknown = [flag for flag in flags if flag not in ("native", "fp16")]
        if unknown or len(set(flags)) != len(flags):
            raise UsageError(f"{text!r}: after the scheme come @native and @fp16, each at most once")
        return cls(
            backend,
            Scheme.parse(name),
            Storage.NATIVE if "native" in flags else Storage.PACKED,
            Compute.FP16 if "fp16" in flags else Compute.FP32,
        )
