"""Intervals of differences: against scipy's own bootstrap and tests, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from mobconv.stats import paired
from mobconv.stats.paired import difference, holm


def draw(rng, samples, lose, win):
    """Scores of 0 and 100 before and after."""
    u = rng.random(samples)
    return np.where((u >= lose) & (u < lose + win), 0.0, 100.0), np.where(u < lose, 0.0, 100.0)


def errors(rng, samples, shift):
    """Errors before and after, which grow by `shift` on average."""
    before = rng.gamma(2.0, 1.0, samples)
    return before, before + rng.normal(shift, 0.5, samples)


def test_loss_and_counts_are_those_of_the_samples():
    found = difference(np.array([100.0, 100.0, 100.0, 0.0]), np.array([100.0, 0.0, 0.0, 100.0]))
    assert (found.loss, found.worse, found.better, found.groups) == (25.0, 2, 1, 4)
    assert found.p == 1.0


def test_where_lower_is_better_a_rise_is_a_loss():
    before, after = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 2.0, 3.25, 3.75])
    found = difference(before, after, higher_is_better=False)
    assert (found.loss, found.worse, found.better) == (0.125, 2, 1)
    turned = difference(before, after)
    assert (turned.loss, turned.worse, turned.better) == (-0.125, 1, 2)


def test_nothing_changed_is_no_difference():
    scores = np.arange(10.0)
    found = difference(scores, scores)
    assert (found.loss, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
    assert found.within_noise


def test_interval_agrees_with_scipys_bootstrap():
    before, after = draw(np.random.default_rng(1), 600, 0.05, 0.02)
    found = difference(before, after)
    theirs = stats.bootstrap(
        (before - after,), np.mean, method="percentile", n_resamples=9999, rng=2
    ).confidence_interval
    # the ends are percentiles of 10,000 rounds on a grid of 1/6 of a point: one step of it either way
    assert found.low == pytest.approx(theirs.low, abs=100 / 600)
    assert found.high == pytest.approx(theirs.high, abs=100 / 600)


def test_mcnemar_is_scipys_binomial_test():
    found = difference(*draw(np.random.default_rng(2), 400, 0.04, 0.01))
    assert found.p == stats.binomtest(found.worse, found.worse + found.better).pvalue


def test_errors_agree_with_scipys_bootstrap_and_permutation_test():
    before, after = errors(np.random.default_rng(6), 700, 0.04)  # more than 512 kinds: groups are drawn one by one
    found = difference(before, after, higher_is_better=False)
    change = after - before
    theirs = stats.bootstrap((change,), np.mean, method="percentile", n_resamples=9999, rng=2).confidence_interval
    # the standard error of a 2.5 % percentile of 10,000 rounds is 2.7 % of the mean's, for each of the two
    step = 4 * 2**0.5 * 0.027 * change.std() / 700**0.5
    assert found.low == pytest.approx(theirs.low, abs=step) and found.high == pytest.approx(theirs.high, abs=step)
    test = stats.permutation_test((change,), np.mean, permutation_type="samples", n_resamples=9999, rng=3)
    assert found.p == pytest.approx(test.pvalue, abs=4 * 2**0.5 * (test.pvalue / 1e4) ** 0.5)


def test_both_ways_of_drawing_agree(monkeypatch):
    before, after = errors(np.random.default_rng(7), 300, 0.04)
    kinds = difference(before, after)
    monkeypatch.setattr(paired, "_KINDS", 0)
    groups = difference(before, after)
    step = 4 * 2**0.5 * 0.027 * (before - after).std() / 300**0.5
    assert kinds.low == pytest.approx(groups.low, abs=step) and kinds.high == pytest.approx(groups.high, abs=step)


def test_scans_that_err_together_widen_the_interval():
    rng = np.random.default_rng(3)
    before, after = draw(rng, 100, 0.1, 0.02)
    alone = difference(before, after)
    tenfold = [np.repeat(each, 10) for each in (before, after)]
    groups = np.repeat(np.arange(100), 10)
    together = difference(*tenfold, groups)
    assert (together.low, together.high, together.groups) == (alone.low, alone.high, 100)
    assert difference(*tenfold).high - difference(*tenfold).low < (alone.high - alone.low) / 2


def test_order_and_names_of_groups_do_not_matter():
    rng = np.random.default_rng(4)
    before, after = draw(rng, 300, 0.05, 0.05)
    groups = rng.integers(0, 40, 300)
    order = rng.permutation(300)
    first = difference(before, after, groups)
    assert first == difference(before[order], after[order], 1000 - groups[order])


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
