"""k-means is optimal: compared with an exact solver that shares nothing with it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobconv.quantize import kmeans, quantize
from mobconv.schemes import Scheme


def exact(values, clusters):
    """Least squared error of `clusters` groups: dynamic programming over intervals of the sorted values, O(k n^2).

    Clusters of an optimum in one dimension are intervals; the error of one is sum v^2 - (sum v)^2 / n.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    count = len(ordered)
    sums, squares = (np.concatenate([[0], np.cumsum(ordered**power)]) for power in (1, 2))

    def interval(first, last):  # values first .. last - 1
        return max(squares[last] - squares[first] - (sums[last] - sums[first]) ** 2 / (last - first), 0.0)

    best = np.array([0] + [interval(0, last) for last in range(1, count + 1)])
    for _ in range(1, clusters):
        best = np.array(
            [0.0] + [min(best[first] + interval(first, last) for first in range(last)) for last in range(1, count + 1)]
        )
    return best[count]


def error(values, bits, fp16=False):
    codes, tables = kmeans.fit(np.asarray(values, np.float32)[None], bits, fp16)
    return float(((tables[0][codes[0]].astype(np.float64) - np.asarray(values, np.float64)) ** 2).sum())


def test_the_solver_by_hand():
    assert exact([0, 1, 10, 11], 2) == pytest.approx(1.0)
    assert exact([0, 1, 10, 11], 1) == pytest.approx(101.0)
    assert exact([5, 5, 5], 2) == 0


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_optimal_on_small_inputs(bits, seed):
    rng = np.random.default_rng(seed)
    values = [rng.normal, rng.laplace, rng.standard_cauchy][seed % 3](size=60).astype(np.float32)
    assert error(values, bits) <= exact(values, 2**bits) * (1 + 1e-6) + 1e-9 * float((values**2).sum())


@given(st.lists(st.integers(-40, 40), min_size=1, max_size=24), st.integers(1, 3))
@settings(deadline=None)
def test_optimal_with_duplicates(whole, bits):
    values = np.array(whole, np.float32) / 8
    assert error(values, bits) <= exact(values, 2**bits) * (1 + 1e-6) + 1e-6


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("distinct", [1, 2, 3, 100])
def test_fewer_distinct_values_than_entries(bits, distinct):
    distinct = min(distinct, 2**bits)
    levels = (np.arange(distinct, dtype=np.float32) - distinct // 2) / 16
    values = np.random.default_rng(0).permutation(np.repeat(levels, 3))
    weight = quantize("w", values, 0, Scheme.parse(f"w{bits}-kmeans"))
    assert np.array_equal(weight.dequantize(), values)
    assert weight.table.shape == (1, 2**bits)
    assert kmeans.used_entries(weight.table[0]) == distinct and weight.codes.max() == distinct - 1
    assert np.all(weight.table[0][distinct:] == weight.table[0][distinct - 1])


def test_codes_choose_the_nearest_entry_of_the_rounded_table():
    values = np.random.default_rng(3).normal(size=500).astype(np.float32)
    codes, tables = kmeans.fit(values[None], 4, fp16=True)
    assert np.array_equal(tables[0], tables[0].astype(np.float16).astype(np.float32))
    distance = np.abs(values[:, None].astype(np.float64) - tables[0])
    assert np.allclose(np.take_along_axis(distance, codes[0][:, None].astype(np.int64), 1)[:, 0], distance.min(axis=1))


def test_each_channel_has_its_own_table():
    values = np.stack([np.linspace(0, 1, 30), np.linspace(50, 60, 30)]).astype(np.float32)
    weight = quantize("w", values, 0, Scheme.parse("w2-kmeans-channel"))
    assert weight.table.shape == (2, 4) and weight.axis == 0
    assert weight.table[0].max() < 1 and weight.table[1].min() > 50


def test_the_same_every_time():
    values = np.random.default_rng(3).normal(size=(7, 90)).astype(np.float32)
    first, second = (quantize("w", values, 0, Scheme.parse("w4-kmeans")) for _ in range(2))
    assert np.array_equal(first.codes, second.codes) and np.array_equal(first.table, second.table)
