"""Check of a float template against its program, and the cause where they differ.

Converters get operations wrong, and fold what follows from constants alone: a mean over a weight, for example, of which
every file made from the template would keep the value at conversion. Half precision overflows above 65,504. A template
that departs is converted again in parts to find the first operation that does: slow, and only done then.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.base import Backend, Entry
from mobconv.errors import BackendError
from mobconv.model import fidelity, graph_edit, weight_ops
from mobconv.model.program import Program, WeightSite
from mobconv.quantize import FloatWeight, Weight
from mobconv.quantize.model import QuantizedModel
from mobconv.schemes import Cell, Compute, Scheme

if TYPE_CHECKING:
    from torch.fx import Node

# Far above what rounding does to a whole network (1e-6 in fp32, 5e-3 in fp16), far below a wrong constant.
_CLOSE = {Compute.FP32: 1e-3, Compute.FP16: 5e-2}
_ROUNDING = 1e-5  # ten times what rounding does in fp32
_EFFECT = 4  # a file may depart by one in so many of what the least bias changes in its outputs
_MORE = 3  # times the departure of an fp16 template, that its files with other biases may have
_LARGEST_HALF = 65504.0  # IEEE 754 binary16
_CONVERSIONS = 12  # of parts, to find an operation among some thousands

Arrays = dict[str, NDArray[Any]]
FloatFile = Callable[[Backend, Path, Program, Compute], Path]
"""Writes the fp32 file of a template, see templates.float_artifact."""


def check(backend: Backend, folder: Path, entry: Entry, compute: Compute, write: FloatFile) -> str:
    """Compare the float file of a template with its program on random inputs. -> a remark on fp16, or ''.

    Raises BackendError that names the first operation at which a file departs, and why.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of pytree, copied; of NaN, counted
        return _checked(backend, folder, entry, compute, write)


def departing_biases(backend: Backend, folder: Path, entry: Entry, compute: Compute, names: Sequence[str]) -> list[str]:
    """Those of some biases with which the files of a template do not compute what the program does with the same.

    Biases that the backend cannot encode are not among them: encoding raises for these.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        limit = _CLOSE[compute]
        if compute is Compute.FP16:
            limit = max(limit, _MORE * _with_biases(backend, folder, entry, compute, []))
        else:
            limit = max(_ROUNDING, min(limit, _least_effect(entry, names) / _EFFECT))
        return _departing(backend, folder, entry, compute, list(names), limit)


def _departing(
    backend: Backend, folder: Path, entry: Entry, compute: Compute, names: list[str], limit: float
) -> list[str]:
    """By halves, of which only those that depart are searched."""
    if not names:
        return []
    try:
        if _with_biases(backend, folder, entry, compute, names) <= limit:
            return []
    except BackendError:
        if len(names) == 1:
            return []
    else:
        if len(names) == 1:
            return names
    half = len(names) // 2
    return [
        *_departing(backend, folder, entry, compute, names[:half], limit),
        *_departing(backend, folder, entry, compute, names[half:], limit),
    ]


def _other_biases(program: Program, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Random values for some biases of a program, the same each time."""
    values, rng = program.floats(), np.random.default_rng(1)
    sizes = {name: max(0.1, float(np.abs(values[name]).max(initial=0.0))) / 2 for name in names}
    return {
        name: (values[name] + rng.normal(size=values[name].shape) * size).astype(np.float32)
        for name, size in sizes.items()
    }


def _least_effect(entry: Entry, names: Sequence[str]) -> float:
    """How little any one of some biases changes the outputs, as a part of the largest."""
    program = entry.computed or entry.program
    feeds = _feeds(program)
    expected = program.run(feeds)
    changed = (program.with_values(_other_biases(entry.program, [name])) for name in names)
    return min((fidelity.departure(other.run(feeds), expected) for other in changed), default=np.inf)


def _with_biases(backend: Backend, folder: Path, entry: Entry, compute: Compute, names: Sequence[str]) -> float:
    """How far a float file with random values in some biases departs from the program with the same."""
    values, others = entry.program.floats(), _other_biases(entry.program, names)
    computed = (entry.computed or entry.program).with_values(others)
    with tempfile.TemporaryDirectory(prefix="mobconv-") as scratch:

        def write(backend: Backend, folder: Path, program: Program, compute: Compute) -> Path:
            path = Path(scratch) / f"biases.{backend.suffix}"
            weights: dict[str, Weight] = {name: FloatWeight(name, values[name]) for name in program.sites}
            cell = Cell(backend.name, Scheme(32), compute=compute, default_compute=backend.default_compute)
            backend.encode(folder, QuantizedModel(weights, others), cell, path)
            return path

        return _difference(backend, folder, entry.program, computed, compute, write, _feeds(computed))


def _checked(backend: Backend, folder: Path, entry: Entry, compute: Compute, write: FloatFile) -> str:
    program = entry.computed or entry.program
    feeds = _feeds(program)
    difference = _difference(backend, folder, entry.program, program, compute, write, feeds)
    if difference <= _CLOSE[compute]:
        return ""
    if compute is Compute.FP16:
        full = _converted(backend, entry, Compute.FP32, write, feeds)
        if full is not None and full <= _CLOSE[Compute.FP32]:
            return _of_half(program, feeds, difference)
    raise BackendError(_cause(backend, entry, compute, write, difference))


def _feeds(program: Program) -> Arrays:
    rng = np.random.default_rng(0)
    if program.image:
        return {name: rng.integers(0, 256, v.shape).astype(v.dtype) for name, v in program.example.items()}
    return {
        name: rng.normal(size=value.shape).astype(value.dtype) if value.dtype.kind == "f" else value
        for name, value in program.example.items()
    }


def _difference(
    backend: Backend,
    folder: Path,
    converted: Program,
    computed: Program,
    compute: Compute,
    write: FloatFile,
    feeds: Arrays,
) -> float:
    """How far the float file of a template departs from the program that it computes; NaN counts as infinite."""
    runner = backend.open(write(backend, folder, converted, compute))
    try:
        outputs = runner.run({spec.name: feeds[spec.name] for spec in runner.inputs})
    finally:
        runner.close()
    expected = computed.run(feeds)
    outputs = {name: np.asarray(outputs[name]).reshape(value.shape) for name, value in expected.items()}
    return fidelity.departure(outputs, expected)


def _converted(backend: Backend, entry: Entry, compute: Compute, write: FloatFile, feeds: Arrays) -> float | None:
    """Convert again -> how far that departs; None where it cannot be converted."""
    with tempfile.TemporaryDirectory(prefix="mobconv-") as scratch:
        folder = Path(scratch) / "template"
        folder.mkdir()
        try:
            backend.convert(entry.program, compute, folder, entry.options)
            program = entry.computed or entry.program
            return _difference(backend, folder, entry.program, program, compute, write, feeds)
        except Exception:  # a part of a network may be what no converter was tried on
            return None


def _of_half(program: Program, feeds: Arrays, difference: float) -> str:
    """Say what fp16 costs a file that is right in fp32."""
    advice = "compute it in fp32 (`@fp32`)"
    values = fidelity.values(program.module, feeds)
    for node in program.module.graph.nodes:
        value = values.get(node.name)
        if value is not None and value.dtype.kind == "f":
            largest = float(np.abs(value).max(initial=0.0))
            if largest > _LARGEST_HALF:
                return (
                    f"fp16 ends at 65,504, and {graph_edit.place(node)} computes up to {largest:.3g} on random inputs: "
                    f"outputs are wrong or NaN; {advice}"
                )
    shown = "NaN or infinity" if not np.isfinite(difference) else f"{100 * difference:.1f} % of the largest output"
    return f"computing in fp16 changes outputs by {shown} on random inputs; {advice}"


def _cause(backend: Backend, entry: Entry, compute: Compute, write: FloatFile, difference: float) -> str:
    """Name the first operation at which a converted part of the program departs, and why."""
    first = _first_departure(backend, entry.program, entry.options, compute, write)
    size = "NaN or infinity" if not np.isfinite(difference) else f"{100 * difference:.2g} % of the largest value"
    if first is None:
        return (
            f"the file of the converter to {backend.name} does not compute what the network does (outputs differ by "
            f"{size}), though each of its parts does: export it to another format"
        )
    shared = _shared(entry.program, first)
    if shared:
        return (
            f"the converter to {backend.name} computed constants from {shared}, a weight that several operations read: "
            f"the file departs from the network at {graph_edit.place(first)} (outputs differ by {size}). Export it to "
            "another format, or give each operation a weight of its own"
        )
    return (
        f"the converter to {backend.name} gets an operation wrong: its file departs from the network at "
        f"{graph_edit.place(first)} (outputs differ by {size}). Export it to another format, or replace this operation"
    )


def _first_departure(
    backend: Backend, program: Program, options: Any, compute: Compute, write: FloatFile
) -> Node | None:
    """The first operation whose value in a file is not the program's, by bisection; None where no part departs."""
    feeds = _feeds(program)
    values = fidelity.values(program.module, feeds)
    nodes = [
        node
        for node in program.module.graph.nodes
        if node.name in values and values[node.name].dtype.kind == "f" and values[node.name].ndim > 0
    ]
    low, high, departs = -1, len(nodes) - 1, False
    for _ in range(_CONVERSIONS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        part = _until(program, nodes[middle].name)
        difference = _converted(backend, Entry(part, options=options), compute, write, feeds)
        if difference is None or difference <= _CLOSE[compute]:
            low = middle
        else:
            high, departs = middle, True
    return nodes[high] if nodes and (departs or high == len(nodes) - 1) else None


def _until(program: Program, name: str) -> Program:
    """The part of a program that computes one operation's value, as its only output."""
    import torch

    module = copy.deepcopy(program.module)
    graph = module.graph
    (output,) = (node for node in graph.nodes if node.op == "output")
    output.args = (next(node for node in graph.nodes if node.name == name),)
    graph.set_codegen(torch.fx.graph.CodeGen())
    graph.eliminate_dead_code()
    module = torch.fx.GraphModule(module, graph)
    sites: dict[str, WeightSite] = {}
    for node, weight, axis in weight_ops.weighted(module):
        shape = tuple(graph_edit.attribute(module, weight).shape)
        sites.setdefault(weight, WeightSite(weight, shape, axis, str(node.target)))
    return replace(program, module=module, outputs=("part",), sites=sites, labels=(), notes=())


def _shared(program: Program, node: Node) -> str:
    """The name of a weight that an operation reads, or a constant of it, and others read too; '' for none."""
    readers = graph_edit.readers(program.module)
    pending = [node]
    while pending:
        each = pending.pop()
        if each.op == "get_attr" and str(each.target) in program.sites:
            value = graph_edit.attribute(program.module, str(each.target))
            if readers[value.untyped_storage().data_ptr()] > 1:
                return str(each.target)
        pending += [part for part in each.all_input_nodes if _constant(part)]
    return ""


def _constant(node: Node) -> bool:
    return node.op != "placeholder" and all(_constant(part) for part in node.all_input_nodes)
