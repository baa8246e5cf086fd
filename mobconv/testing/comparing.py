"""Comparisons of outputs, and of artifacts that are a file or a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mobconv.schemes import Compute

# of the largest output: rounding in fp32, and in fp16 with a rounding after each operation
CLOSE = {Compute.FP32: 1e-4, Compute.FP16: 3e-2}


def assert_close(outputs: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], tolerance: float) -> None:
    """Assert equal names and shapes, and differences of at most `tolerance` of the largest value."""
    assert set(outputs) == set(expected)
    for name, values in expected.items():
        assert outputs[name].shape == values.shape
        np.testing.assert_allclose(outputs[name], values, rtol=0, atol=tolerance * np.abs(values).max())


def files_of(path: Path) -> list[Path]:
    """The files of an artifact, which may be a folder."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def size_of(path: Path) -> int:
    """Bytes of an artifact."""
    return sum(file.stat().st_size for file in files_of(path))


def digest_of(path: Path) -> str:
    """SHA-256 over names and contents of an artifact's files."""
    digest = hashlib.sha256()
    for file in files_of(path):
        digest.update(f"{file.relative_to(path)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
