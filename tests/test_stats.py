"""Intervals against scipy, and what resampling promises."""

import numpy as np
import pytest
from scipy.stats import binomtest

from mnemoscope.stats import (
    Estimate,
    clopper_pearson,
    draw_counts,
    draw_within,
    interval_of,
    normal_mean,
    resampled_mean,
    resampled_ratio,
    share_of,
)


@pytest.mark.parametrize(("part", "whole"), [(0, 7), (3, 7), (7, 7), (40, 900)])
def test_intervals_of_shares_are_scipys(part: int, whole: int) -> None:
    test = binomtest(part, whole)
    for found, method in ((share_of, "wilson"), (clopper_pearson, "exact")):
        ends = test.proportion_ci(method=method)
        assert found(part, whole) == pytest.approx((part / whole, ends.low, ends.high), abs=1e-12)


def test_an_empty_whole_has_no_share_or_may_be_anything() -> None:
    assert np.isnan(share_of(0, 0)).all()
    assert str(share_of(0, 0)) == "none to count"
    assert clopper_pearson(0, 0) == (0.0, 0.0, 1.0)


def test_no_group_can_vanish_from_a_resample() -> None:
    groups = np.array(["a", "b", "a", "b", "b", "c"])
    drawn = draw_within(groups, np.random.default_rng(0), 500)
    for group, size in (("a", 2), ("b", 3), ("c", 1)):
        assert (drawn[:, groups == group].sum(axis=1) == size).all()
    assert (draw_counts(np.random.default_rng(0), 4, 500).sum(axis=1) == 4).all()


def test_resamples_without_a_figure_are_left_out() -> None:
    values = np.random.default_rng(0).normal(size=200)
    with_gaps = np.concatenate([values, [np.nan, np.inf]])
    wanted = tuple(np.quantile(values, [0.025, 0.975]))
    assert interval_of(with_gaps, 0.025) == interval_of(values, 0.025) == wanted
    assert interval_of(values) == pytest.approx(wanted)
    assert np.isnan(interval_of([np.nan])).all()


def test_means_agree_where_the_normal_approximation_holds() -> None:
    values = np.random.default_rng(0).random(2000) < 0.3
    normal, drawn = normal_mean(values), resampled_mean(values)
    # an end from 1,000 resamples has a standard error of .03 widths; four of them
    assert drawn == pytest.approx(normal, abs=0.003)
    assert normal_mean([0.0, 1.0], within=(0, 1)) == (0.5, 0.0, 1.0)
    assert resampled_ratio(values, np.ones(2000)) == drawn


def test_an_estimate_reads_the_columns_that_it_writes() -> None:
    found = Estimate(0.6, 0.5, 0.7)
    for ends in (None, "", "matched"):
        assert Estimate.of(found.columns("min_f1", ends=ends), "min_f1", ends=ends) == found
    assert list(found.columns("min_f1", ends="")) == ["min_f1", "low", "high"]
