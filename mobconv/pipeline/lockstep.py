"""A float network and the same network as it is being quantized, operation after operation, on all samples.

Everything is computed in float64 and in a fixed order on one thread, and stored as float32: sums in another order
(another processor, another library) change the sixteenth digit, and a code only where it is as close to a tie.

Memory: values of the nodes that are still to be read, of both networks and all samples; beyond `activations.LIMIT`
they are written to files. A chunk of samples is as small as `_ELEMENTS` asks; statistics of a layer are taken at
`_COLUMNS` positions, chosen at random where there are more.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import CellError
from mobconv.model import fidelity
from mobconv.model.operator_matrix import OperatorMatrix
from mobconv.model.program import Program
from mobconv.model.weight_ops import weighted
from mobconv.pipeline.activations import Activations
from mobconv.pipeline.layer_fit import LayerInputs, LayerTask, fit_bias, fit_layer
from mobconv.pipeline.quantized import SchemeFor
from mobconv.quantize import Weight, quantize
from mobconv.quantize.model import QuantizedModel
from mobconv.quantize.weights import Floats
from mobconv.schemes import ALGORITHMS, DEFAULT_ALGORITHM, Needs, Scheme

if TYPE_CHECKING:
    import torch
    from torch.fx import Node

Feed = Callable[[slice], Mapping[str, NDArray[Any]]]
"""A slice of the samples -> the network's inputs by name."""

_COLUMNS = 32768  # positions that a layer's statistics are taken over
_ELEMENTS = 2**22  # of the largest value of a chunk
_LARGEST_CHUNK = 64
_WIDEST = 6144  # columns of the largest second moments that are solved; 300 MB
_CLOSE = 1e-4  # of the largest output: far above rounding, far below a wrong value
_SUMS = ("aten.add.Tensor", "aten.add_.Tensor")
_RANGES = {"relu": (0.0, math.inf), "relu_": (0.0, math.inf), "relu6": (0.0, 6.0), "relu6_": (0.0, 6.0)}


class Lockstep:
    """A float network and the same network as it becomes quantized, on the same samples."""

    def __init__(
        self,
        program: Program,
        scheme: Scheme,
        scheme_for: SchemeFor,
        feed: Feed,
        count: int,
        fitted: int,
        folder: Path,
        stage: Callable[[str], None],
    ) -> None:
        self.program, self.scheme, self.scheme_for, self.feed, self.stage = program, scheme, scheme_for, feed, stage
        self.count, self.fitted = count, fitted
        self.size = program.batch or _chunk_size(program)
        self.starts = range(0, count, self.size)
        # values of the two networks; and, in the float one, of what later readers of a shared weight read
        self.float, self.quantized, self.ahead = (Activations(folder / name, len(self.starts)) for name in "fqa")
        self.uses: dict[Node, tuple[str, int]] = {node: (name, axis) for node, name, axis in weighted(program.module)}
        nodes: dict[str, list[Node]] = {}
        for node, (name, _) in self.uses.items():
            nodes.setdefault(name, []).append(node)
        self.later = {name: readers[1:] for name, readers in nodes.items() if len(readers) > 1}
        self.unfitted: list[str] = []  # weights whose algorithm needs statistics that they cannot have
        self.weights: dict[str, Weight] = {}
        self.biases: dict[str, Floats] = {}

    def run(self) -> QuantizedModel:
        """Fit all layers in the order of the graph."""
        if self.later:
            self._run_ahead({_input(node) for nodes in self.later.values() for node in nodes})
        nodes = list(self.program.module.graph.nodes)
        last = {read: index for index, node in enumerate(nodes) for read in node.all_input_nodes}
        names, number = iter(self.program.example), 0
        for index, node in enumerate(nodes):
            if node.op == "output":
                break
            if node.op == "placeholder":
                name = next(names)
                for start in self.starts:
                    self.float.append(node, self._fed(name, start))
                self.quantized.share(node, self.float)
            elif node.op == "get_attr":
                self.float.append(node, attrgetter(str(node.target))(self.program.module))
                self.quantized.share(node, self.float)
            elif node in self.uses and "embedding" not in str(node.target):
                self._layer(node)
                number += 1
                if number * 4 // len(self.uses) > (number - 1) * 4 // len(self.uses):
                    self.stage(f"quantize {self.scheme}: {number} of {len(self.uses)} layers")
            else:
                self._operation(node)
            for read in node.all_input_nodes:
                if last[read] == index:
                    shared = self.float.shares(read, self.quantized)
                    self.quantized.drop(read, shared)
                    self.float.drop(read, False)
        return QuantizedModel({name: self._decided(name) for name in self.program.sites}, self.biases)

    def _decided(self, name: str) -> Weight:
        """A weight as its layer has it; without data where no layer was fitted, such as an embedding's."""
        if name not in self.weights:
            site = self.program.sites[name]
            values = attrgetter(name)(self.program.module).detach().numpy()
            if self.scheme_for(name, self.scheme).calibrated:
                self.unfitted.append(name)
            self.weights[name] = quantize(name, values, site.axis, self._without_data(name))
        return self.weights[name]

    def _run_ahead(self, kept: set[Node]) -> None:
        """Run the float network alone, up to the last of some nodes, and keep their values."""
        nodes = list(self.program.module.graph.nodes)
        last = {read: index for index, node in enumerate(nodes) for read in node.all_input_nodes}
        names = iter(self.program.example)
        for index, node in enumerate(nodes[: max(map(nodes.index, kept)) + 1]):
            if node.op == "get_attr":
                self.ahead.append(node, attrgetter(str(node.target))(self.program.module))
                continue
            name = next(names) if node.op == "placeholder" else ""
            for chunk, start in enumerate(self.starts):
                self.ahead.append(node, self._fed(name, start) if name else self._computed(node, self.ahead, chunk))
            for read in _written(node):
                self.ahead.overwrite(read, node, False)
            for read in node.all_input_nodes:
                if last[read] == index and read not in kept:
                    self.ahead.drop(read, False)

    def check(self) -> None:
        """Raise CellError where the float network, operation by operation, does not compute what the program does."""
        feeds = {name: self._fed(name, 0).numpy() for name in self.program.example}
        leaves = zip(self.program.outputs, self._leaves(), strict=True)
        outputs = {name: self.float.get(node, 0).numpy() for name, node in leaves}
        departure = fidelity.departure(outputs, self.program.run(feeds))
        if departure > _CLOSE:
            raise CellError(
                f"{self.scheme}: cannot calibrate this network: computed operation by operation, its outputs differ by "
                f"{departure:.1g} of the largest. An operation may write into a part of another's result; use a scheme "
                f"without calibration data, such as {replace(self.scheme, algorithm=DEFAULT_ALGORITHM)}"
            )

    def withheld(self) -> Iterator[tuple[Mapping[str, NDArray[Any]], dict[str, NDArray[np.float64]]]]:
        """Inputs and the float network's outputs of the samples that no layer was fitted to, chunk by chunk."""
        import torch

        for chunk, start in enumerate(self.starts):
            stop = min(start + self.size, self.count)
            if stop <= self.fitted:
                continue
            skipped = max(self.fitted - start, 0)
            wanted = {}
            for name, node in zip(self.program.outputs, self._leaves(), strict=True):
                value = self.float.get(node, chunk)
                if isinstance(value, torch.Tensor) and value.is_floating_point() and len(value) >= stop - start:
                    wanted[name] = value[skipped : stop - start].numpy()
            yield self.feed(slice(start + skipped, stop)), wanted

    def _leaves(self) -> list[Node]:
        from torch.fx import Node
        from torch.utils._pytree import tree_leaves

        output = next(node for node in reversed(self.program.module.graph.nodes) if node.op == "output")
        return [leaf for leaf in tree_leaves(output.args[0]) if isinstance(leaf, Node)]

    def _fed(self, name: str, start: int) -> torch.Tensor:
        """One chunk of an input; for a fixed batch, filled up with its last sample."""
        import torch

        value = np.asarray(self.feed(slice(start, min(start + self.size, self.count)))[name])
        if self.program.batch and len(value) < self.size:
            value = np.concatenate([value, np.repeat(value[-1:], self.size - len(value), axis=0)])
        return torch.from_numpy(np.array(value, order="C"))

    def _operation(self, node: Node) -> None:
        """Compute a node in both networks, once where they do not differ yet."""
        reads = node.all_input_nodes
        one = len(self.starts) > 1 and all(self.float.constant(read) for read in reads)
        chunks = range(1 if one else len(self.starts))
        for chunk in chunks:
            self.float.append(node, self._computed(node, self.float, chunk))
        if all(self.float.shares(read, self.quantized) for read in reads):
            self.quantized.share(node, self.float)
        else:
            for chunk in chunks:
                self.quantized.append(node, self._computed(node, self.quantized, chunk))
        for read in _written(node):
            shared = self.float.shares(read, self.quantized)
            self.quantized.overwrite(read, node, shared)
            self.float.overwrite(read, node, False)

    def _computed(self, node: Node, values: Activations, chunk: int) -> Any:
        from torch.fx.node import map_arg

        assert callable(node.target)
        arguments = map_arg(node.args, lambda read: values.get(read, chunk))
        options = map_arg(node.kwargs, lambda read: values.get(read, chunk))
        return node.target(*arguments, **options)

    def _without_data(self, name: str) -> Scheme:
        """The scheme of a weight that is quantized without calibration data."""
        scheme = self.scheme_for(name, self.scheme)
        return replace(scheme, algorithm=DEFAULT_ALGORITHM) if scheme.calibrated else scheme

    def _layer(self, node: Node) -> None:
        """Fit a layer's weight, unless it is decided, and its bias; then compute the layer in both networks."""
        import torch

        name, axis = self.uses[node]
        values = attrgetter(name)(self.program.module).detach().numpy()
        operator = OperatorMatrix.of(node, values.shape)
        weight = torch.from_numpy(operator.matrix(values).astype(np.float64))
        bias_node: Any = node.kwargs.get("bias", node.args[2] if len(node.args) > 2 else None)
        bias = None if bias_node is None else self.float.get(bias_node, 0)
        free = bias is not None and bias_node.op == "get_attr" and len(bias_node.users) == 1
        self._apply(node, self.float, operator, weight, bias)
        scheme = self.scheme_for(name, self.scheme)
        task = LayerTask(
            name,
            axis,
            operator,
            weight,
            bias if free else None,
            scheme,
            _clip(node),
            lambda: self._all_inputs(node, operator, name),
        )
        if name not in self.weights and self._fits(scheme, weight):
            self.weights[name], corrected = fit_layer(task)
        else:
            corrected = fit_bias(task, self._decided(name))
        if corrected is not None:
            self.biases[str(bias_node.target)] = corrected
            bias = torch.from_numpy(corrected.astype(np.float64))
        decided = torch.from_numpy(operator.matrix(self.weights[name].dequantize()).astype(np.float64))
        self._apply(node, self.quantized, operator, decided, bias)

    @staticmethod
    def _fits(scheme: Scheme, weight: torch.Tensor) -> bool:
        """Whether a weight's algorithm needs layer statistics, and their matrix can be solved."""
        if scheme.mode is None or ALGORITHMS[scheme.algorithm].needs is not Needs.LAYER_STATISTICS:
            return False
        return weight.shape[1] <= _WIDEST

    def _apply(
        self, node: Node, values: Activations, operator: OperatorMatrix, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> None:
        read = _input(node)
        for chunk in range(1 if values.constant(read) else len(self.starts)):
            values.append(node, operator.apply(values.get(read, chunk), weight, bias))

    def _all_inputs(self, node: Node, operator: OperatorMatrix, name: str) -> Iterator[LayerInputs]:
        """What a layer reads; of a shared weight, at first, also what its later readers do in the float network."""
        yield from self._inputs(node, operator, self.quantized, self.float)
        for other in self.later.get(name, []) if name not in self.weights else []:
            yield from self._inputs(other, OperatorMatrix.of(other, operator.shape), self.ahead, self.ahead)

    def _inputs(
        self, node: Node, operator: OperatorMatrix, quantized: Activations, reference: Activations
    ) -> Iterator[LayerInputs]:
        """What a layer reads, chunk by chunk, of the samples that layers are fitted to."""
        import torch

        read = _input(node)
        rng = np.random.default_rng(zlib.crc32(node.name.encode()))  # the same positions each time
        other = self._added(node) if quantized is self.quantized else None
        for chunk, start in enumerate(self.starts):
            samples = min(self.size, self.fitted - start)
            if samples <= 0:
                return
            pair = [values.get(read, chunk) for values in (quantized, reference)]
            # windows of a sample may be rows of the batch
            rows = len(pair[0]) * samples // min(self.size, self.count - start) if pair[0].dim() > 1 else len(pair[0])
            mine, wanted = (value[:rows] for value in pair)
            positions = operator.positions(mine)
            taken = -(-_COLUMNS * samples // (self.fitted * rows))
            at = None
            if taken < positions:
                at = torch.from_numpy(np.sort(rng.permutation(positions)[:taken]))
            lack = added = None
            if other is not None:
                term, float_term = (values.get(other, chunk)[:rows] for values in (quantized, reference))
                lack, added = operator.outputs(float_term - term, at), operator.outputs(term, at)
            yield LayerInputs(operator.columns(mine, at), operator.columns(wanted, at), lack, added)

    def _added(self, node: Node) -> Node | None:
        """The other term of a sum that alone reads a layer's outputs, where it is computed already."""
        users = list(node.users)
        if len(users) != 1 or str(users[0].target) not in _SUMS or users[0].kwargs:
            return None
        terms: list[Any] = list(users[0].args[:2])
        others = [term for term in terms if term is not node]
        if len(others) != 1 or not hasattr(others[0], "op") or others[0] not in self.float:
            return None
        other: Node = others[0]
        if self.float.constant(other) or self.float.get(other, 0).shape != self.float.get(node, 0).shape:
            return None
        return other


def _written(node: Node) -> list[Node]:
    """The nodes into whose values an operation writes its result, such as that of relu_."""
    arguments = getattr(getattr(node.target, "_schema", None), "arguments", ())
    written = [
        argument
        for argument, declared in zip(node.args, arguments, strict=False)
        if declared.alias_info is not None and declared.alias_info.is_write
    ]
    return [argument for argument in written if hasattr(argument, "op")]  # type: ignore[misc]


def _input(node: Node) -> Node:
    """What a layer multiplies its weight with."""
    read: Any = node.args[0]
    return read  # type: ignore[no-any-return]


def _clip(node: Node) -> tuple[float, float] | None:
    """The range of a clipping activation that alone reads a layer's outputs, or their sum with another term."""
    users = list(node.users)
    if len(users) == 1 and str(users[0].target) in _SUMS and not users[0].kwargs:
        users = list(users[0].users)
    if len(users) != 1:
        return None
    name = str(users[0].target).removeprefix("aten.").partition(".")[0]
    if name in _RANGES:
        return _RANGES[name]
    if name not in ("hardtanh", "hardtanh_"):
        return None
    given: list[Any] = list(users[0].args[1:])
    limits = [*given, *(-1.0, 1.0)[len(given) :]]
    return float(limits[0]), float(limits[1])


def _chunk_size(program: Program) -> int:
    """Samples of a chunk, by the largest value in the graph."""
    import torch
    from torch.fx import Interpreter
    from torch.utils._pytree import tree_leaves

    largest = 1

    class Sizes(Interpreter):
        def run_node(self, node: Node) -> Any:
            nonlocal largest
            value = super().run_node(node)
            if node.op == "call_function":
                sizes = [leaf.numel() for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]
                largest = max([largest, *sizes])
            return value

    Sizes(program.module).run(*(torch.from_numpy(value) for value in program.example.values()))
    return int(np.clip(_ELEMENTS // largest, 1, _LARGEST_CHUNK))
