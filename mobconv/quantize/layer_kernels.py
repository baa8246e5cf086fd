"""Loops over the weights of a layer whose errors count together, compiled with numba.

Each row is by itself, sums are in a fixed order and no product and sum are rounded together, so that codes are the same
on any number of threads and any processor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mobconv.quantize.kernels import machine_code

_GAIN = 1e-9  # of the cost of a step: a code changes for more than this alone, since less is rounding


@machine_code
def nearest(levels: Any, value: float) -> int:
    """Index of the level (K,), ascending, that is nearest to a value; of two, and of equal levels, the lower."""
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if value > (levels[middle] + levels[middle + 1]) / 2:
            low = middle + 1
        else:
            high = middle
    while low > 0 and levels[low - 1] == levels[low]:
        low -= 1
    return low


@machine_code
def round_off(target: Any, levels: Any, group: Any, codes: Any) -> None:
    """Fill codes (rows, columns) with the nearest levels (groups, K), each weight by itself."""
    for index in range(len(target)):
        values = levels[group[index]]
        for column in range(target.shape[1]):
            codes[index, column] = nearest(values, target[index, column])


@machine_code
def compensate(target: Any, factor: Any, order: Any, levels: Any, group: Any, block: Any, codes: Any) -> None:
    """Fill codes (rows, columns) one column after another, each error compensated by the columns that follow.

    factor (blocks, columns, columns): the upper Cholesky factor U of H^-1 with its columns in the order of `order`
    (blocks, columns), U^T U = H^-1. levels (groups, K). Frantar et al. 2022, "GPTQ", equation 3 and algorithm 1.
    """
    columns = target.shape[1]
    row = np.empty(columns)
    for index in range(len(target)):
        upper, places, values = factor[block[index]], order[block[index]], levels[group[index]]
        for place in range(columns):
            row[place] = target[index, places[place]]
        for place in range(columns):
            code = nearest(values, row[place])
            codes[index, places[place]] = code
            error = (row[place] - values[code]) / upper[place, place]
            for later in range(place + 1, columns):
                row[later] -= error * upper[place, later]


@machine_code
def descend(slopes: Any, hessian: Any, order: Any, levels: Any, group: Any, block: Any, codes: Any) -> int:
    """One round of coordinate descent: each code is chosen again with the others fixed. Returns how many changed.

    slopes (rows, columns): (target - weights) H, kept up to date.
    """
    changed = 0
    for index in range(len(codes)):
        second, values, slope = hessian[block[index]], levels[group[index]], slopes[index]
        for column in order[block[index]]:
            power = second[column, column]
            before = codes[index, column]
            code = nearest(values, values[before] + slope[column] / power)
            if code == before:
                continue
            step = values[code] - values[before]
            if step * (2 * slope[column] - step * power) > _GAIN * step * step * power:
                codes[index, column] = code
                changed += 1
                for other in range(len(slope)):
                    slope[other] -= step * second[column, other]
    return changed


@machine_code
def table_moments(products: Any, hessian: Any, group: Any, block: Any, codes: Any, squares: Any, sides: Any) -> None:
    """Add to squares (groups, K, K) and sides (groups, K), zeros at first, the normal equations of tables.

    products (rows, columns): target times H. Entry k of a table multiplies the indicator of the columns with code k.
    """
    columns = codes.shape[1]
    sums = np.empty((squares.shape[1], columns))
    for index in range(len(codes)):
        second, square, side = hessian[block[index]], squares[group[index]], sides[group[index]]
        sums[:] = 0
        for column in range(columns):
            code = codes[index, column]
            side[code] += products[index, column]
            total, row = sums[code], second[column]
            for other in range(columns):
                total[other] += row[other]
        for entry in range(len(sums)):
            for column in range(columns):
                square[codes[index, column], entry] += sums[entry, column]


@machine_code
def rounding_errors(
    target: Any, weights: Any, scales: Any, lows: Any, highs: Any, signs: bool, group: Any, block: Any, errors: Any
) -> None:
    """Add to errors (groups, candidates), zeros at first, the weighted squared errors of plain rounding.

    weights (blocks, columns) of squared errors; scales, lows and highs (groups, candidates): a scale and the range of
    the integers that multiply it. signs: the factors are -1 and 1 alone.
    """
    for index in range(len(target)):
        importance, place = weights[block[index]], group[index]
        for candidate in range(scales.shape[1]):
            scale, low, high = scales[place, candidate], lows[place, candidate], highs[place, candidate]
            total = 0.0
            for column in range(target.shape[1]):
                value = target[index, column]
                factor = np.copysign(1.0, value) if signs else min(max(np.rint(value / scale), low), high)
                total += importance[column] * (value - scale * factor) ** 2
            errors[place, candidate] += total
