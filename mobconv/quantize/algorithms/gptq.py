"""Gptq: codes, scales, zero points and tables of least squared error of a layer's outputs on calibration data.

    min over codes and parameters of  sum_r (w*_r - w_r) H (w*_r - w_r)^T

r runs over output channels, w* is the layer's target, H the second moments of its inputs (see `layer.Layer`). In turn:

1. Scale and zero point, or table, of least rounding error, each weight counted by the curvature that is left of it
   once the weights after it compensate: 1 / U_jj^2, with U the Cholesky factor of H^-1.
2. Codes column by column, the error of each made up for by the columns that follow: GPTQ (Frantar et al. 2022,
   "GPTQ: Accurate post-training quantization for generative pre-trained transformers", section 3, algorithm 1; the
   same as OBQ, Frantar and Alistarh 2022, in one order for all rows), columns of large H_jj first ("act order").
3. Three times: parameters of least error for these codes, in closed form, then one round of coordinate descent, in
   which each code is chosen again with all others fixed (as QuantEase, Behdin et al. 2023). Parameters are rounded to
   what a file can contain before codes are chosen.
4. The same as 3 from the codes of the default algorithm; each group has the better of the two, so no group is worse
   than without data.

Targets that make up for the errors of earlier layers, and biases, come from `mobconv.pipeline.calibration`.
"""

from __future__ import annotations

import numpy as np

from mobconv.quantize import clustering, layer_kernels
from mobconv.quantize.groups import FittedGroups
from mobconv.quantize.layer import Doubles, Indices, Layer
from mobconv.quantize.level_grid import LevelGrid
from mobconv.quantize.weights import QuantizedWeight

_ROUNDS = 3
_RATIOS = np.geomspace(0.5, 1.6, 29)  # scales to try, relative to that of least squared error of the weights
_FEW_BITS = 3  # up to here every zero point is tried
_FEW_ENTRIES = 16  # tables up to here are fitted to H, larger ones leave nothing to gain
_RIDGE = 1e-4  # of the mean curvature of a table's entries: keeps those that hardly any weight has near their old value


def fit(layer: Layer, start: QuantizedWeight) -> FittedGroups:
    """Codes (rows, columns) and parameters of a layer; start: those without data."""
    products = layer.hessian.times(layer.target)
    rounded = LevelGrid.of(start)
    indices = np.zeros(layer.target.shape, np.int64)
    layer_kernels.round_off(layer.target, rounded.levels, layer.group, indices)
    plain = _improved(rounded, layer, products, indices)
    grid = LevelGrid.of(start)
    if grid.table is not None:
        grid.table = _tables(grid, layer)
    else:
        _choose_scales(grid, layer, start.bits)
    hessian, indices = layer.hessian, np.zeros(layer.target.shape, np.int64)
    layer_kernels.compensate(
        layer.target, hessian.factor, hessian.order, grid.levels, layer.group, layer.block, indices
    )
    compensated = _improved(grid, layer, products, indices)
    errors = [_errors(*each, layer, products) for each in ((grid, compensated), (rounded, plain))]
    better = errors[1] < errors[0]
    grid.take(rounded, better)
    return grid.fitted(np.where(better[layer.group][:, None], plain, compensated))


def _improved(grid: LevelGrid, layer: Layer, products: Doubles, indices: Indices) -> Indices:
    """Parameters and codes in turn, the error falling each time; sets the grid's parameters, returns the codes."""
    hessian = layer.hessian
    for _ in range(_ROUNDS):
        indices = _refit(grid, layer, products, indices)
        slopes = products - hessian.times(grid.values(indices, layer.group))
        layer_kernels.descend(slopes, hessian.values, hessian.order, grid.levels, layer.group, layer.block, indices)
    return _refit(grid, layer, products, indices)


def _errors(grid: LevelGrid, indices: Indices, layer: Layer, products: Doubles) -> Doubles:
    """float64 (groups,): what a group's codes cost, less a constant."""
    values = grid.values(indices, layer.group)
    costs: Doubles = (values * (layer.hessian.times(values) - 2 * products)).sum(axis=1)
    return np.bincount(layer.group, costs, len(grid.levels)).astype(np.float64)


def _tables(grid: LevelGrid, layer: Layer) -> Doubles:
    """float64 (groups, K): k-means of each group's weights, counted by importance."""
    assert grid.table is not None
    tables = grid.table.copy()
    counts, entries = layer.hessian.importance[layer.block], tables.shape[1]
    for index in range(len(tables)):
        rows = layer.group == index
        distinct, place = np.unique(layer.target[rows], return_inverse=True)
        centres = clustering.centres(distinct, np.bincount(place.ravel(), counts[rows].ravel()), entries)
        table = np.sort(grid.entries(centres))
        tables[index] = np.pad(table, (0, entries - len(table)), mode="edge")
    return tables


def _choose_scales(grid: LevelGrid, layer: Layer, bits: int) -> None:
    """Set scales, and zero points of few bits, of least rounding error counted by importance."""
    assert grid.scale is not None and grid.factors is not None
    groups, count = grid.factors.shape
    lowest = grid.factors[:, :1]
    if grid.zero_points and bits <= _FEW_BITS:
        lowest = np.tile(-np.arange(float(count)), (groups, 1))
    scales = np.repeat(grid.scales(grid.scale[:, None] * _RATIOS), lowest.shape[1], axis=1)
    lows = np.tile(lowest, (1, len(_RATIOS)))
    errors = np.zeros(scales.shape)
    signs = bits == 1  # factors -1 and 1, and none between
    layer_kernels.rounding_errors(
        layer.target, layer.hessian.importance, scales, lows, lows + count - 1, signs, layer.group, layer.block, errors
    )
    best = errors.argmin(axis=1)[:, None]
    grid.scale = np.take_along_axis(scales, best, axis=1)[:, 0]
    if not signs:
        grid.factors = np.take_along_axis(lows, best, axis=1) + np.arange(float(count))


def _refit(grid: LevelGrid, layer: Layer, products: Doubles, indices: Indices) -> Indices:
    """Set the parameters of least error for these codes, in the groups where the error falls.

    products: the target times H. Returns the indices, changed where entries of a table change places.
    """
    group, groups = layer.group, len(grid.levels)
    if grid.table is None:
        assert grid.scale is not None and grid.factors is not None
        factors = grid.factors[group[:, None], indices]
        slope = np.bincount(group, (factors * products).sum(axis=1), groups)
        power = np.bincount(group, (factors * layer.hessian.times(factors)).sum(axis=1), groups)
        possible = (power > 0) & (slope > 0)
        scale = grid.scales(np.where(possible, slope / np.where(possible, power, 1), grid.scale))
        # errors less a constant
        new, old = (value * value * power - 2 * value * slope for value in (scale, grid.scale))
        grid.scale = np.where(new < old, scale, grid.scale)
        return indices
    entries = grid.table.shape[1]
    if entries > _FEW_ENTRIES:
        return indices
    squares, sides = np.zeros((groups, entries, entries)), np.zeros((groups, entries))
    layer_kernels.table_moments(products, layer.hessian.values, group, layer.block, indices, squares, sides)
    ridge = _RIDGE * np.maximum(np.trace(squares, axis1=1, axis2=2) / entries, 1e-30)
    pulled = squares + ridge[:, None, None] * np.eye(entries)
    table = grid.entries(np.linalg.solve(pulled, (sides + ridge[:, None] * grid.table)[:, :, None])[:, :, 0])
    new, old = (np.einsum("gk,gkl,gl->g", t, squares, t) - 2 * (t * sides).sum(axis=1) for t in (table, grid.table))
    table = np.where((new < old)[:, None], table, grid.table)
    places = np.argsort(table, axis=1, kind="stable")
    grid.table = np.take_along_axis(table, places, axis=1)
    return np.argsort(places, axis=1, kind="stable")[group[:, None], indices]
