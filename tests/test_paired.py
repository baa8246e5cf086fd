"""Intervals hold what they promise: against scipy's own bootstrap, the normal limit, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from mobconv.stats.paired import difference, holm


def draw(rng, images, lose, win):
    labels = rng.integers(0, 10, images)
    wrong = (labels + 1) % 10
    u = rng.random(images)
    before = np.where((u >= lose) & (u < lose + win), wrong, labels)
    after = np.where(u < lose, wrong, labels)
    return before, after, labels


def test_points_and_counts_are_those_of_the_images():
    labels = np.array([0, 1, 2, 3])
    found = difference(np.array([0, 1, 2, 0]), np.array([0, 0, 0, 3]), labels)
    assert (found.points, found.lost, found.won, found.groups) == (25.0, 2, 1, 4)
    assert found.p == 1.0


def test_nothing_changed_is_no_difference():
    labels = np.arange(10)
    found = difference(labels, labels, labels)
    assert (found.points, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert found.within_noise


def test_interval_agrees_with_scipys_bootstrap():
    before, after, labels = draw(np.random.default_rng(1), 600, 0.05, 0.02)
    found = difference(before, after, labels)
    change = (before == labels) * 100.0 - (after == labels) * 100.0
    theirs = stats.bootstrap((change,), np.mean, method="percentile", n_resamples=9999, rng=2).confidence_interval
    # the ends are percentiles of 10,000 rounds on a grid of 1/6 of a point: one step of it either way
    assert found.low == pytest.approx(theirs.low, abs=100 / 600)
    assert found.high == pytest.approx(theirs.high, abs=100 / 600)


def test_mcnemar_is_scipys_binomial_test():
    before, after, labels = draw(np.random.default_rng(2), 400, 0.04, 0.01)
    found = difference(before, after, labels)
    assert found.p == stats.binomtest(found.lost, found.lost + found.won).pvalue


def test_scans_that_err_together_widen_the_interval():
    rng = np.random.default_rng(3)
    before, after, labels = draw(rng, 100, 0.1, 0.02)
    alone = difference(before, after, labels)
    tenfold = [np.repeat(each, 10) for each in (before, after, labels)]
    groups = np.repeat(np.arange(100), 10)
    together = difference(*tenfold, groups)
    assert (together.low, together.high, together.groups) == (alone.low, alone.high, 100)
    assert difference(*tenfold).high - difference(*tenfold).low < (alone.high - alone.low) / 2


def test_order_and_names_of_groups_do_not_matter():
    rng = np.random.default_rng(4)
    before, after, labels = draw(rng, 300, 0.05, 0.05)
    groups = rng.integers(0, 40, 300)
    order = rng.permutation(300)
    first = difference(before, after, labels, groups)
    assert first == difference(before[order], after[order], labels[order], 1000 - groups[order])


def test_coverage_is_near_what_is_promised():
    # 400 simulated sets of 500 images with a true loss of 2 points. A 95 % interval misses 20 of 400 by design,
    # with a standard deviation of 4.4; percentile intervals of few events run a little short, hence 5 of these
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(400):
        found = difference(*draw(rng, 500, 0.04, 0.02))
        missed += not found.low <= 2.0 <= found.high
    assert missed <= 20 + 5 * 4.4


def test_holm_against_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
