"""Intervals of one score and of two: against published figures, the normal limit, and coverage by simulation."""

import numpy as np
import pytest

from mobconv.evaluate.tasks import Metric
from mobconv.results import unpaired
from mobconv.stats.estimates import PairedScores, unpaired_shares, wilson
from mobconv.stats.paired import difference


def test_wilson_is_the_published_interval():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3: 81/263 and 1/29
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(1 / 29, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_unpaired_is_the_published_interval():
    # Newcombe 1998, "Interval estimation for the difference ...", table II, method 10: 56/70 - 48/80, 9/10 - 3/10
    found = unpaired_shares(56 / 70, 48 / 80, 70, 80)
    assert (found.loss, found.low, found.high) == pytest.approx((20.0, 5.24, 33.39), abs=5e-3)
    found = unpaired_shares(0.9, 0.3, 10, 10)
    assert (found.low, found.high) == pytest.approx((17.05, 80.90), abs=5e-3)
    assert not found.paired and not found.within_noise


def test_equal_counts_are_no_difference():
    found = unpaired_shares(0.964, 0.964, 2000, 2000)
    assert found.loss == 0 and found.low == pytest.approx(-found.high) and found.p == 1 and found.within_noise


def test_coverage_of_unpaired_is_near_what_is_promised():
    # 400 draws of two independent sets of 500: a 95 % interval misses 20 by design, standard deviation 4.4; five of it
    rng = np.random.default_rng(1)
    missed = 0
    for one, other in zip(rng.binomial(500, 0.95, 400), rng.binomial(500, 0.93, 400), strict=True):
        found = unpaired_shares(one / 500, other / 500, 500, 500)
        missed += not found.low <= 2.0 <= found.high
    assert missed <= 20 + 5 * 4.4


@pytest.mark.parametrize("grouped", [False, True])
def test_pairs_are_the_paired_difference_and_are_not_mixed_up(grouped):
    rng = np.random.default_rng(2)
    groups = np.arange(300) // 5 if grouped else None
    sides = [np.where(rng.random(300) < share, 100.0, 0.0) for share in (0.9, 0.8, 0.5)]
    pairs = PairedScores(groups)
    for _ in range(2):
        for before in sides:
            for after in sides:
                found, alone = pairs(before, after), difference(before, after, groups)
                assert (found.loss, found.low, found.high, found.p) == pytest.approx(
                    (alone.loss, alone.low, alone.high, alone.p)
                )
                assert found.paired


def test_without_scores_of_samples_counts_alone_give_an_interval():
    share = unpaired(Metric("share", "", "", full=1.0), 0.8, 0.6, 70, 80)
    percentage = unpaired(Metric("top-1", "%", "points", full=100.0), 80.0, 60.0, 70, 80)
    assert (share.loss, percentage.loss) == (0.2, 20.0)
    assert (share.low, share.high) == pytest.approx((percentage.low / 100, percentage.high / 100))
    errors = unpaired(Metric("error rate", "%", "points", higher_is_better=False, full=100.0), 20.0, 40.0, 70, 80)
    assert (errors.loss, errors.low, errors.high, errors.p) == pytest.approx(
        (20.0, percentage.low, percentage.high, percentage.p)
    )
    error = unpaired(Metric("MAE", "px", "px", higher_is_better=False), 2.0, 2.5, 70, 80)
    assert error.loss == 0.5 and not error.known and not error.within_noise
