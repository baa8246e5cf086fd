"""The reference: the traced program, with the tensors at its weighted operations."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import BackendError, InputError
from mobconv.model.trace import Program, Site, weighted

if TYPE_CHECKING:
    from torch.fx import Node

Floats = NDArray[np.float32]


class _Enough(Exception):  # noqa: N818
    """All that was asked for is computed."""


@dataclass(frozen=True)
class Use:
    """One operation of the program that reads a quantizable weight.

    index   in order of execution
    name    path of the module, '#2' behind it where it is used a second time
    node    name of the operation in the traced graph, source: of its input
    family  'conv', 'linear' or 'embedding'
    """

    index: int
    name: str
    site: Site
    node: str
    source: str
    family: str


class Reference:
    """A program whose every tensor can be looked at. shapes: by node, for a batch as in `example`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._nodes: dict[str, Node] = {node.name: node for node in program.module.graph.nodes}
        self.uses = tuple(self._uses())
        produced = next(node for node in program.module.graph.nodes if node.op == "output")
        from torch.utils._pytree import tree_leaves

        self.output: str = tree_leaves(produced.args)[0].name
        example = next(iter(program.example.values()))
        self.batch = len(example)
        names = {use.node for use in self.uses} | {use.source for use in self.uses} | {self.output}
        self.shapes = {name: value.shape for name, value in self.run(example, names).items()}

    def _uses(self) -> list[Use]:
        found: list[Use] = []
        seen: dict[str, int] = {}
        for node, name, _ in weighted(self.program.module):
            family = next((each for each in ("embedding", "linear") if each in str(node.target)), "conv")
            seen[name] = seen.get(name, 0) + 1
            path = name.removesuffix(".weight") + (f"#{seen[name]}" if seen[name] > 1 else "")
            source: Any = node.args[1 if family == "embedding" else 0]
            found.append(Use(len(found), path, self.program.sites[name], node.name, source.name, family))
        return found

    def run(self, inputs: NDArray[Any], names: Set[str]) -> dict[str, NDArray[Any]]:
        """Values of these nodes on inputs (N, ...). Raises InputError where the network does not run on them."""
        import torch

        kept: dict[str, NDArray[Any]] = {}

        class Watch(torch.fx.Interpreter):
            def run_node(self, n: Node) -> Any:
                value = super().run_node(n)
                if n.name in names:
                    kept[n.name] = value.numpy()
                    if len(kept) == len(names):
                        raise _Enough
                return value

        try:
            with torch.inference_mode(), contextlib.suppress(_Enough):
                Watch(self.program.module).run(torch.from_numpy(np.array(inputs)))
        except RuntimeError as error:
            if len(inputs) <= self.batch:
                first = str(error).strip().partition("\n")[0]
                raise InputError(f"the network does not run on inputs of shape {inputs.shape}: {first}") from error
            kept.clear()
        if all(self._fits(name, kept.get(name), len(inputs)) for name in names):
            return kept
        size = self.batch  # which is part of the graph, as in a transformer's reshapes
        parts = [self.run(inputs[i : i + size], names) for i in range(0, len(inputs), size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _fits(self, name: str, value: NDArray[Any] | None, count: int) -> bool:
        """Whether a value is of so many samples."""
        if count <= self.batch:
            return True
        shape = self.shapes[name]
        return value is not None and value.shape == (shape[0] * count // self.batch, *shape[1:])

    def apply(self, use: Use, source: NDArray[Any], weight: Floats) -> Floats:
        """What the operation alone makes of an input with another weight (of the site's shape), bias included."""
        import torch

        node = self._nodes[use.node]
        position = 0 if use.family == "embedding" else 1

        def value(each: Any, index: int) -> Any:
            if index == position:
                return torch.from_numpy(np.array(weight, np.float32))
            if index == 1 - position:
                return torch.from_numpy(np.array(source))
            if isinstance(each, torch.fx.Node):
                if each.op != "get_attr":
                    raise BackendError(f"{use.name}: an operand of it is computed")
                return operator.attrgetter(str(each.target))(self.program.module)
            return each

        with torch.inference_mode():
            arguments = [value(each, index) for index, each in enumerate(node.args)]
            keywords = {key: value(each, -1) for key, each in node.kwargs.items()}
            found = node.target(*arguments, **keywords)  # type: ignore[operator]
        return np.asarray(found.numpy(), np.float32)

    def between(self, node: str) -> str:
        """Where a node stands, for people: its module's path and the operation, as in 'features.3 (add)'."""
        found = self._nodes[node]
        if found.op == "placeholder":
            return "input"
        stack = found.meta.get("nn_module_stack") or {}
        path = list(stack.values())[-1][0] if stack else ""
        operation = str(found.target).removeprefix("aten.").partition(".")[0]
        return f"{path} ({operation})" if path else operation

    def following(self, use: Use) -> str:
        """The activation that alone reads the operation's output: 'relu', 'relu6', or '' for another or none."""
        readers = list(self._nodes[use.node].users)
        if len(readers) != 1:
            return ""
        target, limits = str(readers[0].target).removeprefix("aten."), tuple(readers[0].args[1:])
        if target in ("relu.default", "relu_.default"):
            return "relu"
        hard = target in ("hardtanh.default", "hardtanh_.default", "clamp.default", "clamp_.default", "relu6.default")
        return "relu6" if hard and (limits == (0, 6) or target == "relu6.default") else ""
