"""A traced network as every backend converts it: graph, example inputs, names of outputs, weights to quantize."""

from __future__ import annotations

import copy
import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import GraphModule
    from torch.utils._pytree import TreeSpec

Floats = NDArray[np.float32]
ADDED = "mobconv_"  # first letters of the names of what image_input.py adds: never quantized, never rounded
IMAGE = "image"  # name of the input of a network with one input, of float32


_SMALL_PART = 0.02  # of all parameters: smaller ones change no file's size noticeably


@dataclass(frozen=True)
class WeightSite:
    """A parameter that is quantized.

    name  of the parameter, as in the module
    shape of the parameter
    axis  of the output channels in `shape`
    op    the first ATen operator that reads it, such as aten.conv2d.default
    """

    name: str
    shape: tuple[int, ...]
    axis: int
    op: str


@dataclass(frozen=True, eq=False)
class Program:
    """A traced network with batch norm folded.

    module   the graph in eval mode; parameters have the names that they had in the user's module
    example  the inputs it was traced with, by name, of any dtype; the leading dimension is the batch
    outputs  names of the outputs, in order
    sites    the weights that are quantized, in order of use, by name
    image    'rgb', 'bgr', 'gray' or 'other' (of other channels) where the input is an image of pixels from 0 to 255
             (see image_input.py); '' for a tensor
    labels   names of the classes, for formats that store them; empty where unknown
    batch    the only number of samples that it runs on; None for any
    notes    what tracing noticed, to be shown
    """

    module: GraphModule
    example: dict[str, NDArray[Any]]
    outputs: tuple[str, ...]
    sites: dict[str, WeightSite]
    image: str = ""
    labels: tuple[str, ...] = ()
    batch: int | None = None
    notes: tuple[str, ...] = ()

    def floats(self) -> dict[str, Floats]:
        """Copy all float parameters and buffers of the folded graph, by name; those of image_input.py left out."""
        return {
            name: np.array(value.detach().numpy(), np.float32)
            for name, value in self._tensors()
            if value.is_floating_point() and not name.startswith(ADDED)
        }

    def with_values(self, values: Mapping[str, NDArray[np.float32]]) -> Program:
        """Return the same program with other values in some parameters. Raises KeyError for an unknown name."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own pytree, copied
            module = copy.deepcopy(self.module)
        tensors = dict(replace(self, module=module)._tensors())
        with torch.no_grad():
            for name, value in values.items():
                tensors[name].copy_(torch.from_numpy(np.array(value, np.float32, order="C")))
        return replace(self, module=module)

    def exported(self) -> ExportedProgram:
        """Export the graph again (ATen, batch as in `example`) for a converter, which may change what it is given."""
        import torch

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(self.module, self._example_tensors(), strict=False)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run in PyTorch eager, fp32, on arrays of any number of samples, by name of the input."""
        return in_batches(self._run, feeds, self.batch)

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        import torch
        from torch.utils._pytree import tree_leaves

        with torch.inference_mode():
            outputs = self.module(*(torch.from_numpy(feeds[name]) for name in self.example))
        tensors = (leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor))
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, tensors, strict=True)}

    def unquantized(self) -> str:
        """Say which large parameters stay float under any scheme, and what reads them; '' where they are few."""
        from mobconv.model import constant_weights

        counts = {name: value.numel() for name, value in self.module.named_parameters()}
        others = {
            name: reader
            for name, reader in constant_weights.unquantized(self.module).items()
            if counts[name] > _SMALL_PART * sum(counts.values())
        }
        if not others:
            return ""
        share = 100 * sum(counts[name] for name in others) / sum(counts.values())
        readers = ", ".join(f"{name} (read by {reader})" for name, reader in others.items())
        return f"{share:.0f} % of the parameters stay float, because no layer reads them as its weight: {readers}"

    def sha256(self) -> str:
        """Hash the graph's code and every tensor in it: the key of a template."""
        digest = hashlib.sha256(self.module.code.encode())
        for name, value in self._tensors():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(np.ascontiguousarray(value.detach().numpy()).tobytes())
        return digest.hexdigest()

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self.module.named_parameters()
        yield from self.module.named_buffers()

    def _example_tensors(self) -> tuple[torch.Tensor, ...]:
        import torch

        return tuple(torch.from_numpy(value) for value in self.example.values())


def in_batches(
    run: Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]],
    inputs: Mapping[str, NDArray[Any]],
    batch: int | None,
) -> dict[str, NDArray[Any]]:
    """Run on inputs of any number of samples, `batch` at a time; the last batch is filled up with its last sample."""
    count = len(next(iter(inputs.values())))
    if batch is None or count == batch:
        return run(inputs)
    parts: list[dict[str, NDArray[Any]]] = []
    for start in range(0, count, batch):
        part = {name: value[start : start + batch] for name, value in inputs.items()}
        lacking = batch - len(next(iter(part.values())))
        if lacking:
            part = {name: np.concatenate([value, *[value[-1:]] * lacking]) for name, value in part.items()}
        outputs = run(part)
        parts.append({name: value[: batch - lacking] if value.ndim else value for name, value in outputs.items()})
    return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}


def output_names(structure: TreeSpec, inputs: Iterable[str] = ()) -> tuple[str, ...]:
    """Name each leaf of what a module returns, in order.

    A tensor alone is `logits`, those of a tuple or list are `output_0`, `output_1` and so on; in a dict (or a dataclass
    that PyTorch knows) a leaf has its key, with the keys and positions around it where it is nested: `boxes`,
    `levels_0`. Where two leaves, or a leaf and an input, would share a name, all are numbered.
    """
    from torch.utils._pytree import SequenceKey, tree_flatten_with_path, tree_unflatten

    count = structure.num_leaves
    paths = [path for path, _ in tree_flatten_with_path(tree_unflatten(list(range(count)), structure))[0]]
    numbered = tuple(f"output_{position}" for position in range(count))
    if all(isinstance(part, SequenceKey) for path in paths for part in path):
        return ("logits",) if count == 1 else numbered
    parts = [[getattr(part, "key", getattr(part, "name", getattr(part, "idx", ""))) for part in path] for path in paths]
    names = tuple(re.sub(r"\W", "_", "_".join(map(str, part))) for part in parts)
    return names if len({*names, *inputs}) == len([*names, *inputs]) and all(names) else numbered
