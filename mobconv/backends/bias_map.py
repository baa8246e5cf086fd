"""Bias map: which constants of a converted file are which bias of the program, by their values.

Other float parameters that a network reads (factors of a norm, parameters that it adds) are in the map too. Those whose
values another parameter has as well are not: see `mobconv.model.biases`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mobconv.backends.weight_map import Placement, Places
from mobconv.errors import BackendError
from mobconv.model.biases import recognisable
from mobconv.schemes import Cell

if TYPE_CHECKING:
    from mobconv.model.program import Program

Floats = NDArray[np.float32]
_AXES = 4  # parameters of more axes are not searched for


def locate(constants: Iterable[tuple[str, NDArray[Any]]], weights: Collection[str], program: Program) -> Places:
    """The placements of the float parameters that are in a converted file, transposed and reshaped or as they are.

    constants: (key, values) of the file; weights: keys of those that are quantizable weights.
    """
    return _search(((key, values) for key, values in constants if key not in weights), recognisable(program))


def numbered(program: Program, places: Places) -> dict[str, NDArray[np.int64]]:
    """A number for every element of the parameters that have a place, all different, for `locate_numbered`.

    A parameter of one element has no multiple of 2049, which a constant v has for its two digits in base 2048.
    """
    numbers, start = {}, 1
    for name, value in program.floats().items():
        if places.get(name):
            start += value.size == 1 and start % 2049 == 0
            numbers[name] = np.arange(start, start + value.size, dtype=np.int64).reshape(value.shape)
            start += value.size
    return numbers


def locate_numbered(
    constants: Iterable[tuple[str, NDArray[np.int64]]], numbers: Mapping[str, NDArray[np.int64]]
) -> Places:
    """The placements of parameters that have numbers for values."""
    return _search(constants, numbers)


def _search(constants: Iterable[tuple[str, NDArray[Any]]], parameters: Mapping[str, NDArray[Any]]) -> Places:
    layouts: dict[tuple[str, bytes], tuple[str, tuple[int, ...]]] = {}
    for name, value in parameters.items():
        for perm in itertools.permutations(range(value.ndim)) if value.ndim <= _AXES else ():
            moved = np.ascontiguousarray(value.transpose(perm))
            layouts.setdefault((moved.dtype.name, moved.tobytes()), (name, perm))  # the identity comes first
    places: Places = {}
    for key, array in constants:
        layout = layouts.get((array.dtype.name, np.ascontiguousarray(array).tobytes()))
        if layout is not None:
            name, perm = layout
            places.setdefault(name, []).append(Placement(key, perm, array.shape, None))
    return places


def placed(
    places: Places, biases: Mapping[str, Floats], cell: Cell, half: bool = False
) -> dict[str, NDArray[np.float32]]:
    """Key of a constant -> the values of a bias in its layout.

    half: the file has them in fp16. Raises BackendError naming a bias that has no place, does not fit it, or has values
    that fp16 cannot hold.
    """
    unplaced = [name for name in biases if not places.get(name)]
    if unplaced:
        raise BackendError(
            f"{cell}: {cell.backend} cannot encode changed biases of {', '.join(unplaced)}: the converted file has no "
            "constant with these values, or several parameters with the same ones. Leave these biases as they are, or "
            "use another format"
        )
    constants: dict[str, NDArray[np.float32]] = {}
    for name, values in biases.items():
        largest = float(np.abs(values).max(initial=0.0))
        if half and not largest <= np.finfo(np.float16).max:
            raise BackendError(
                f"{cell}: {name}: values up to {largest:g} do not fit in fp16; compute in fp32 (`@fp32`)"
            )
        for place in places[name]:
            if len(place.perm) != np.ndim(values) or np.size(values) != np.prod(place.shape, dtype=int):
                raise BackendError(
                    f"{cell}: {name}: {list(np.shape(values))} does not fit its place {list(place.shape)} in the file"
                )
            constants[place.key] = place.place(np.asarray(values, np.float32))
    return constants
