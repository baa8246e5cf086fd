"""The algorithms that choose codes and parameters: names, modes and needs, without importing one.

Grammar, help, error messages and the JSON Schema of recipes are generated from `ALGORITHMS`. They are read by commands
that import neither numpy nor anything above this package, so an entry has the name of the algorithm's module, which
`mobconv.quantize.algorithms` imports when it quantizes the first tensor.

To add an algorithm, write `mobconv/quantize/algorithms/<name>.py` and add one line below. Run
`tests/quantize/test_algorithm_conformance.py`, which tries every line in every mode, width and granularity.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from mobconv.schemes.parts import Mode


class Needs(StrEnum):
    """The input that an algorithm chooses codes by. It decides where its module is and who calls it.

    | needs            | module in                    | called with                                                    |
    |------------------|------------------------------|----------------------------------------------------------------|
    | WEIGHTS          | mobconv/quantize/algorithms/ | the weights of one tensor, in groups                           |
    | LAYER_STATISTICS | mobconv/quantize/algorithms/ | `quantize.layer.Layer`: weights to approximate, solved from    |
    |                  |                              | moments of the float layer's outputs; second moments of the    |
    |                  |                              | layer's inputs in the network quantized so far; both from      |
    |                  |                              | pipeline/calibration.py                                        |
    | PROGRAM          | mobconv/pipeline/algorithms/ | the program and calibration inputs, for all tensors at once    |
    """

    WEIGHTS = "weights"
    LAYER_STATISTICS = "layer statistics"
    PROGRAM = "program"


@dataclass(frozen=True)
class Algorithm:
    """An algorithm as the grammar knows it.

    module   dotted name of the module that has its `fit`
    needs    the input that it chooses codes by
    modes    the modes that it supports, at every width and granularity
    summary  what it does with the weights, for the docs
    """

    module: str
    needs: Needs
    modes: tuple[Mode, ...]
    summary: str


_HERE = "mobconv.quantize.algorithms"
_SCALES = (Mode.LINEAR, Mode.SYMMETRIC)
DEFAULT_ALGORITHM = "mse"

# name in the grammar -> algorithm; in the order of help and docs
ALGORITHMS = {
    "mse": Algorithm(f"{_HERE}.mse", Needs.WEIGHTS, tuple(Mode), "minimises the squared error of the weights"),
    "minmax": Algorithm(f"{_HERE}.minmax", Needs.WEIGHTS, _SCALES, "spans the range of the weights, clips none"),
    "gptq": Algorithm(
        f"{_HERE}.gptq",
        Needs.LAYER_STATISTICS,
        tuple(Mode),
        "fits codes, scales and biases to each layer's inputs, on calibration data",
    ),
}


def supporting(mode: Mode) -> tuple[str, ...]:
    """Names of the algorithms that support a mode."""
    return tuple(name for name, algorithm in ALGORITHMS.items() if mode in algorithm.modes)
