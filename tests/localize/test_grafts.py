"""Comparisons of classes under grafts: closed forms, and simulated studies of known truth."""

from dataclasses import replace

import numpy as np
import pytest

from experiments.graft_verdicts.run import World, simulate  # a script, beside its helpers
from mnemoscope.localize.grafts import (
    Finding,
    Part,
    Tried,
    Walk,
    _at_level,
    _find,
    _holm,
    compare_classes,
    kept_by_class,
    kind_weights,
)
from mnemoscope.stats import Estimate, share_of


def column(*values):
    return np.array(values, dtype=np.float64)[:, None]


HALF_WAY = (1, 0.5, 0), (1, 0.8, 0.1)


@pytest.mark.parametrize(
    ("path", "values", "level", "expected"),
    [
        (*HALF_WAY, 0.75, 0.9),  # half way between two steps
        (*HALF_WAY, 0.5, 0.8),
        (*HALF_WAY, 1.0, 1.0),
        (*HALF_WAY, 0.25, 0.45),  # half way from 0.8 to 0.1
        (*HALF_WAY, 0.0, 0.1),
        (*HALF_WAY, -0.02, 0.1),  # the path ends a little above
        (*HALF_WAY, -0.2, np.nan),  # and never comes so far
        # The spared class stays whole for two steps while the other breaks: the last place counts.
        ((1, 1, 0.5), (1, 0.6, 0.2), 1.0, 0.6),
    ],
)
def test_values_are_read_in_proportion_where_the_path_last_is_at_the_level(
    path, values, level, expected
):
    found = _at_level(column(*path), np.array([level]), column(*values))
    np.testing.assert_allclose(found, [expected])


def test_holm_gives_what_p_adjust_of_r_gives():
    found = _holm([0.01, 0.04, 0.03, 0.005, 0.5])
    np.testing.assert_allclose(found, [0.04, 0.09, 0.09, 0.025, 0.5])


def test_within_kinds_both_classes_have_the_same_kinds():
    classes = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    kinds = np.array([0, 0, 0, 1, 0, 1, 1, 2])
    weights = kind_weights(Tried(classes, np.arange(8), kinds, 2), (0, 1))
    shares = [np.bincount(kinds[classes == one], weights[classes == one], 3) for one in (0, 1)]
    np.testing.assert_allclose(*shares)
    # A kind's share is the smaller of 3/4 and 1/4, of 1/4 and 2/4, of 0 and 1/4.
    np.testing.assert_allclose(shares[0], [0.5, 0.5, 0])
    apart = Tried(classes, np.arange(8), classes, 2)
    assert not kind_weights(apart, (0, 1)).any()


def planted(*, flip_too=False, kinds=None, n=200, n_walks=12):
    """A part that breaks two fifths more of class 1 than of class 0; directions do not."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], n)
    breaks_at = rng.permuted(np.tile(np.linspace(0.5, 4, n), (n_walks, 2, 1)), axis=2)
    scales = 1.25 ** np.arange(-4.0, 8)
    walks = [Walk(scales, scales[:, None] < one.ravel()) for one in breaks_at]
    half = rng.permuted(np.tile(np.arange(n) < n // 2, (2, 1)), axis=1)
    twin = half.copy()
    twin[1] = np.arange(n) % 10 == 0
    flip = twin if flip_too else half
    tried = Tried(classes, np.arange(2 * n), np.zeros(2 * n, int) if kinds is None else kinds, 2)
    return [Part("one", twin.ravel(), flip.ravel(), walks)], tried


@pytest.mark.parametrize("flip_too", [False, True])
def test_a_part_that_breaks_one_class_beyond_equal_harm_is_specific(flip_too):
    """What the flip does too is no sign of the twin."""
    into_0, into_1 = compare_classes(*planted(flip_too=flip_too), seed=0)
    assert (into_1.broken, into_1.spared) == (1, 0)
    assert into_1.finding is (Finding.EITHER_WAY if flip_too else Finding.SPECIFIC)
    assert into_1.over_flip.value == pytest.approx(0.0 if flip_too else 0.4, abs=0.02)
    # Directions leave half of both; the twin half of one and a tenth of the other.
    assert into_1.random_broken == pytest.approx(0.5, abs=0.02)
    assert into_1.value.value == pytest.approx(0.4, abs=0.02)
    assert into_1.at_equal_total.value == pytest.approx(0.4, abs=0.02)
    assert into_0.finding is Finding.ALIKE
    assert into_0.value.value < 0


def of_kinds(n):
    """As many groups of class 0 have the kind of class 1."""
    return {"kinds": np.repeat([0, 1, 1], [200 - n, n, 200])}


HEAVY = np.where(np.arange(400) < 185, 0, np.arange(400))  # 16 groups in class 0, one of them large


@pytest.mark.parametrize(
    ("changes", "groups", "has_verdict"),
    [
        (of_kinds(0), None, False),
        (of_kinds(9), None, False),
        (of_kinds(10), None, True),
        ({"n_walks": 5}, None, False),
        ({}, HEAVY, False),
    ],
)
def test_a_verdict_needs_groups_of_equal_weight_of_a_kind_in_common_and_directions(
    changes, groups, has_verdict
):
    parts, tried = planted(**changes)
    tried = tried if groups is None else replace(tried, groups=groups)
    found = {one.finding for one in compare_classes(parts, tried, seed=0)}
    assert Finding.FEW not in found if has_verdict else found == {Finding.FEW}


def test_where_no_random_change_breaks_as_much_nothing_is_said():
    parts, tried = planted()
    short = [
        walk._replace(scales=walk.scales[:2], survives=walk.survives[:2]) for walk in parts[0].walks
    ]
    found = compare_classes([parts[0]._replace(walks=short)], tried, seed=0)
    assert {one.finding for one in found} == {Finding.OUT_OF_REACH}


@pytest.mark.parametrize(
    ("low", "flip_low", "least_half", "finding"),
    [
        (0.1, 0.1, 0.05, Finding.SPECIFIC),
        (0.0, 0.1, 0.05, Finding.ALIKE),  # the interval touches 0
        (0.1, 0.1, 0.0, Finding.ALIKE),  # in one half of the groups nothing is left of it
        (0.1, -0.1, 0.05, Finding.EITHER_WAY),
        (None, 0.1, 0.05, Finding.ALIKE),
    ],
)
def test_a_finding_asks_for_its_interval_every_half_and_more_than_the_flip(
    low, flip_low, least_half, finding
):
    halves = np.r_[np.full(9, 0.4), least_half]
    over_flip = Estimate(0.3, flip_low, 0.5)
    assert _find(Estimate(0.4, low, 0.6), over_flip, halves) is finding


def test_a_difference_between_kinds_of_text_is_none_between_classes():
    """Both classes lose a tenth of one kind and seven tenths of the other."""
    kinds = np.r_[np.repeat([0, 1], [150, 50]), np.repeat([0, 1], [50, 150])]
    parts, tried = planted(kinds=kinds)
    place = np.concatenate([np.arange(n) % 10 for n in (150, 50, 50, 150)])
    twin = place >= np.where(kinds == 0, 1, 7)
    into_1 = compare_classes([parts[0]._replace(twin=twin)], tried, seed=0)[1]
    assert into_1.finding is Finding.ALIKE
    assert into_1.value.value == pytest.approx(0, abs=0.03)
    assert into_1.crude.value == pytest.approx(0.3, abs=0.03)


def test_the_difference_must_hold_where_as_much_is_left_of_both_together():
    """All directions agree at equal class 0; half of them then break class 0, half class 1."""
    n, rng = 200, np.random.default_rng(0)

    def left(of_0, of_1):  # the last ones of class 0 break first, of class 1 any
        kept = rng.permutation(np.arange(n) < of_1 * n)
        return np.r_[np.arange(n) < of_0 * n, kept]

    ends = [(0.93, 0.25), (0.3, 0.88)]
    walks = [
        Walk(np.array([1, 1.4, 2]), np.stack([left(0.99, 0.9), left(*one), left(0, 0)]))
        for one in ends * 6
    ]
    tried = Tried(np.repeat([0, 1], n), np.arange(2 * n), np.zeros(2 * n, int), 2)
    part = Part("one", left(0.99, 0.3), left(0.99, 0.9), walks)
    into_1 = compare_classes([part], tried, seed=0)[1]
    assert into_1.value.value == pytest.approx(0.6)
    assert into_1.value.low > 0.4
    assert into_1.scatter == pytest.approx(0)
    assert into_1.at_equal_total.value > 0.5
    assert into_1.finding is Finding.ALIKE


def test_shares_kept_are_means_with_their_interval_around_them():
    classes = np.repeat([0, 1], 50)
    survives = np.stack([np.arange(100) % 2 == 0, np.arange(100) < 75], axis=1)
    kept = kept_by_class(survives, Tried(classes, np.arange(100), np.zeros(100, int), 2), seed=0)
    np.testing.assert_allclose(kept.survive, [[0.5, 1.0], [0.5, 0.5]])
    assert (kept.low[:, 0] < 0.5).all()
    assert (kept.high[:, 0] > 0.5).all()
    # All of 50 survive: no resample can miss one, and Wilson's interval says what 50 can tell.
    assert (kept.low[0, 1], kept.high[0, 1]) == pytest.approx((1 - 0.0713, 1.0), abs=1e-4)


def test_what_none_or_all_survive_has_the_interval_of_its_groups():
    none = np.zeros((50, 1), dtype=bool)
    groups = np.arange(50) // 2
    kept = kept_by_class(none, Tried(np.zeros(50, int), groups, np.zeros(50, int), 1), seed=0)
    assert kept.high[0, 0] == pytest.approx(share_of(0, 25).high)
    few = kept_by_class(none, Tried(np.zeros(50, int), groups // 3, np.zeros(50, int), 1), seed=0)
    assert np.isnan(few.high[0, 0])  # nine groups still have no interval


# Studies of known truth. experiments/graft_verdicts/run.py asks many more, in more worlds.

WORLD = World(n=150, n_walks=10)


@pytest.mark.parametrize("size", [0.8, 1.22, 2.0])
def test_class_blind_twins_of_any_size_are_hardly_ever_called_specific(size):
    found = [simulate(WORLD, seed, size=size) for seed in range(12)]
    assert sum(one.finding is Finding.SPECIFIC for study in found for one in study) <= 1


def test_a_true_difference_of_30_points_is_mostly_seen_and_named_rightly():
    found = [simulate(World(), seed, size=1.22, effect=0.3) for seed in range(8)]
    named = [
        (one.broken, one.spared)
        for study in found
        for one in study
        if one.finding is Finding.SPECIFIC
    ]
    assert len(named) >= 6
    assert set(named) == {(1, 0)}


def test_a_difference_of_firmness_alone_is_none_though_equal_norm_shows_one():
    """What the withdrawn rule called a difference: one class breaks first under any change."""
    world = World(firmness=(2.5, 1.0))
    for seed in range(4):
        for one in simulate(world, seed, size=1.22):
            assert one.finding is not Finding.SPECIFIC
            assert abs(one.kept_broken - one.kept_spared) > 0.25
