"""Small networks for tests of backends, and what PyTorch computes with their quantized weights."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Backend, Encoded, Entry
from mobconv.data.preprocessing import Preprocessing
from mobconv.quantize import quantize
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.scales import to_fp16
from mobconv.schemes import Cell, Compute, Scheme

if TYPE_CHECKING:
    from mobconv.model.program import Program

Arrays = dict[str, NDArray[Any]]

LABELS = ("a cat", "ein Bär", "c", "d", "e")
PREPROCESSING = Preprocessing((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))


@dataclass(frozen=True)
class Converted:
    """A network as a backend has converted it, and its template."""

    backend: Backend
    entry: Entry
    template: Path
    program: Program

    def encode(self, cell: Cell, path: Path, record: str = "") -> Encoded:
        """Write a cell's file."""
        return self.backend.encode(self.template, self.model(cell.scheme), cell, path, record)

    def model(self, scheme: Scheme) -> QuantizedModel:
        """The network's weights under a scheme."""
        values = self.program.floats()
        sites = self.program.sites
        return QuantizedModel({name: quantize(name, values[name], sites[name].axis, scheme) for name in sites})

    def expected(
        self, scheme: Scheme, feeds: Arrays, biases: Mapping[str, NDArray[np.float32]] | None = None
    ) -> Arrays:
        """Outputs in PyTorch, with the weights that the scheme's codes stand for; biases too are rounded under fp16.

        biases: in place of the program's.
        """
        program = self.entry.computed or self.entry.program
        values: dict[str, NDArray[np.float32]] = dict(biases or {})
        if scheme.mode is None and scheme.bits == 16:
            values = {name: to_fp16(name, value) for name, value in {**program.floats(), **values}.items()}
        values |= {name: weight.dequantize() for name, weight in self.model(scheme).weights.items()}
        return program.with_values(values).run(feeds)


_READY: dict[tuple[str, str, Compute], Converted] = {}


def convert(backend: Backend, entry: Entry, folder: Path, compute: Compute) -> Converted:
    """Convert an entry into a template in a folder, which is made where there is none."""
    folder.mkdir(exist_ok=True)
    backend.convert(entry.program, compute, folder, entry.options)
    return Converted(backend, entry, folder, entry.program)


def once(key: tuple[str, str, Compute], convert_now: Callable[[], Converted]) -> Converted:
    """A conversion takes seconds, and is shared by all tests of a run."""
    if key not in _READY:
        _READY[key] = convert_now()
    return _READY[key]


def two_inputs() -> Program:
    """(N, 12) and (N, 5) -> two outputs of 20: a layer by itself, and a sum of two."""
    import torch
    from torch import nn

    from mobconv.model.trace import trace

    class Vectors(nn.Module):
        """Two inputs, two outputs; the first layer's output is that of nothing else."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(12, 20, bias=False), nn.Linear(5, 20)

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """(N, 12), (N, 5) -> (N, 20), (N, 20)."""
            product = self.first(first)
            return product, torch.relu(product + self.second(second))

    torch.manual_seed(0)
    return trace(Vectors(), {"first": np.zeros((1, 12), np.float32), "second": np.zeros((1, 5), np.float32)})


def equal_biases() -> Program:
    """(N, 3, 8, 8) -> (N, 6): layers of every kind, with biases of zero, equal ones, one of one value, and none."""
    import torch
    from torch import nn

    from mobconv.model.trace import trace

    class Biases(nn.Module):
        """A small convolutional network."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
            self.pointwise = nn.Conv2d(12, 8, 1)
            self.unbiased = nn.Conv2d(8, 8, 1, bias=False)
            self.transposed = nn.ConvTranspose2d(8, 8, 2, stride=2)
            self.first, self.bare, self.second = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 6)
            parameters = dict(self.named_parameters())
            with torch.no_grad():
                for layer in ("stem", "depthwise", "second"):
                    parameters[f"{layer}.bias"].zero_()
                parameters["transposed.bias"].copy_(parameters["first.bias"])
                parameters["pointwise.bias"].fill_(0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """(N, 3, 8, 8) -> (N, 6)."""
            x = nn.functional.relu6(self.depthwise(torch.relu(self.stem(x))))
            x = self.unbiased(torch.relu(self.pointwise(torch.relu(self.grouped(x)))))
            x = torch.relu(self.first(self.transposed(x).mean((2, 3))))
            out: torch.Tensor = self.second(self.bare(x))
            return out

    torch.manual_seed(0)
    return trace(Biases(), {"image": np.zeros((1, 3, 8, 8), np.float32)})


def two_equal_layers() -> Program:
    """(N, 4) -> (N, 8): two linear layers, the second with the bias of the first."""
    import torch
    from torch import nn

    from mobconv.model.trace import trace

    torch.manual_seed(0)
    first, second = nn.Linear(4, 8), nn.Linear(8, 8)
    with torch.no_grad():
        second.bias.copy_(first.bias)
    layers = OrderedDict[str, nn.Module](first=first, relu=nn.ReLU(), second=second)
    return trace(nn.Sequential(layers), {"image": np.zeros((1, 4), np.float32)})


def one_image() -> Program:
    """(N, 3, 8, 8) -> (N, 5): a stem, a depthwise and a 1x1 convolution, and a linear layer."""
    import torch
    from torch import nn

    from mobconv.model.trace import trace

    class Convolutions(nn.Module):
        """A small convolutional network."""

        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(8)
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.pointwise = nn.Conv2d(8, 20, 1)
            self.head = nn.Linear(20, len(LABELS))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """(N, 3, 8, 8) -> (N, 5)."""
            x = torch.relu(self.norm(self.stem(x)))
            x = torch.relu(self.pointwise(self.depthwise(x)))
            out: torch.Tensor = self.head(x.mean((2, 3)))
            return out

    torch.manual_seed(0)
    return trace(Convolutions(), {"image": np.zeros((1, 3, 8, 8), np.float32)})
