"""Program -> float template: litert-torch, with fingerprints in the weights.

A template is a folder of two files:

    template.tflite   the network with fingerprints for weights and the real values of everything else, inputs and
                      outputs named as in the program, without metadata that no runtime reads
    map.json          image: colour, labels and name of an image input
                      places: where each weight is (see mobconv/backends/weight_map.py; keys are tensor numbers)
                      floats: tensor number -> name, of the other parameters (biases), which are found by their
                      values, so that scheme fp16 can halve them too
                      merged: weights that no run of the converter left whole: they stay float in every file

The converter is free to compute with parameters: it multiplies the scale of a layer norm into the weights behind it.
One run of it is enough where every weight is in its file. Where not, it runs again without knowing the values of
parameters that it computed with (opaque.py): first of those that are not quantized, then of the weights that are still
missing, then of all. Operators that it refuses are rewritten (rewrite.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends import weight_map
from mobconv.backends.tflite.graph import Graph
from mobconv.backends.tflite.opaque import flatten, lift
from mobconv.backends.tflite.quiet import quiet
from mobconv.backends.tflite.rewrite import rewrite
from mobconv.backends.tflite.runner import run_bytes
from mobconv.errors import BackendError

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from mobconv.model.program import Program

TEMPLATE = "template.tflite"
MAP = "map.json"
_CLOSE = 1e-3  # far above what rounding does to a network, far below a wrong constant


def convert(program: Program, directory: Path) -> None:
    """Write the template of `program` to an existing empty folder.

    Raises BackendError when litert-torch refuses the network.
    """
    template = _whole(program)
    (directory / TEMPLATE).write_bytes(template.data)
    image = {"colour": program.image, "labels": program.labels, "inputs": list(program.example)}
    extra = {"floats": template.floats, "merged": sorted(template.merged), "image": image if program.image else {}}
    weight_map.save(directory / MAP, template.places, extra)


@dataclass(frozen=True)
class _Converted:
    """A run of the converter.

    places    of the weights in its file; none for a weight that the converter computed with
    floats    key of a constant -> name, of the other parameters
    computed  names of the other parameters that no constant has
    merged    names of weights that the converter was left to compute with
    faithful  whether the file, with the real weights in their places, computes what the program does
    """

    data: bytes
    places: weight_map.Places
    floats: dict[str, str]
    computed: frozenset[str]
    faithful: bool
    merged: frozenset[str]

    @property
    def missing(self) -> frozenset[str]:
        return frozenset(name for name, placements in self.places.items() if not placements)

    @property
    def whole(self) -> bool:
        return self.faithful and not self.missing


def _whole(program: Program) -> _Converted:
    """The first run that has every weight and computes what the program does.

    Where none does, and one has every weight, that one: what it computes is for its caller to judge. Where none has
    every weight, one that has the real values of the missing ones, in whatever the converter made of them.
    """
    everything = frozenset(program.floats())
    opaque = frozenset[str]()
    runs = [_run(program, opaque)]
    while not runs[-1].whole and opaque != everything:
        changed = runs[-1].computed | (runs[-1].missing if opaque or not runs[-1].computed else frozenset())
        opaque = opaque | changed if changed - opaque else everything
        try:
            runs.append(_run(program, opaque))
        except BackendError:
            break
    best = next((run for run in runs if run.whole), None) or next((run for run in runs if not run.missing), None)
    if best is None:
        best = _run(program, frozenset(), min((run.missing for run in runs), key=len))
    return best


def _run(program: Program, opaque: Collection[str], merged: frozenset[str] = frozenset()) -> _Converted:
    """Convert without the values of some parameters; raises BackendError where the converter refuses.

    merged: weights that the converter is left to compute with, at their real values.
    """
    refusals: list[_RefusedError] = []
    for refused in (False, True):
        try:
            return _converted(program, opaque, refused, merged)
        except _RefusedError as refusal:
            refusals.append(refusal)
    raise BackendError(f"litert-torch cannot convert this network: {refusals[0]}") from refusals[0].__cause__


def _converted(program: Program, opaque: Collection[str], refused: bool, merged: frozenset[str]) -> _Converted:
    """One run. Raises _RefusedError where the converter, or the runtime, refuses."""
    # tensors are numbered as in the file that encode will read, so its bytes come first
    data = _graph(program, opaque, refused, merged).to_bytes()
    constants = [(str(index), values) for index, values in Graph(data).constants()]
    places = weight_map.search(constants, program.sites, folded=True)
    places = {name: placements for name, placements in places.items() if name not in merged}
    others = {
        name: np.ascontiguousarray(values).tobytes()
        for name, values in program.floats().items()
        if name not in program.sites
    }
    by_value = {values: name for name, values in others.items()}
    present = {key: values.tobytes() for key, values in constants}
    floats = {key: by_value[values] for key, values in present.items() if values in by_value}
    values = set(present.values())
    computed = frozenset(name for name, value in others.items() if value not in values)
    try:
        faithful = _faithful(data, places, program)
    except (RuntimeError, ValueError) as error:
        text = str(error).strip().splitlines()[0]
        raise _RefusedError(f"LiteRT does not run what it makes of it: {text}") from error
    return _Converted(data, places, floats, computed, faithful, merged)


def _faithful(data: bytes, places: weight_map.Places, program: Program) -> bool:
    """Whether a file, with the real weights in their places, computes what the program does."""
    graph, values = Graph(data), program.floats()
    for name, placements in places.items():
        for place in placements:
            graph.set_constant(int(place.key), place.place(values[name]))
    rng = np.random.default_rng(0)
    feeds = {
        name: rng.normal(size=value.shape).astype(value.dtype)
        if value.dtype.kind == "f" and not program.image
        else rng.integers(0, 256, value.shape).astype(value.dtype)
        if program.image
        else value
        for name, value in program.example.items()
    }
    outputs, expected = run_bytes(graph.to_bytes(), feeds), program.run(feeds)
    return all(_close(outputs[name], values) for name, values in expected.items())


def _close(output: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether an output is the expected one up to rounding, and NaN and infinity are where they are expected."""
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(output)):
        return False
    error = np.abs(output[finite].astype(np.float64) - expected[finite])
    return bool(error.max(initial=0.0) <= _CLOSE * np.abs(expected[finite]).max(initial=0.0))


class _RefusedError(Exception):
    """What the converter said."""


def _graph(program: Program, opaque: Collection[str], refused: bool, merged: frozenset[str]) -> Graph:
    """The converter's file with our names, parameters that it did not know in their places. Raises _RefusedError."""
    import torch

    with quiet():
        values_of = program.floats()
        module = weight_map.placeholder(program).with_values({name: values_of[name] for name in merged}).module
    values: list[NDArray[np.float32]] = []
    if opaque:
        values = lift(module, opaque)
    else:
        flatten(module)
    rewrite(module, refused)
    example = [torch.from_numpy(np.ascontiguousarray(value)) for value in [*program.example.values(), *values]]
    graph = Graph(_litert_torch(module, tuple(example)))
    count = len(program.example)
    graph.bind({f"args_{count + i}": value for i, value in enumerate(values)})
    if opaque:
        graph.fold()
    graph.strip(
        {f"args_{i}": name for i, name in enumerate(program.example)},
        {f"output_{i}": name for i, name in enumerate(program.outputs)},
    )
    return graph


def _litert_torch(module: GraphModule, example: tuple[Any, ...]) -> bytes:
    """The converter's file, which it only writes to a path. Raises _RefusedError."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "converted.tflite"
        try:
            with quiet():
                import litert_torch

                litert_torch.convert(module.eval(), example).export(str(path))
        except Exception as error:  # the converter raises what each of its passes raises
            raise _RefusedError(_cause(error)) from error
        return path.read_bytes()


def _cause(error: Exception) -> str:
    """The operation that the converter could not convert, out of what it prints; else the first line of its error."""
    notes = " ".join(getattr(error, "__notes__", []))
    text = str(error).strip() or notes
    operation = re.search(r"failed to legalize operation '([\w.]+)'", text) or re.search(
        r"[Ll]owering not found: ?([\w.:]+)", text
    )
    if operation:
        return f"it has no form for the operation {operation[1]}"
    wrong = re.search(r"error: ('[\w.]+' op [^\n]*)", text)
    if wrong:
        return wrong[1]
    return f"{type(error).__name__}: {(text or type(error).__name__).splitlines()[0]}"
