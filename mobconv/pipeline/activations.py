"""Values of a graph's nodes on many samples, in chunks: float32 in memory, on disk beyond a limit."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch.fx import Node

LIMIT = 2**30  # bytes kept in memory; further values are written to files


class Activations:
    """Chunks of values by node. A node that no sample changes has one chunk for all.

    folder: where values beyond `LIMIT` bytes are written, in files that are removed with their nodes; chunks: number of
    chunks of the samples.
    """

    def __init__(self, folder: Path, chunks: int) -> None:
        folder.mkdir()
        self._folder, self._count, self._used = folder, chunks, 0
        self._chunks: dict[Node, list[Any]] = {}
        self._numbers = itertools.count()

    def __contains__(self, node: Node) -> bool:
        return node in self._chunks

    def constant(self, node: Node) -> bool:
        """Whether a node has one value for several chunks."""
        return self._count > 1 and len(self._chunks[node]) == 1

    def append(self, node: Node, value: Any) -> None:
        """Store the next chunk of a node: a tensor, or a tree of them. Floating point is rounded to float32."""
        from torch.utils._pytree import tree_map

        self._chunks.setdefault(node, []).append(tree_map(self._stored, value))

    def share(self, node: Node, other: Activations) -> None:
        """Take the chunks that another network has for a node: both compute the same."""
        self._chunks[node] = other._chunks[node]

    def get(self, node: Node, chunk: int) -> Any:
        """A chunk's value, floating point as float64."""
        from torch.utils._pytree import tree_map

        chunks = self._chunks[node]
        return tree_map(self._loaded, chunks[chunk if len(chunks) > 1 else 0])

    def drop(self, node: Node, shared: bool) -> None:
        """Forget a node's values. shared: another network has them too, and they stay for it."""
        from torch.utils._pytree import tree_leaves

        chunks = self._chunks.pop(node, [])
        if shared or any(chunks is others for others in self._chunks.values()):
            return
        for leaf in tree_leaves(chunks):
            if isinstance(leaf, _Spilled):
                leaf.path.unlink()
            elif hasattr(leaf, "nbytes"):
                self._used -= leaf.nbytes

    def overwrite(self, node: Node, writer: Node, shared: bool) -> None:
        """Give a node the values of an operation that wrote into it; shared: see `drop`."""
        self.drop(node, shared)
        self._chunks[node] = self._chunks[writer]

    def shares(self, node: Node, other: Activations) -> bool:
        """Whether a node's chunks are those of the other network."""
        return self._chunks.get(node) is other._chunks.get(node)

    def _stored(self, leaf: Any) -> Any:
        import torch

        if not isinstance(leaf, torch.Tensor):
            return leaf
        value = leaf.detach().to(torch.float32) if leaf.is_floating_point() else leaf.detach()
        if self._used + value.nbytes <= LIMIT:
            self._used += value.nbytes
            return value.contiguous()
        path = self._folder / f"{next(self._numbers)}.npy"
        np.save(path, value.contiguous().numpy())
        return _Spilled(path)

    @staticmethod
    def _loaded(leaf: Any) -> Any:
        import torch

        if isinstance(leaf, _Spilled):
            leaf = torch.from_numpy(np.load(leaf.path))
        if not isinstance(leaf, torch.Tensor):
            return leaf
        # copies, into which an operation may write
        return leaf.to(torch.float64) if leaf.is_floating_point() else leaf.clone()


class _Spilled:
    """A tensor in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
