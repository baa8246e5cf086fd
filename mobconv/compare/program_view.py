"""The traced program, any tensor of which can be read: the counterpart of a file's graph view."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import BackendError, InputError
from mobconv.model.biases import biases_of
from mobconv.model.program import Program, WeightSite
from mobconv.model.weight_ops import weighted

if TYPE_CHECKING:
    from torch.fx import Node

Floats = NDArray[np.float32]
_BIAS = 2  # position of the bias among the arguments of a convolution or linear layer


class _Finished(Exception):  # noqa: N818
    """All nodes that were asked for are computed."""


@dataclass(frozen=True)
class WeightUse:
    """One operation of the program that reads a quantizable weight.

    index   in order of execution
    name    path of the module; with '#2' behind it for the second use of the same weight
    node    name of the operation in the traced graph; source: of its input
    family  'conv', 'linear' or 'embedding'
    bias    name of the parameter that it adds; '' for none
    """

    index: int
    name: str
    site: WeightSite
    node: str
    source: str
    family: str
    bias: str = ""


class ProgramView:
    """A program with one input, run up to any of its nodes.

    uses    the uses of quantizable weights, in order of execution
    output  name of the node that is the first output
    batch   samples in the program's example
    shapes  by node, for that batch: of every use, of its input, and of the output
    """

    def __init__(self, program: Program) -> None:
        from torch.utils._pytree import tree_leaves

        self.program = program
        self._nodes: dict[str, Node] = {node.name: node for node in program.module.graph.nodes}
        self.uses = tuple(self._uses())
        produced = next(node for node in program.module.graph.nodes if node.op == "output")
        self.output: str = tree_leaves(produced.args)[0].name
        example = next(iter(program.example.values()))
        self.batch = len(example)
        names = {use.node for use in self.uses} | {use.source for use in self.uses} | {self.output}
        self.shapes = {name: value.shape for name, value in self.run(example, names).items()}

    def _uses(self) -> list[WeightUse]:
        uses: list[WeightUse] = []
        count: dict[str, int] = {}
        biases = biases_of(self.program.module)
        for node, name, _ in weighted(self.program.module):
            family = next((kind for kind in ("embedding", "linear") if kind in str(node.target)), "conv")
            count[name] = count.get(name, 0) + 1
            path = name.removesuffix(".weight") + (f"#{count[name]}" if count[name] > 1 else "")
            source = self._overwritten(node.args[1 if family == "embedding" else 0], node)
            site, bias = self.program.sites[name], biases.get(node.name, "")
            uses.append(WeightUse(len(uses), path, site, node.name, source.name, family, bias))
        return uses

    def _overwritten(self, source: Any, reader: Node) -> Node:
        """The operation in place, such as relu_, that last wrote a tensor before its reader, else the tensor."""
        written: Node = source
        for node in source.users:
            if node < reader and node > written and str(node.target).partition(".")[2].partition(".")[0].endswith("_"):
                written = node
        return written

    def run(self, inputs: NDArray[Any], names: Set[str]) -> dict[str, NDArray[Any]]:
        """Values of named nodes on inputs (N, ...). Raises InputError where the network does not run on them."""
        import torch

        if self.program.batch is not None and len(inputs) > self.batch:
            return self._in_parts(inputs, names)
        values: dict[str, NDArray[Any]] = {}

        class Recorder(torch.fx.Interpreter):
            def run_node(self, n: Node) -> Any:
                value = super().run_node(n)
                if n.name in names:
                    values[n.name] = value.numpy().copy()  # a later operation in place may overwrite it
                    if len(values) == len(names):
                        raise _Finished
                return value

        try:
            with torch.inference_mode(), contextlib.suppress(_Finished):
                Recorder(self.program.module).run(torch.from_numpy(np.array(inputs)))
        except RuntimeError as error:
            if len(inputs) <= self.batch:
                first = str(error).strip().partition("\n")[0]
                raise InputError(f"The network does not run on inputs of shape {inputs.shape}: {first}") from error
            values.clear()
        if all(self._has_samples(name, values.get(name), len(inputs)) for name in names):
            return values
        return self._in_parts(inputs, names)  # the batch is part of the graph, as in a transformer's reshapes

    def _in_parts(self, inputs: NDArray[Any], names: Set[str]) -> dict[str, NDArray[Any]]:
        parts = [self.run(inputs[i : i + self.batch], names) for i in range(0, len(inputs), self.batch)]
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _has_samples(self, name: str, value: NDArray[Any] | None, count: int) -> bool:
        """Whether a node's value is of `count` samples."""
        if count <= self.batch:
            return True
        shape = self.shapes[name]
        return value is not None and value.shape == (shape[0] * count // self.batch, *shape[1:])

    def apply(self, use: WeightUse, source: NDArray[Any], weight: Floats, bias: Floats | None = None) -> Floats:
        """Output of one operation alone, bias included, on an input and with a weight (of the site's shape).

        bias: None for the program's own. Raises BackendError where another operand of the operation is computed by the
        program.
        """
        import torch

        node = self._nodes[use.node]
        position = 0 if use.family == "embedding" else 1

        def operand(argument: Any, index: int) -> Any:
            if index == position:
                return torch.from_numpy(np.array(weight, np.float32))
            if index == 1 - position:
                return torch.from_numpy(np.array(source))
            if bias is not None and index == _BIAS:
                return torch.from_numpy(np.array(bias, np.float32))
            if isinstance(argument, torch.fx.Node):
                if argument.op != "get_attr":
                    raise BackendError(f"{use.name}: the program computes operand {index} of this operation")
                return operator.attrgetter(str(argument.target))(self.program.module)
            return argument

        with torch.inference_mode():
            arguments = [operand(argument, index) for index, argument in enumerate(node.args)]
            keywords = {key: operand(argument, _BIAS if key == "bias" else -1) for key, argument in node.kwargs.items()}
            output = node.target(*arguments, **keywords)  # type: ignore[operator]
        return np.asarray(output.numpy(), np.float32)

    def described(self, name: str) -> str:
        """A node in words: path of its module, and the operation, as in 'features.3 (add)'."""
        node = self._nodes[name]
        if node.op == "placeholder":
            return "input"
        stack = node.meta.get("nn_module_stack") or {}
        path = list(stack.values())[-1][0] if stack else ""
        operation = str(node.target).removeprefix("aten.").partition(".")[0]
        return f"{path} ({operation})" if path else operation

    def activation_after(self, use: WeightUse) -> str:
        """The activation that alone reads an operation's output: 'relu' or 'relu6', '' for another one or none."""
        readers = list(self._nodes[use.node].users)
        if len(readers) != 1:
            return ""
        target, limits = str(readers[0].target).removeprefix("aten."), tuple(readers[0].args[1:])
        if target in ("relu.default", "relu_.default"):
            return "relu"
        clamps = target in ("hardtanh.default", "hardtanh_.default", "clamp.default", "clamp_.default", "relu6.default")
        return "relu6" if clamps and (limits == (0, 6) or target == "relu6.default") else ""
