"""Statistics of grafts against closed forms and simulations of known truth."""

from dataclasses import replace

import numpy as np
import pytest

from mnemoscope.localize.grafts import (
    Tried,
    causal_score,
    imbalance,
    kept_by_class,
    overlap_weights,
    specificities,
)

N, GROUPS, PARTS = 400, 100, 6


def tried(seed=0, *, n=N, classes=2, firmer=1.0):
    """Groups of four sequences; a group has one class, and its margin leans on the class."""
    generator = np.random.default_rng(seed)
    groups = np.arange(n) // 4
    labels = groups % classes
    gap = generator.gamma(2 + firmer * labels, 1.0)
    return Tried(labels, groups, gap, classes), gap, generator


def single(classes, groups):
    """Sequences without a margin."""
    return Tried(classes, groups, np.zeros(len(classes)), int(classes.max()) + 1)


def losses(held, seed=0, effect=0.3):
    """What parts break: as the margin wants, and part 2 more of class 1 where it is held there."""
    one, gap, generator = tried(seed)
    by_group = generator.normal(0, 0.2, (N // 4, PARTS))[one.groups]  # relatives break alike
    lost = 0.4 - 0.05 * gap[:, None] + by_group + generator.normal(0, 0.2, (N, PARTS))
    lost[:, 2] += effect * held * (one.classes == 1)
    return lost, one


def test_bins_hold_sixteenths_of_the_margin():
    one = Tried(np.zeros(320, dtype=np.int64), np.arange(320), -np.arange(320.0) % 321, 1)
    assert np.bincount(one.bins).tolist() == [20] * 16


def test_overlap_weights_give_every_class_the_same_bins():
    one, _, _ = tried()
    half = one.groups % 4 < 2
    for among in (None, half, ~half):
        weights = overlap_weights(one, among)
        shares = [
            np.bincount(one.bins[one.classes == index], weights[one.classes == index], minlength=16)
            for index in range(2)
        ]
        np.testing.assert_allclose(*shares)
        assert shares[0].sum() == pytest.approx(1)
        assert among is None or not weights[~among].any()
    apart = Tried(np.array([0, 0, 1]), np.arange(3), np.array([0, 0, 9.0]), 2)
    assert overlap_weights(apart).tolist() == [0, 0, 0]


def test_matching_takes_the_margin_off():
    """Survival decided by the margin's bin alone: classes differ plainly, and not when matched."""
    one, _, _ = tried(n=4000)
    survives = (one.bins >= 8)[:, None]
    kept = kept_by_class(survives, one, seed=0)
    assert abs(kept.survive[0, 0] - kept.survive[1, 0]) > 0.1
    assert kept.matched[0, 0] == pytest.approx(kept.matched[1, 0])
    assert imbalance(one) < 0.1


def test_intervals_are_those_of_groups():
    """Closed form: relatives survive together, so the mean's error is that of groups of four."""
    generator = np.random.default_rng(0)
    groups = np.arange(800) // 4
    survives = (generator.random(200) < 0.5)[groups][:, None]
    kept = kept_by_class(survives, single(np.zeros(800, dtype=np.int64), groups), seed=0)
    error = np.sqrt(survives.mean() * (1 - survives.mean()) / 200)
    assert kept.high[0, 0] - kept.low[0, 0] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_no_interval_and_no_score_under_ten_groups():
    classes = np.repeat([0, 1], [400, 40])
    groups = np.concatenate([np.arange(400), 400 + np.arange(40) // 5])
    one = single(classes, groups)
    kept = kept_by_class(np.ones((440, 1), dtype=bool), one, seed=0)
    assert np.isnan([kept.low[0, 0], kept.high[1, 0]]).all()
    found = causal_score(np.random.default_rng(0).random((440, 2)), one, seed=0)
    assert found.score.value is None
    assert found.n_groups == 8


def test_groups_of_several_classes_have_a_score_too():
    """Pairs of one sequence of each class: no group has a commonest class of its own."""
    classes, groups = np.arange(80) % 2, np.arange(80) // 2
    lost = np.random.default_rng(0).normal(size=(80, 3))
    lost[:, 1] += 3 * (classes == 0)
    found = causal_score(lost, single(classes, groups), seed=0, n_permutations=40)
    assert (found.part, found.broken, found.spared) == (1, 0, 1)
    assert found.takes_a_side


def test_a_part_that_holds_a_class_is_found_and_measured():
    lost, one = losses(held=True)
    found = causal_score(lost, one, seed=0)
    assert (found.part, found.broken, found.spared) == (2, 1, 0)
    assert found.takes_a_side
    assert found.agreement >= 0.8
    assert found.score.value == pytest.approx(0.3, abs=0.1)
    assert found.p_value < 0.01
    specific = {(index, part): got for index, part, _, got in specificities(lost, one, seed=0)}
    assert specific[1, 2].low > 0
    weights = overlap_weights(one)
    means = [weights[one.classes == index] @ lost[one.classes == index] for index in range(2)]
    by_hand = [specific[1, part].value for part in range(PARTS)]
    assert by_hand == pytest.approx(means[1] - means[0])
    assert specific[1, 2].value == pytest.approx(-specific[0, 2].value)


def test_where_no_part_holds_a_class_the_score_is_zero_on_average():
    """The mean of many studies within two standard errors of 0, hardly a side taken."""
    found = [
        causal_score(*losses(held=False, seed=seed), seed=seed, n_permutations=40)
        for seed in range(14)
    ]
    values = np.array([one.score.value for one in found])
    assert abs(values.mean()) <= 2 * values.std() / np.sqrt(len(values))
    assert sum(one.takes_a_side for one in found) <= 1


def test_a_class_that_is_held_more_firmly_is_no_other_mechanism():
    """Survival decided by the gap alone, one class much firmer: matched, or no side is taken."""
    sides = 0
    for seed in range(12):
        one, gap, generator = tried(seed, n=600, firmer=6.0)
        one = replace(one, groups=np.arange(600))
        breaks = generator.random((600, PARTS)) < 1 / (1 + np.exp(gap - 4))[:, None]
        found = causal_score(breaks.astype(float), one, seed=seed, n_permutations=40)
        sides += found.takes_a_side
    assert sides <= 1


def test_the_interval_covers_the_truth():
    found = [
        causal_score(*losses(held=True, seed=seed), seed=seed, n_permutations=1).score
        for seed in range(40)
    ]
    assert sum(one.low <= 0.3 <= one.high for one in found) >= 34
