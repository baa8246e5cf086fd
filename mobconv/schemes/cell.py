"""Cells: a scheme in one backend, with storage and precision of compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from mobconv.errors import UsageError, did_you_mean
from mobconv.schemes.algorithms import supporting
from mobconv.schemes.parts import BITS, Compute, Granularity, Mode, Storage
from mobconv.schemes.scheme import Scheme


@dataclass(frozen=True)
class Cell:
    """One backend x one scheme, with storage and precision of compute.

    default_compute  the backend's own: the name says `@fp16` or `@fp32` only where `compute` differs from it
    """

    backend: str
    scheme: Scheme
    storage: Storage = Storage.PACKED
    compute: Compute = Compute.FP32
    default_compute: Compute = Compute.FP32

    @property
    def rest(self) -> str:
        """The name without its backend: also the file name, without suffix."""
        text = self.scheme.name
        if self.storage is not Storage.PACKED:
            text += f"@{self.storage}"
        if self.compute is not self.default_compute:
            text += f"@{self.compute}"
        return text

    @property
    def name(self) -> str:
        """The canonical name, defaults left out."""
        return f"{self.backend}/{self.rest}"

    def __str__(self) -> str:
        return self.name

    def path(self, suffix: str) -> PurePosixPath:
        """Path of the artifact below the output folder: ``<backend>/<rest>.<suffix>``."""
        return PurePosixPath(self.backend) / f"{self.rest}.{suffix}"

    @classmethod
    def parse(cls, text: str, default_compute: Compute = Compute.FP32) -> Cell:
        """The cell of a name, in any order of flags, defaults spelled out or not.

        default_compute: precision of compute where the name has neither `@fp16` nor `@fp32`. Raises UsageError naming
        the part that is wrong; whether the backend exists is not checked here.
        """
        backend, slash, rest = text.partition("/")
        if not slash or not backend or not rest:
            raise UsageError(f"Unknown cell {text!r}: write <backend>/<scheme>, such as onnx/w4-kmeans")
        name, *flags = rest.split("@")
        known = [Storage.NATIVE, *Compute]
        for flag in flags:
            if flag not in known:
                near = did_you_mean(flag, known)
                raise UsageError(f"{text!r}: unknown flag '@{flag}'{near}: {', '.join(f'@{each}' for each in known)}")
        computes = [Compute(flag) for flag in flags if flag in list(Compute)]
        if len(set(flags)) != len(flags) or len(computes) > 1:
            raise UsageError(f"{text!r}: give @native at most once, and at most one of @fp16 and @fp32")
        return cls(
            backend,
            Scheme.parse(name),
            Storage.NATIVE if Storage.NATIVE in flags else Storage.PACKED,
            computes[0] if computes else default_compute,
            default_compute,
        )


def grammar() -> str:
    """The grammar of a scheme with its storage and compute, as a regular expression of JSON Schema (ECMA 262)."""
    granularities, computes = "|".join(Granularity), "|".join(f"@{compute}" for compute in Compute)
    together: dict[tuple[str, ...], list[Mode]] = {}  # modes by the algorithms that support them
    for mode in Mode:
        together.setdefault(supporting(mode), []).append(mode)
    quantized = (
        f"w[{BITS[0]}-{BITS[-1]}]-({'|'.join(modes)})(-({granularities}))?(-({'|'.join(algorithms)}))?"
        for algorithms, modes in together.items()
    )
    return f"(fp32|fp16|{'|'.join(quantized)})(@native({computes})?|({computes})(@native)?)?"
