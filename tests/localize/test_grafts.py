"""Statistics of grafts against closed forms and simulations of known truth."""

import numpy as np
import pytest

from mnemoscope.localize.grafts import (
    Tried,
    causal_score,
    kept_by_class,
    margin_bins,
    overlap_weights,
    specificities,
)

N, GROUPS, PARTS = 400, 100, 6


def tried(seed=0, *, n=N, classes=2):
    """Groups of four sequences; a group has one class, and its margin leans on the class."""
    generator = np.random.default_rng(seed)
    groups = np.arange(n) // 4
    labels = groups % classes
    gap = generator.gamma(2 + labels, 1.0)
    return Tried(labels, groups, margin_bins(gap, -1 / gap)), gap, generator


def losses(held, seed=0, effect=0.3):
    """What parts break: as the margin wants, and part 2 more of class 1 where it is held there."""
    one, gap, generator = tried(seed)
    by_group = generator.normal(0, 0.2, (N // 4, PARTS))[one.groups]  # relatives break alike
    lost = 0.4 - 0.05 * gap[:, None] + by_group + generator.normal(0, 0.2, (N, PARTS))
    lost[:, 2] += effect * held * (one.classes == 1)
    return lost, one


def test_bins_hold_quarters_of_the_gap_and_halves_of_the_log_probability():
    gap = np.arange(120.0)
    bins = margin_bins(gap, -np.arange(120.0) % 40)
    assert np.bincount(bins // 2).tolist() == [30, 30, 30, 30]
    assert np.unique(bins).size == 8


def test_overlap_weights_give_every_class_the_same_bins():
    one, _, _ = tried()
    weights = overlap_weights(one)
    shares = [
        np.bincount(one.bins[one.classes == index], weights[one.classes == index], minlength=8)
        for index in range(2)
    ]
    np.testing.assert_allclose(*shares)
    assert shares[0].sum() == pytest.approx(1)
    apart = Tried(np.array([0, 0, 1]), np.arange(3), np.array([0, 0, 1]))
    assert overlap_weights(apart).tolist() == [0, 0, 0]


def test_matching_takes_the_margin_off():
    """Survival decided by the margin's bin alone: classes differ plainly, and not when matched."""
    one, _, _ = tried(n=4000)
    survives = (one.bins >= 4)[:, None]
    kept = kept_by_class(survives, one, seed=0)
    assert abs(kept.survive[0, 0] - kept.survive[1, 0]) > 0.1
    assert kept.matched[0, 0] == pytest.approx(kept.matched[1, 0])


def test_intervals_are_those_of_groups():
    """Closed form: relatives survive together, so the mean's error is that of groups of four."""
    generator = np.random.default_rng(0)
    groups = np.arange(800) // 4
    survives = (generator.random(200) < 0.5)[groups][:, None]
    one = Tried(np.zeros(800, dtype=np.int64), groups, np.zeros(800, dtype=np.int64))
    kept = kept_by_class(survives, one, seed=0)
    error = np.sqrt(survives.mean() * (1 - survives.mean()) / 200)
    assert kept.high[0, 0] - kept.low[0, 0] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_no_interval_under_ten_groups():
    one = Tried(np.zeros(40, dtype=np.int64), np.arange(40) // 5, np.zeros(40, dtype=np.int64))
    kept = kept_by_class(np.ones((40, 1), dtype=bool), one, seed=0)
    assert np.isnan([kept.low[0, 0], kept.high[0, 0]]).all()
    score = causal_score(np.ones((40, 1)), one, seed=0)
    assert score.score.value is None
    assert score.n_groups == 8


def test_a_part_that_holds_a_class_is_found_and_measured():
    lost, one = losses(held=True)
    found = causal_score(lost, one, seed=0)
    assert (found.part, found.broken, found.spared) == (2, 1, 0)
    assert found.score.low > 0
    assert found.score.value == pytest.approx(0.3, abs=0.1)
    assert found.score.value > found.permuted_high
    assert found.p_value < 0.01
    specific = {(index, part): got for index, part, got in specificities(lost, one, seed=0)}
    assert specific[1, 2].specificity.low > 0
    assert specific[1, 2].specificity.value == pytest.approx(-specific[0, 2].specificity.value)


def test_where_no_part_holds_a_class_the_score_says_so_in_most_studies():
    """Fifty studies: a false score in at most one in ten of them, and none on average."""
    found = [
        causal_score(*losses(held=False, seed=seed), seed=seed, n_permutations=40)
        for seed in range(50)
    ]
    assert np.mean([one.score.value for one in found]) == pytest.approx(0, abs=0.03)
    assert sum(one.score.low > 0 and one.score.value > one.permuted_high for one in found) <= 5
    assert np.mean([one.p_value < 0.05 for one in found]) <= 0.12


def test_the_interval_covers_the_truth():
    found = [
        causal_score(*losses(held=True, seed=seed), seed=seed, n_permutations=1).score
        for seed in range(50)
    ]
    assert sum(one.low <= 0.3 <= one.high for one in found) >= 43
