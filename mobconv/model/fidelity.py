"""Check that a traced program computes what the untouched module computes, and say where it departs.

Also what a module does that no file can repeat: outputs that change from run to run, or with the rest of the batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import InputError
from mobconv.model import graph_edit
from mobconv.model.batch_norm import FOLDED

if TYPE_CHECKING:
    import torch
    from torch.fx import GraphModule, Node

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Mapping[str, NDArray[Any]]], Arrays]
"""Inputs by name, of one batch -> outputs by name."""
Graph = Callable[[], "GraphModule"]
"""Makes the unfolded program of a module. Raises InputError for one that cannot be traced."""

CLOSE = 1e-5
"""Largest difference of outputs, of the largest output: some hundred roundings of fp32 (2 ** -24 each)."""
_DIFFERENT = 1e-3  # between two runs, or alone and in a batch: far above rounding in another order of additions
_ROUNDINGS = 8  # of the noise of one
_TIES = 0.05  # integers that may differ
_SEEDS = (0, 1, 2)
_RANDOM = ("dropout", "rand", "bernoulli", "multinomial", "normal_", "rrelu", "poisson", "exponential")


@dataclass(frozen=True)
class Behaviour:
    """How a module may be run.

    batch  the only number of samples that it runs on, or that gives the outputs of each sample alone; None for any
    mixed  operation that computes over the whole batch, such as batch norm without running statistics; '' for none
    """

    batch: int | None = None
    mixed: str = ""


def random_inputs(example: Mapping[str, NDArray[Any]], samples: int | None = None, seed: int = 0) -> Arrays:
    """Draw inputs of the example's shapes and types; samples: the batch, None for the example's.

    Floats are normal, integers 0 or 1: what an embedding or an index is sure to have.
    """
    rng = np.random.default_rng(seed)
    drawn = {}
    for name, value in example.items():
        shape = value.shape if samples is None else (samples, *value.shape[1:])
        floats = value.dtype.kind == "f"
        drawn[name] = (rng.normal(size=shape) if floats else rng.integers(0, 2, shape)).astype(value.dtype)
    return drawn


def departure(outputs: Arrays, expected: Arrays) -> float:
    """The largest difference of any output, as a part of the largest of its expected values.

    Where one has NaN or infinity and the other another value, the departure is infinite.
    """
    worst = 0.0
    for name, value in expected.items():
        other = outputs.get(name)
        if other is None or other.shape != value.shape:
            return np.inf
        if value.dtype.kind != "f":
            # a class or an index changes where two scores are nearly equal
            worst = np.inf if (other != value).mean() > _TIES else worst
            continue
        a, b = np.asarray(other, np.float64), np.asarray(value, np.float64)
        finite = np.isfinite(b)
        if not np.array_equal(finite, np.isfinite(a)) or not np.array_equal(a[~finite], b[~finite], equal_nan=True):
            return np.inf
        if finite.any():
            largest = np.abs(b[finite]).max()
            worst = max(worst, float(np.abs(a[finite] - b[finite]).max() / (largest or 1.0)))
    return worst


def behaviour(
    run: Run, example: Mapping[str, NDArray[Any]], graph: Graph, name: str, fixed_batch: bool = False
) -> Behaviour:
    """Find out how a module may be run.

    graph: makes its unfolded program, to name operations. name: of the checkpoint. fixed_batch: the example's batch is
    the only one that is tried. Raises InputError for a module whose
    outputs change from run to run, and what `run` raises on one batch like the example.
    """
    batch = len(next(iter(example.values())))
    alone = [random_inputs(example, seed=seed) for seed in (0, 1)]
    outputs = [run(inputs) for inputs in alone]
    if departure(run(alone[0]), outputs[0]) > _DIFFERENT:
        cause = _first(graph, _is_random) or "something random"
        raise InputError(
            f"{name}: two runs of the network on one input differ: {cause} is active. A file cannot repeat that. "
            "Switch it off in eval mode, for example with `F.dropout(x, training=self.training)`"
        )
    if fixed_batch:
        return Behaviour(batch)
    both = {key: np.concatenate([inputs[key] for inputs in alone]) for key in example}
    try:
        together = run(both)
    except Exception:  # of a network with a fixed batch: whatever its operations raise
        return Behaviour(batch)
    expected = {key: np.concatenate([value, outputs[1][key]]) for key, value in outputs[0].items() if value.ndim}
    if any(key not in together or together[key].shape != value.shape for key, value in expected.items()):
        return Behaviour(batch)
    if departure(together, expected) > _DIFFERENT:
        return Behaviour(batch, _first(graph, _is_mixing) or "an operation over the whole batch")
    return Behaviour()


def _is_random(node: Node) -> bool:
    target = str(node.target)
    if "dropout" in target:
        return any(argument is True for argument in node.args[1:])
    return any(word in target for word in _RANDOM)


def _is_mixing(node: Node) -> bool:
    return "batch_norm" in str(node.target) and any(argument is True for argument in node.args[5:6])


def _first(graph: Graph, chosen: Callable[[Node], bool]) -> str:
    try:
        nodes = graph().graph.nodes
    except InputError:  # it cannot be traced
        return ""
    calls = (node for node in nodes if node.op == "call_function")
    return next((graph_edit.place(node) for node in calls if chosen(node)), "")


# Recurrent layers, by the beginning of their operators' names.
_UNCHECKED = ("aten.lstm", "aten.gru", "aten.rnn")


def has_fixed_batch(graph: GraphModule) -> bool:
    """Whether a graph has an operation that reads beyond its memory in a larger batch than it was traced with.

    The hidden states of recurrent layers have the traced batch, and PyTorch's kernels do not compare it.
    """
    return any(str(node.target).startswith(_UNCHECKED) for node in graph.graph.nodes if node.op == "call_function")


def check(
    module: Run,
    program: Run,
    example: Mapping[str, NDArray[Any]],
    batch: int | None,
    locate: Callable[[Arrays], str],
    name: str,
) -> int | None:
    """Compare a folded program with its module on random inputs, and on a larger batch. -> the program's only batch.

    batch: the module's own (see Behaviour). locate: inputs -> where the program departs. Raises InputError for a
    program that computes something else.
    """
    for seed in _SEEDS:
        inputs = random_inputs(example, seed=seed)
        expected = module(inputs)
        difference = departure(program(inputs), expected)
        if difference > CLOSE and difference > _ROUNDINGS * _noise(module, inputs, expected):
            raise InputError(
                f"{name}: the traced program does not compute what the module computes (outputs differ by "
                f"{difference:.1e} of the largest): it departs at {locate(inputs)}"
            )
    if batch is not None:
        return batch
    size = len(next(iter(example.values())))
    inputs = random_inputs(example, 2 * size)
    try:
        outputs, expected = program(inputs), module(inputs)
    except Exception:  # lengths that the graph has for constants
        return size
    return size if departure(outputs, expected) > _DIFFERENT else None


def _noise(module: Run, inputs: Arrays, expected: Arrays) -> float:
    """What the outputs change by when each input is rounded up to the next float: rounding that no tracer avoids.

    0 where they become NaN or infinite, so that such a change excuses nothing.
    """
    moved = {key: np.nextafter(value, np.inf) if value.dtype.kind == "f" else value for key, value in inputs.items()}
    change = departure(module(moved), expected)
    return change if np.isfinite(change) else 0.0


def first_departure(folded: GraphModule, unfolded: GraphModule, inputs: Mapping[str, NDArray[Any]]) -> str:
    """Name the first operation of a folded graph whose value is not that of the unfolded one."""
    before, after = values(unfolded, inputs), values(folded, inputs)
    for node in folded.graph.nodes:
        name = node.meta.get(FOLDED, node.name)
        if node.name in after and name in before and departure({"": after[node.name]}, {"": before[name]}) > CLOSE:
            return graph_edit.place(node)
    return ""


def first_module(module: torch.nn.Module, unfolded: GraphModule, run: Run, inputs: Mapping[str, NDArray[Any]]) -> str:
    """Name the first part of a module that gives another output than its operations in the unfolded program."""
    import torch

    recorded: Arrays = {}

    def record(path: str) -> Callable[..., None]:
        def hook(part: Any, args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                recorded.setdefault(path, output.detach().numpy().copy())

        return hook

    hooks = [part.register_forward_hook(record(path)) for path, part in module.named_modules() if path]
    try:
        run(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    last: dict[str, Node] = {}
    for node in unfolded.graph.nodes:
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            last[path] = node
    computed = values(unfolded, inputs)
    for path, value in recorded.items():
        node = last.get(path)
        if node is None or node.name not in computed:
            continue
        if departure({"": computed[node.name]}, {"": value}) > CLOSE:
            return graph_edit.place(node)
    return ""


def values(module: GraphModule, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
    """The value of every operation of a graph, by its name."""
    import torch

    recorded: Arrays = {}

    class Recording(torch.fx.Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor) and n.op == "call_function":
                recorded[n.name] = result.detach().numpy().copy()
            return result

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Recording(module).run(*(torch.from_numpy(value) for value in inputs.values()))
    return recorded
