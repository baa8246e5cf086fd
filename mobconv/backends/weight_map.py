"""Weight map: which constants of a converted file are which weight of the program, by fingerprints.

A program is converted once with fingerprints in its quantizable weights: float32 numbers that are all distinct, across
tensors too. The values of a constant in the converted file then determine its parameter and layout (OIHW, OHWI,
transposed, reshaped, several copies), even where real weights would be equal or constant. Names play no part.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.errors import BackendError
from mobconv.schemes import Cell

if TYPE_CHECKING:
    from mobconv.model.program import Program, WeightSite

# float32 0.5 as an integer: counting up from here gives distinct, normal, positive floats.
_FIRST = 0x3F000000
# stop well below infinity (0x7F800000)
_LIMIT = 0x7F000000 - _FIRST


@dataclass(frozen=True)
class Placement:
    """A constant with the values of a parameter: the parameter transposed by `perm`, then reshaped.

    key     the constant's name or index in the file
    perm    permutation of the parameter's axes
    shape   the constant's shape
    axis    the constant's axis of output channels; None where they share an axis with something else
    view    what the parameter is reshaped to first, as for the groups of a transposed convolution: `perm` is then of
            these axes; empty: its own shape
    flip    axes that are reversed before `perm`, as those of a kernel that a convolution reads backwards
    """

    key: str
    perm: tuple[int, ...]
    shape: tuple[int, ...]
    axis: int | None
    view: tuple[int, ...] = ()
    flip: tuple[int, ...] = ()

    def place(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values in the parameter's layout -> the same values in the constant's layout, contiguous."""
        values = np.flip(values.reshape(self.view or values.shape), self.flip)
        return np.ascontiguousarray(values.transpose(self.perm).reshape(self.shape))


Places = dict[str, list[Placement]]
"""Name of a parameter -> all constants with its values."""


def fingerprints(sites: Mapping[str, WeightSite]) -> dict[str, NDArray[np.float32]]:
    """Values to convert with: a distinct float32 for each weight. Raises BackendError above 2^30 weights."""
    total = sum(int(np.prod(site.shape)) for site in sites.values())
    if total > _LIMIT:
        raise BackendError(f"{total} weights: mobconv converts networks of at most {_LIMIT}")
    values, start = {}, _FIRST
    for name, site in sites.items():
        count = int(np.prod(site.shape))
        values[name] = np.arange(start, start + count, dtype=np.int32).view(np.float32).reshape(site.shape)
        start += count
    return values


def locate(constants: Iterable[tuple[str, NDArray[Any]]], sites: Mapping[str, WeightSite]) -> Places:
    """Find every fingerprinted parameter among (key, array) constants of a converted file.

    Raises BackendError naming a parameter that no constant has, in any transposition and reshape of it.
    """
    places = search(constants, sites)
    missing = [name for name, placements in places.items() if not placements]
    if missing:
        raise BackendError(
            f"cannot find {', '.join(missing)} in the converted file: the converter merged these "
            "weights with an operation beside them, or dropped them. This backend cannot quantize the network; please "
            "report it."
        )
    return places


def search(
    constants: Iterable[tuple[str, NDArray[Any]]], sites: Mapping[str, WeightSite], folded: bool = False
) -> Places:
    """The placements of every parameter, none for one that no constant has.

    folded: also find parameters whose axes were divided or reversed before they were transposed.
    """
    if not sites:
        return {}
    names = list(sites)
    counts = np.array([int(np.prod(sites[name].shape)) for name in names])
    ends = np.cumsum(counts)
    places: Places = {name: [] for name in names}
    for key, array in constants:
        if array.dtype != np.float32 or array.size == 0:
            continue
        index = np.ascontiguousarray(array).view(np.int32).astype(np.int64) - _FIRST
        if index.min() < 0 or index.max() >= ends[-1]:
            continue
        owner = int(np.searchsorted(ends, index.min(), side="right"))
        if index.size != counts[owner]:
            continue
        local = index - (ends[owner] - counts[owner])
        placement = _layout(key, local, sites[names[owner]])
        if placement is None and folded:
            placement = _divided(key, local, sites[names[owner]])
        if placement is not None:
            places[names[owner]].append(placement)
    return places


def _layout(key: str, local: NDArray[np.int64], site: WeightSite) -> Placement | None:
    """The placement of a constant; local: for each of its elements the element's number in the parameter."""
    ramp = np.arange(local.size, dtype=np.int64).reshape(site.shape)
    # the identity comes first; equal candidates (axes of length 1) do not matter
    for perm in itertools.permutations(range(len(site.shape))):
        if np.array_equal(ramp.transpose(perm).reshape(-1), local.reshape(-1)):
            return _with_axis(Placement(key, perm, local.shape, None), site)
    return None


def _divided(key: str, local: NDArray[np.int64], site: WeightSite) -> Placement | None:
    """The placement of a constant whose elements are steps through the parameter, axis by axis, some of them backwards.

    Each axis of the constant is divided where the step to the next element changes; steps in order of their size are
    then axes of the parameter.
    """
    axes: list[tuple[int, int]] = []  # (length, step), the fastest first
    rest = local.reshape(-1)
    while rest.size > 1:
        step = int(rest[1] - rest[0])
        breaks = np.flatnonzero(np.diff(rest) != step)
        length = int(breaks[0]) + 1 if breaks.size else rest.size
        if rest.size % length:
            return None
        axes.append((length, step))
        rest = rest[::length]
    axes.reverse()
    order = sorted(range(len(axes)), key=lambda i: -abs(axes[i][1]))  # axes of the constant, as in the parameter
    view = tuple(axes[i][0] for i in order)
    flip = tuple(position for position, i in enumerate(order) if axes[i][1] < 0)
    placement = Placement(key, tuple(int(i) for i in np.argsort(order)), local.shape, None, view, flip)
    ramp = np.arange(local.size, dtype=np.int64).reshape(site.shape)
    return _with_axis(placement, site) if np.array_equal(placement.place(ramp), local) else None


def _with_axis(placement: Placement, site: WeightSite) -> Placement:
    """The placement with the axis of its constant that has the output channels and nothing else."""
    shape, channels = placement.shape, site.shape[site.axis]
    view = [-1 if axis == site.axis else 1 for axis in range(len(site.shape))]
    placed = placement.place(np.broadcast_to(np.arange(channels).reshape(view), site.shape))
    for axis, length in enumerate(shape):
        view = [-1 if i == axis else 1 for i in range(len(shape))]
        if length == channels and np.array_equal(placed, np.broadcast_to(np.arange(channels).reshape(view), shape)):
            return replace(placement, axis=axis)
    return placement


def placeholder(program: Program) -> Program:
    """The program that backends convert: with fingerprints in its quantizable weights."""
    return program.with_values(fingerprints(program.sites))


def check_agreement(places: Collection[str], weights: Collection[str], cell: Cell) -> None:
    """Raise BackendError naming weights that only one of a template and a model has."""
    differing = sorted(set(places) ^ set(weights))
    if differing:
        raise BackendError(f"{cell}: the template and the weights do not agree on {', '.join(differing)}")


def save(path: Path, places: Places, extra: Mapping[str, Any], biases: Places | None = None) -> None:
    """Write the map beside a template as JSON; extra: further entries of the backend; biases: see `bias_map`."""
    maps = {"places": _entries(places), **extra, "biases": _entries(biases or {})}
    path.write_text(json.dumps(maps, indent=1) + "\n")


def load(path: Path) -> tuple[Places, dict[str, Any]]:
    """Read the map of weights that `save` wrote, and the further entries; that of biases is among these."""
    content = json.loads(path.read_text())
    return _places(content.pop("places")), content


def biases(extra: Mapping[str, Any]) -> Places:
    """The map of biases out of the further entries of a map."""
    return _places(extra.get("biases", {}))


def _entries(places: Places) -> dict[str, list[dict[str, Any]]]:
    return {name: [asdict(place) for place in placements] for name, placements in places.items()}


def _places(entries: Mapping[str, Any]) -> Places:
    return {name: [_placement(entry) for entry in placements] for name, placements in entries.items()}


def _placement(entry: Mapping[str, Any]) -> Placement:
    axes = {field: tuple(entry[field]) for field in ("perm", "shape", "view", "flip")}
    return Placement(entry["key"], axes["perm"], axes["shape"], entry["axis"], axes["view"], axes["flip"])
