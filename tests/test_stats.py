"""Intervals against scipy, and what resampling promises."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest, norm
from sklearn.metrics import roc_auc_score

from mnemoscope.stats import (
    FEWEST_GROUPS,
    FIGURE,
    FIGURES,
    NO_ESTIMATE,
    NOTHING_TO_COUNT,
    Estimate,
    clopper_pearson,
    draw_counts,
    draw_within,
    estimate_of,
    fewest_groups,
    frame_of,
    grouped_variance,
    interval_of,
    resampled_auc,
    resampled_mean,
    resampled_means,
    resampled_ratio,
    rows_of,
    share_of,
    share_true,
)


def test_intervals_of_shares_are_scipys():
    for part, whole in ((0, 7), (3, 7), (7, 7), (40, 900)):
        test = binomtest(part, whole)
        for found, method in ((share_of, "wilson"), (clopper_pearson, "exact")):
            ends = test.proportion_ci(method=method)
            wanted = (part / whole, ends.low, ends.high)
            assert found(part, whole) == pytest.approx(wanted, abs=1e-12)
    assert np.isnan(share_of(0, 0)).all()
    assert str(share_of(0, 0)) == "none to count"
    assert clopper_pearson(0, 0) == (0.0, 0.0, 1.0)


def test_resamples_without_a_figure_are_left_out():
    values = np.random.default_rng(0).normal(size=200)
    with_gaps = np.concatenate([values, [np.nan, np.inf]])
    wanted = tuple(np.quantile(values, [0.025, 0.975]))
    assert interval_of(with_gaps, 0.025) == interval_of(values, 0.025) == wanted
    assert interval_of(values) == pytest.approx(wanted)
    assert np.isnan(interval_of([np.nan])).all()


def test_means_agree_where_the_normal_approximation_holds():
    values = np.random.default_rng(0).random(2000) < 0.3
    drawn, reach = resampled_mean(values), norm.ppf(0.975) * values.std() / np.sqrt(2000)
    middle = values.mean()
    # an end from 1,000 resamples has a standard error of .03 widths; four of them
    assert drawn == pytest.approx((middle, middle - reach, middle + reach), abs=0.003)
    assert resampled_ratio(values, np.ones(2000)) == drawn


def test_intervals_of_figures_that_are_judged_together_are_those_of_bonferroni():
    values = np.random.default_rng(0).normal(size=400)
    found = resampled_mean(values, n_judged=8)
    error = values.std() / 20
    assert found.low is not None
    assert found.high is not None
    wanted = norm.ppf(1 - 0.025 / 8)
    assert (found.value - found.low) / error == pytest.approx(wanted, abs=0.25)
    assert (found.high - found.value) / error == pytest.approx(wanted, abs=0.25)


def test_a_table_gives_the_figures_that_it_was_made_of_and_null_for_what_is_none():
    nan = float("nan")
    row = {"class": "Guess", "f1": Estimate(0.6, 0.5, 0.7), "auc": [Estimate(1.0), NO_ESTIMATE]}
    none = {"class": "Recall", "f1": Estimate(nan, 0.1, 0.2), "auc": None}
    frame = frame_of([row, none, row | {"f1": Estimate(1, nan, nan)}])
    assert frame.schema == {"class": pl.String, "f1": FIGURE, "auc": FIGURES}
    wanted = [row, none | {"f1": NO_ESTIMATE, "auc": []}, row | {"f1": Estimate(1.0)}]
    assert list(rows_of(frame)) == wanted
    assert frame["f1"].is_null().to_list() == [False, True, False]
    assert list(rows_of(frame_of([row], frame.schema))) == [row]


def test_a_group_is_drawn_whole_and_classes_keep_their_number_of_groups():
    classes = np.repeat([0, 1], 60)
    groups = np.concatenate([np.arange(60) // 3, 100 + np.arange(60) // 4])
    drawn = draw_within(classes, np.random.default_rng(0), 200, groups=groups)
    for one in np.unique(groups):
        own = drawn[:, groups == one]
        assert (own == own[:, :1]).all()
    first = [np.flatnonzero(groups == one)[0] for one in np.unique(groups)]
    assert (drawn[:, first][:, :20].sum(axis=1) == 20).all()
    assert (drawn[:, first][:, 20:].sum(axis=1) == 15).all()
    # groups of one are drawn as sequences are
    names = np.random.default_rng(1).permutation(120)
    apart = draw_within(classes, np.random.default_rng(0), 50)
    assert (apart == draw_within(classes, np.random.default_rng(0), 50, groups=names)).all()
    assert (apart[:, :60].sum(axis=1) == 60).all()
    assert (apart.sum(axis=1) == 120).all()
    assert (draw_counts(np.random.default_rng(0), 4, 500).sum(axis=1) == 4).all()


def test_a_group_over_classes_moves_whole_and_no_class_is_missed(monkeypatch):
    monkeypatch.setattr("mnemoscope.stats.FEWEST_GROUPS", 3)
    # Class 1 has nothing but one sequence in each of three groups that are mostly class 0.
    groups = np.concatenate([np.repeat(np.arange(3), 3), np.arange(3, 20)])
    classes = np.concatenate([np.tile([0, 0, 1], 3), np.zeros(17, dtype=int)])
    # Without drawing again, one resample of 26 would miss all three of the 20.
    drawn = draw_within(classes, np.random.default_rng(0), 2000, groups=groups)
    shared = drawn[:, :9].reshape(-1, 3, 3)
    assert (shared == shared[..., :1]).all()
    assert drawn[:, classes == 1].any(axis=1).all()
    assert len(np.unique(drawn[:, classes == 1].sum(axis=1))) > 5


@pytest.mark.parametrize("n_groups", [1, FEWEST_GROUPS - 1])
def test_too_few_groups_give_a_figure_and_no_interval(n_groups: int):
    groups = np.arange(120) % n_groups
    values = np.random.default_rng(0).random(120)
    assert len(draw_within(np.zeros(120), np.random.default_rng(0), 9, groups=groups)) == 0
    assert resampled_mean(values, groups) == (pytest.approx(values.mean()), None, None)
    assert share_true(values > 0.5, groups) == ((values > 0.5).mean(), None, None)
    assert str(share_true(np.arange(120) < 30, groups)) == "25.0 %"
    assert estimate_of(0.5, np.empty(0)) == Estimate(0.5)
    for number in (np.float64(-0.5), np.float32(-0.5), np.array([-0.5])[0], np.int64(2), True):
        made = [Estimate(number, number, number), estimate_of(number, [number] * 3)]
        made += [Estimate(0.5)._replace(low=one.low) for one in made]
        # what pages and JSON are made of: `value < 0` of a number of NumPy is no Python bool
        assert {type(end) for one in made for end in one} <= {float, type(None)}
    classes = np.repeat([0, 1], [30, 24])
    assert fewest_groups(classes, np.concatenate([np.arange(30), np.arange(24) // 2])) == 12
    assert fewest_groups(classes, np.arange(54)) == 24


def clustered(rng: np.random.Generator, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of unequal groups: half of their variance is their group's."""
    groups = np.repeat(np.arange(n_groups), 1 + rng.poisson(4, n_groups))
    return rng.normal(size=n_groups)[groups] + rng.normal(size=len(groups)), groups


def test_the_variance_of_a_mean_over_groups_is_the_closed_form():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)  # equal groups: the mean is the mean of 40 group means
    values = rng.normal(size=40)[groups] + rng.normal(size=200)
    means = values.reshape(40, 5).mean(axis=1)
    assert grouped_variance(values, groups) == pytest.approx(means.var(ddof=1) / 40, rel=1e-12)
    # The bootstrap has (g - 1) / g of it; 4 standard errors of a variance of 20,000 draws.
    drawn = draw_within(np.zeros(200), rng, 20_000, groups=groups) @ values / 200
    assert drawn.var() == pytest.approx(means.var() / 40, rel=4 * np.sqrt(2 / 20_000))
    # Of groups of one it is the common variance of a mean.
    assert grouped_variance(values, np.arange(200)) == pytest.approx(values.var(ddof=1) / 200)


def test_of_clustered_data_todays_interval_covers_too_seldom_and_groups_mend_it(
    monkeypatch,
):
    monkeypatch.setattr("mnemoscope.stats._RESAMPLES", 200)
    rng = np.random.default_rng(0)
    apart = within = shares = 0
    n = 200
    for _ in range(n):
        values, groups = clustered(rng, 40)
        one, other = resampled_mean(values), resampled_mean(values, groups)
        apart += one.low < 0 < one.high
        within += other.low < 0 < other.high
        share = share_true(values > 0, groups)
        shares += share.low < 0.5 < share.high
    # Of 200 studies 95 % less 4 standard errors is 88.8.
    assert apart / n < 0.8
    assert within / n > 0.888
    assert shares / n > 0.888


@pytest.mark.parametrize("part", [0, 7, 30])
def test_every_row_five_times_tells_nothing_new(part: int):
    """Of a mean, and of a share where none, some and all are so."""
    rng, groups = np.random.default_rng(0), np.arange(30)
    flags, values = groups < part, rng.random((30, 3)).round(1)
    five, owners = np.repeat(np.arange(30), 5), np.repeat(groups, 5)
    assert share_true(flags[five], owners) == pytest.approx(share_true(flags, groups), abs=0.006)
    once, again = resampled_means(values, groups), resampled_means(values[five], owners)
    np.testing.assert_allclose(again, once, atol=1e-12)
    each = [resampled_mean(column, groups) for column in values.T]
    np.testing.assert_allclose(once, each, atol=1e-12)
    assert resampled_means(values[five], owners % 9) == [
        (v, None, None) for v in values[five].mean(axis=0)
    ]
    values[0, 1] = np.nan  # nothing is said of that column, the others stay
    assert resampled_means(values, groups) == [once[0], NOTHING_TO_COUNT, once[2]]
    assert resampled_means(np.empty((0, 2))) == [NOTHING_TO_COUNT] * 2


def test_a_share_of_groups_of_one_is_wilsons():
    flags = np.arange(60) < 21
    wanted = pytest.approx(share_of(21, 60), abs=1e-8)  # Z has six digits
    assert share_true(flags, np.arange(60)) == wanted
    assert share_true(flags) == share_of(21, 60)
    assert share_true(flags[:21], np.arange(21)) == share_of(21, 21)


def test_the_auc_of_resamples_is_scikit_learns():
    """With ties, of the sample and of each resample, drawn by groups."""
    generator = np.random.default_rng(0)
    own = generator.random(80) < 0.4
    values = np.round(generator.normal(0.5 * own, 1), 1)
    drawn = draw_within(own, generator, 30, groups=np.arange(80) // 2)
    found = resampled_auc(values, own, drawn)
    assert found.shape == (31,)
    assert found[0] == pytest.approx(roc_auc_score(own, values))
    for auc, counts in zip(found[1:], drawn, strict=True):
        assert auc == pytest.approx(roc_auc_score(own, values, sample_weight=counts))
    assert resampled_auc(np.ones(80), own, drawn).tolist() == [0.5] * 31


def test_a_figure_shows_itself_in_a_notebook() -> None:
    assert Estimate(0.5, 0.25, 0.75)._repr_html_() == "50.0 % [25.0, 75.0]"
    assert Estimate(None)._repr_html_() == "none to count"
