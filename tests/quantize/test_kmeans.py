"""k-means is optimal: compared with exact solvers that share no code with it."""

import tracemalloc

import numpy as np
import pytest
from exact import divide_and_conquer, every_split
from hypothesis import given, settings
from hypothesis import strategies as st

from mobconv.quantize import clustering, kmeans, quantize
from mobconv.quantize.algorithms import mse
from mobconv.schemes import Mode, Scheme


def exact(values, clusters):
    """Least squared error of `clusters` groups, of values in any order."""
    return every_split(np.sort(np.asarray(values, np.float64)), np.ones(len(values)), clusters)


def error(values, bits, fp16=False):
    fitted = mse.fit(np.asarray(values, np.float32)[None], Mode.KMEANS, bits, fp16)
    return float(((fitted.table[0][fitted.codes[0]].astype(np.float64) - np.asarray(values, np.float64)) ** 2).sum())


def test_the_solver_by_hand():
    assert exact([0, 1, 10, 11], 2) == pytest.approx(1.0)
    assert exact([0, 1, 10, 11], 1) == pytest.approx(101.0)
    assert exact([5, 5, 5], 2) == 0
    weighed = np.array([0.0, 1, 10]), np.array([3, 1, 2])  # 0 0 0 1 10 10
    assert every_split(*weighed, 2) == pytest.approx(0.75)
    assert divide_and_conquer(*weighed, 2) == pytest.approx(0.75)


@pytest.mark.parametrize("seed", range(5))
def test_the_two_exact_solvers_agree(seed):
    values, weights = sample(seed, 120)
    for clusters in (1, 2, 7, 40, len(values)):
        least = divide_and_conquer(values, weights, clusters)
        # sums of squares are what both start from: rounding is of their size
        assert least == pytest.approx(every_split(values, weights, clusters), abs=rounding(values, weights))


def sample(seed, count):
    """(values ascending and distinct, counts): normal, or tails heavier and heavier, or a lump beside a far one."""
    rng = np.random.default_rng(seed)
    draw = [rng.normal, rng.laplace, rng.standard_cauchy, rng.uniform, lambda size: rng.choice([-9, 4], size)][seed % 5]
    values = np.unique(draw(size=count).astype(np.float32) + rng.normal(size=count).astype(np.float32) / 50)
    return values, rng.integers(1, 9, len(values))


def rounding(values, weights):
    """What errors may differ by: 1e-14 of the sum of squares (a few dozen roundings of 2^-53)."""
    return 1e-14 * float((weights * (values.astype(np.float64) - np.average(values, weights=weights)) ** 2).sum())


def error_of(values, weights, centres):
    """Squared error when each value goes to its nearest centre (k,) ascending."""
    middle = (centres[1:] + centres[:-1]) / 2
    return float((weights * (values - centres[np.searchsorted(middle, values)]) ** 2).sum())


@pytest.mark.parametrize("clusters", [1, 2, 3, 5, 16, 31, 64, 200])
@pytest.mark.parametrize("count", [12, 90, 400])
@pytest.mark.parametrize("seed", range(5))
def test_optimal_with_counts(seed, count, clusters):
    values, weights = sample(seed, count)
    centres = clustering.centres(values, weights, clusters)
    assert len(centres) == min(clusters, len(values)) and np.all(np.diff(centres) > 0)
    best = every_split(values, weights, min(clusters, len(values)))
    # not below either: an error that is less than the least is counted wrongly
    assert error_of(values, weights, centres) == pytest.approx(best, rel=1e-9, abs=rounding(values, weights))


def test_counts_count():
    """Three of a value are that value three times."""
    values, weights = np.array([0, 1, 2, 3, 7], np.float32), np.array([1, 50, 1, 50, 1])
    assert clustering.centres(values, weights, 3)[1] == pytest.approx((2 + 3 * 50) / 51)
    assert clustering.centres(values, np.ones(5, np.int64), 3)[1] == pytest.approx(2.5)


@pytest.fixture
def joined(monkeypatch):
    """How often two partitions had to be joined, as (clusters of one, of the other, wanted)."""
    calls, join = [], clustering.join

    def counted(fewer, more, clusters):
        calls.append((len(fewer) - 1, len(more) - 1, clusters))
        return join(fewer, more, clusters)

    monkeypatch.setattr(clustering, "join", counted)
    return calls


@pytest.mark.parametrize(("count", "clusters"), [(12, 5), (30, 13), (64, 24), (100, 40), (384, 256), (1000, 600)])
def test_ties_are_joined_from_a_partition_with_fewer_clusters_and_one_with_more(joined, count, clusters):
    """Equal steps: one price has optima of n / (s + 1) to n / s clusters, s or s + 1 values in each; of those with
    as few or as many clusters as can be, neither has the number that is wanted."""
    values = np.arange(count, dtype=np.float32)
    centres = clustering.centres(values, np.ones(count, np.int64), clusters)
    assert len(centres) == clusters
    ((fewer, more, wanted),) = joined
    assert fewer < clusters < more and wanted == clusters
    # s consecutive whole numbers have a squared error of s (s^2 - 1) / 12
    short, longer = count // clusters, count % clusters
    least = sum(s * (s * s - 1) / 12 * n for s, n in ((short, clusters - longer), (short + 1, longer)))
    assert error_of(values, 1, centres) == pytest.approx(least, rel=1e-9)


def test_joined_by_hand():
    """Three clusters from partitions into 2 and 4: the first of the two, then the last two of the four."""
    fewer, more = np.array([0, 6, 12]), np.array([0, 3, 6, 9, 12])
    assert clustering.join(fewer, more, 3).tolist() == [0, 6, 9, 12]


@given(st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(1, n - 1)))), st.data())
@settings(deadline=None)
def test_any_two_partitions_can_be_joined(case, data):
    """In any two partitions, an interval of one is inside an interval of the other, so that they can be joined."""
    count, cuts = case
    more = np.array([0, *sorted(cuts), count])
    few = data.draw(st.sets(st.integers(1, count - 1), max_size=max(len(cuts) - 2, 0)))
    fewer = np.array([0, *sorted(few), count])
    for clusters in range(len(fewer), len(more) - 1):
        edges = clustering.join(fewer, more, clusters)
        assert len(edges) == clusters + 1 and edges[0] == 0 and edges[-1] == count and np.all(np.diff(edges) > 0)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_optimal_with_256_clusters_of_20000_values(seed):
    values, weights = sample(seed, 20_000)
    assert len(values) > 19_000
    centres = clustering.centres(values, weights, 256)
    assert len(centres) == 256
    best = divide_and_conquer(values, weights, 256)
    assert error_of(values, weights, centres) == pytest.approx(best, rel=1e-9, abs=rounding(values, weights))


@pytest.mark.parametrize("clusters", [2, 16, 256])
@pytest.mark.parametrize("far", [1e2, 1e4, 1e6])
def test_optimal_beside_a_far_outlier(far, clusters):
    """Nearly all of the range is empty, so that the estimate for smooth densities does not help the search."""
    values, weights = sample(0, 3000)
    values = np.append(values, np.float32(far))
    weights = np.append(weights, 1)
    centres = clustering.centres(values, weights, clusters)
    assert len(centres) == clusters and centres[-1] == pytest.approx(far, rel=0.5)
    best = divide_and_conquer(values, weights, clusters)
    assert error_of(values, weights, centres) == pytest.approx(best, rel=1e-9, abs=rounding(values, weights))


def test_memory_does_not_grow_with_the_number_of_clusters():
    values, weights = sample(0, 20_000)
    clustering.centres(values, weights, 2)  # compiles
    peaks = {}
    for clusters in (2, 256):
        tracemalloc.start()
        clustering.centres(values, weights, clusters)
        peaks[clusters] = tracemalloc.get_traced_memory()[1] / len(values)
        tracemalloc.stop()
    # numpy's arrays, not those within compiled code; a table of 256 int32 would be 1024 bytes a value
    assert peaks[256] < 1.05 * peaks[2] and peaks[256] < 300


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
    fitted = mse.fit(values[None], Mode.KMEANS, 4, fp16=True)
    (table,), (codes,) = fitted.table, fitted.codes
    assert np.array_equal(table, table.astype(np.float16).astype(np.float32))
    distance = np.abs(values[:, None].astype(np.float64) - table)
    assert np.allclose(np.take_along_axis(distance, codes[:, None].astype(np.int64), 1)[:, 0], distance.min(axis=1))


def test_each_channel_has_its_own_table():
    values = np.stack([np.linspace(0, 1, 30), np.linspace(50, 60, 30)]).astype(np.float32)
    weight = quantize("w", values, 0, Scheme.parse("w2-kmeans-channel"))
    assert weight.table.shape == (2, 4) and weight.axis == 0
    assert weight.table[0].max() < 1 and weight.table[1].min() > 50


def test_the_same_every_time():
    values = np.random.default_rng(3).normal(size=(7, 90)).astype(np.float32)
    first, second = (quantize("w", values, 0, Scheme.parse("w4-kmeans")) for _ in range(2))
    assert np.array_equal(first.codes, second.codes) and np.array_equal(first.table, second.table)
