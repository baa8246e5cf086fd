"""Cells that a neuralnetwork file can represent; needs no coremltools."""

from __future__ import annotations

from mobconv.backends.base import Support
from mobconv.schemes import Cell, Compute, Granularity, Mode, Storage

_COMPUTE = (
    "a neuralnetwork file does not say in which precision it runs: Core ML computes it in fp32 on the CPU and in fp16 "
    "on the GPU and the Neural Engine; leave @fp16 out (for a program that says so, use the backend coreml)"
)
_ONE_TABLE = (
    "neuralnetwork holds one table a layer; k-means per tensor (leave the granularity out) fits, and the backend "
    "coreml has a table for each channel"
)
_ONE_SCALE = (
    "neuralnetwork holds one scale for each output channel or one for the tensor; granularity channel takes the same "
    "bytes and is more accurate"
)
_NATIVE = "every width is native to this format: the same file as without @native"
# Inputs of exact shape (EXACT_ARRAY_MAPPING) need specification version 4. Quantized weights came one earlier.
_REQUIRES = "iOS13"


def support(cell: Cell) -> Support:
    """`Backend.support`: the bits asked for, at every width."""
    scheme = cell.scheme
    if cell.compute is Compute.FP16:
        return Support(None, reason=_COMPUTE)
    if scheme.mode is Mode.KMEANS and scheme.granularity is not Granularity.TENSOR:
        return Support(None, reason=_ONE_TABLE)
    if scheme.mode is not None and scheme.granularity not in (Granularity.TENSOR, Granularity.CHANNEL):
        return Support(None, reason=_ONE_SCALE)
    note = _NATIVE if cell.storage is Storage.NATIVE and scheme.mode is not None else ""
    return Support(scheme.bits, requires=_REQUIRES, note=note)
