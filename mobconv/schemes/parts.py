"""The parts of a cell's name: width, mode, granularity, storage and precision of compute."""

from __future__ import annotations

from enum import StrEnum

BITS = range(1, 9)


class Mode(StrEnum):
    """How an n-bit code stands for a weight."""

    LINEAR = "linear"  # w = scale * (code - zero point); at 1 bit a table of two free values
    SYMMETRIC = "symmetric"  # w = scale * q, |q| <= 2^(n-1) - 1; at 1 bit {-scale, +scale}
    KMEANS = "kmeans"  # w = table[code]


class Granularity(StrEnum):
    """The weights that share one scale or table."""

    TENSOR = "tensor"
    CHANNEL = "channel"  # one output channel
    OC16 = "oc16"  # 16 output channels; the last group may have fewer


class Storage(StrEnum):
    """The width of a code on disk."""

    PACKED = "packed"  # n bits
    NATIVE = "native"  # the next width that the runtime reads without unpacking


class Compute(StrEnum):
    """The precision that the program computes in; a scheme is about storage."""

    FP32 = "fp32"
    FP16 = "fp16"


DEFAULT_GRANULARITY = {
    Mode.LINEAR: Granularity.CHANNEL,
    Mode.SYMMETRIC: Granularity.CHANNEL,
    Mode.KMEANS: Granularity.TENSOR,
}
