"""A layer's least-squares problem: the weights to approximate, and the second moments that errors count by.

What an algorithm of `Needs.LAYER_STATISTICS` receives for each weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from mobconv.quantize.groups import FittedGroups
from mobconv.quantize.scales import fits_fp16
from mobconv.quantize.weights import QuantizedWeight
from mobconv.schemes import ALGORITHMS, DEFAULT_ALGORITHM, Needs, Scheme

Doubles = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Hessian:
    """Second moments of a layer's inputs: an error e (columns,) in a row's weights costs e H e^T.

    That is the squared error of the row's output on calibration data. An operator with groups has a block for each.

    values  float64 (blocks, columns, columns), positive definite
    """

    values: Doubles

    @cached_property
    def order(self) -> Indices:
        """int64 (blocks, columns): columns by falling H_jj."""
        return np.argsort(-np.diagonal(self.values, axis1=1, axis2=2), axis=1, kind="stable")

    @cached_property
    def factor(self) -> Doubles:
        """float64 (blocks, columns, columns): upper triangular U with U^T U = H^-1, columns in `order`."""
        order = self.order
        ordered = np.take_along_axis(np.take_along_axis(self.values, order[:, :, None], 1), order[:, None, :], 2)
        inverse = np.linalg.inv(ordered)
        lower = np.linalg.cholesky((inverse + inverse.transpose(0, 2, 1)) / 2)
        return np.ascontiguousarray(lower.transpose(0, 2, 1))

    @cached_property
    def importance(self) -> Doubles:
        """float64 (blocks, columns): curvature that is left of a column once those after it compensate, 1 / U_jj^2."""
        importance = np.empty(self.order.shape)
        np.put_along_axis(importance, self.order, np.diagonal(self.factor, axis1=1, axis2=2) ** -2.0, axis=1)
        return importance

    def times(self, rows: Doubles) -> Doubles:
        """float64 (rows, columns): each row times the H of its block; the rows of a block follow one another."""
        blocks, columns, _ = self.values.shape
        product: Doubles = np.matmul(rows.reshape(blocks, -1, columns), self.values).reshape(rows.shape)
        return product


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight as a matrix, a row an output channel of its operator, and what errors cost.

    name     of the parameter
    target   float64 (rows, columns): the weights of least error before quantization
    hessian  what errors cost
    group    int64 (rows,): index of the scale or table that a row's weights share
    """

    name: str
    target: Doubles
    hessian: Hessian
    group: Indices

    @property
    def block(self) -> Indices:
        """int64 (rows,): index of the H of each row."""
        rows, blocks = len(self.target), len(self.hessian.values)
        return np.arange(rows) // (rows // blocks)

    def error(self, weights: NDArray[Any]) -> float:
        """What the difference of weights (rows, columns) from the target costs, all rows together."""
        difference = self.target - weights
        return float((self.hessian.times(difference) * difference).sum())


class LayerAlgorithm(Protocol):
    """A module whose algorithm needs layer statistics."""

    def fit(self, layer: Layer, start: QuantizedWeight) -> FittedGroups:
        """Choose codes (rows, columns) and parameters of a layer.

        start: the target quantized by the default algorithm, without data, in the parameter's shape. Where its `fp16`
        is set, scales and tables are numbers that `scales.round_to` leaves as they are. The
        same layer gives the same bytes, on any number of threads; it is called from several at once.
        """
        ...


def quantize_layer(
    layer: Layer, scheme: Scheme, axis: int, arrange: Callable[[NDArray[Any]], NDArray[Any]]
) -> QuantizedWeight:
    """Quantize a layer by the algorithm of a scheme.

    axis: of the channels, in the parameter's shape; arrange: (rows, columns) -> the parameter's shape. Raises
    CellError as `quantize`.
    """
    from mobconv.quantize import quantize

    algorithm = ALGORITHMS[scheme.algorithm]
    assert algorithm.needs is Needs.LAYER_STATISTICS
    target = arrange(layer.target).astype(np.float32)
    start = quantize(layer.name, target, axis, replace(scheme, algorithm=DEFAULT_ALGORITHM))
    assert isinstance(start, QuantizedWeight)
    fitted = cast(LayerAlgorithm, import_module(algorithm.module)).fit(layer, start)
    return replace(
        start,
        codes=np.ascontiguousarray(arrange(fitted.codes)),
        scale=fitted.scale,
        zero_point=fitted.zero_point,
        table=fitted.table,
        fp16=start.fp16 and fits_fp16(fitted.parameters),
    )
