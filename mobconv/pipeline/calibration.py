"""TEMPORARY, replaced when the algorithm is merged: quantize a network by mse in place of a fit to calibration data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from mobconv.model.program import Program
from mobconv.pipeline.quantized import SchemeFor, quantize_model
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Scheme


@dataclass(frozen=True)
class Calibrated:
    """A network quantized on calibration data, and a note for its rows."""

    model: QuantizedModel
    note: str


def fit_network(
    program: Program,
    scheme: Scheme,
    scheme_for: SchemeFor,
    feed: Callable[[slice], Mapping[str, NDArray[Any]]],
    count: int,
    stage: Callable[[str], None] = lambda text: None,
) -> Calibrated:
    """Quantize every weight of a program by mse."""
    program.run(dict(feed(slice(0, min(count, 2)))))

    def by_mse(name: str, scheme: Scheme) -> Scheme:
        return replace(scheme_for(name, scheme), algorithm="mse")

    return Calibrated(quantize_model(program, scheme, by_mse), "")
