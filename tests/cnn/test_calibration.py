"""Calibration: closed forms, scikit-learn, and a choice that leaves right scores alone."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import StratifiedGroupKFold

from mnemoscope.cnn.calibration import (
    apply_calibration,
    brier,
    choose_calibration,
    cross_fitted,
    ece,
    fit_calibration,
    over_groups,
    reliability,
)


def cases(n, seed=0, *, sharpness=1.0, shift=0.0):
    """Honest logits N(0, 4) made `sharpness` times too large and shifted; what is so; groups."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(0, 2, n)
    is_so = generator.random(n) < 1 / (1 + np.exp(-honest))
    return sharpness * honest + shift, is_so, np.arange(n)


def raw(logits):
    return 1 / (1 + np.exp(-logits))


def test_a_temperature_is_found_in_closed_form() -> None:
    # Logits of +-1, three in four as they say: the likelihood is greatest where the probability
    # is the (smoothed) share. Of 60 cases a class, 61/62 and 1/62 stand for 1 and 0.
    logits = np.repeat([1.0, -1.0], 60)
    is_so = np.tile([True, True, True, False], 15)
    is_so = np.concatenate([is_so, ~is_so])
    share = 0.75 * (61 / 62) + 0.25 * (1 / 62)
    found = fit_calibration(logits, is_so, "temperature")
    assert found.temperature == pytest.approx(1 / math.log(share / (1 - share)), rel=1e-4)
    assert apply_calibration(found, [1.0])[0] == pytest.approx(share, rel=1e-4)


def test_classes_told_apart_stay_finite_and_an_order_upside_down_says_nothing() -> None:
    for method in ("temperature", "isotonic"):
        found = fit_calibration([-3.0, -2.0, 2.0, 3.0], [False, False, True, True], method)
        values = apply_calibration(found, [-100.0, -3.0, 3.0])
        assert 0 <= values[0] <= values[1] < 0.5 < values[2] < 1
    logits, is_so, _ = cases(500)
    found = fit_calibration(-logits, is_so, "temperature")
    assert found.temperature == math.inf
    assert (apply_calibration(found, logits) == 0.5).all()


def test_brier_and_reliability_are_those_of_scikit_learn() -> None:
    logits, is_so, _ = cases(777, sharpness=2.0)
    probabilities = raw(logits)
    assert brier(probabilities, is_so) == pytest.approx(brier_score_loss(is_so, probabilities))
    shares, means = calibration_curve(is_so, probabilities, n_bins=10)
    bins = reliability(probabilities, is_so)
    assert [one.share for one in bins] == pytest.approx(shares.tolist())
    assert [one.mean for one in bins] == pytest.approx(means.tolist())
    assert sum(one.n for one in bins) == 777


def test_the_calibration_error_of_known_cases() -> None:
    # Four cases of 0.75, two of them so: off by a quarter; four of 0.1, none so: off by a tenth.
    probabilities = [0.75] * 4 + [0.1] * 4
    is_so = [True, True, False, False, False, False, False, False]
    assert ece(probabilities, is_so) == pytest.approx((0.25 + 0.1) / 2)
    assert ece([0.0, 1.0], [False, True]) == 0
    assert ece([0.0, 1.0], [True, False]) == 1


@given(
    st.lists(st.tuples(st.floats(-30, 30), st.booleans()), min_size=4, max_size=60).filter(
        lambda rows: len({so for _, so in rows}) == 2
    ),
    st.sampled_from(["temperature", "isotonic"]),
)
@settings(max_examples=60)
def test_probabilities_never_fall_where_logits_rise(
    rows: list[tuple[float, bool]], method: str
) -> None:
    found = fit_calibration([value for value, _ in rows], [so for _, so in rows], method)
    values = apply_calibration(found, np.linspace(-50, 50, 101))
    assert ((values >= 0) & (values <= 1)).all()
    assert (np.diff(values) >= -1e-12).all()


@pytest.mark.parametrize(
    ("logits", "is_so"),
    [([1.0], [True]), ([1.0, math.nan], [True, False]), ([1.0, 2.0], [True]), ([], [])],
)
def test_what_cannot_be_fitted_is_refused(logits: list[float], is_so: list[bool]) -> None:
    with pytest.raises(ValueError, match=r"classes|finite|one axis"):
        fit_calibration(logits, is_so, "temperature")


def test_a_better_score_that_noise_explains_is_not_taken():
    # better by the folds of scikit-learn 1.5 and of 1.9, which differ
    choice = choose_calibration(*cases(80, seed=4))
    assert choice.brier["temperature"] < choice.brier["none"]
    assert choice.calibration.method == "none"


@pytest.mark.parametrize("sharpness", [0.3, 3.0])
def test_logits_that_are_too_sure_or_too_shy_get_a_temperature(sharpness):
    logits, is_so, groups = cases(400, sharpness=sharpness)
    choice = choose_calibration(logits, is_so, groups)
    assert choice.calibration.method == "temperature"
    # 400 cases find the slope to about 7 %; three standard errors
    assert choice.calibration.temperature == pytest.approx(sharpness, rel=0.25)
    others, truth, _ = cases(4000, seed=1, sharpness=sharpness)
    assert ece(apply_calibration(choice.calibration, others), truth) < ece(raw(others), truth) / 2
    few, is_so = logits[:200], is_so[:200]
    assert brier(cross_fitted(few, is_so, groups[:200]), is_so) < brier(raw(few), is_so)


def test_what_no_temperature_repairs_gets_steps_where_there_are_enough_groups():
    logits, is_so, groups = cases(1200, shift=3.0)
    others, truth, _ = cases(4000, seed=1, shift=3.0)
    chosen = choose_calibration(logits, is_so, groups).calibration
    assert chosen.method == "isotonic"
    assert ece(apply_calibration(chosen, others), truth) < 0.04
    few = choose_calibration(logits, is_so, groups // 2)
    assert set(few.brier) == {"none", "temperature"}


def few_forms(seed):
    """Scores that are right on the whole, of which one class is a dozen forms of twelve cases.

    Of two normal distributions of variance 4 about 2 and -2 the log-odds at x are x.
    """
    generator = np.random.default_rng(seed)
    so = generator.normal(2.0, 2.0, 150)
    forms = generator.normal(-2.0, 2.0, 12)
    not_so = np.repeat(forms, 12) + generator.normal(0, 0.1, 144)
    logits = np.concatenate([so, not_so])
    is_so = np.repeat([True, False], [150, 144])
    return logits, is_so, np.concatenate([np.arange(150), 150 + np.repeat(np.arange(12), 12)])


def test_few_forms_of_many_cases_do_not_make_it_worse():
    """As what one half of the forms teaches is for the other half now and then."""
    for seed in (1, 6):
        logits, is_so, groups = few_forms(seed)
        said = cross_fitted(logits, is_so, groups)
        assert brier(said, is_so) - brier(raw(logits), is_so) < 0.005


def test_scores_and_probabilities_are_those_of_folds_that_keep_groups_whole(monkeypatch):
    """A case has no part in its own probability."""
    monkeypatch.setattr("mnemoscope.cnn.calibration._N_REPEATS", 1)
    logits, is_so, groups = few_forms(3)
    said, chosen = np.empty((2, len(logits)))
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for others, own in splitter.split(logits, is_so, groups):
        assert not set(groups[others]) & set(groups[own])
        fitted = fit_calibration(logits[others], is_so[others], "temperature")
        said[own] = apply_calibration(fitted, logits[own])
        choice = choose_calibration(logits[others], is_so[others], groups[others])
        chosen[own] = apply_calibration(choice.calibration, logits[own])
    found = choose_calibration(logits, is_so, groups).brier
    assert found["temperature"] == pytest.approx(brier_score_loss(is_so, said))
    assert found["none"] == pytest.approx(brier_score_loss(is_so, raw(logits)))
    np.testing.assert_allclose(cross_fitted(logits, is_so, groups), chosen)


def test_where_one_class_is_one_group_nothing_is_chosen():
    logits, is_so, _ = cases(60, sharpness=3.0)
    groups = np.where(is_so, 0, 1 + np.arange(60))
    choice = choose_calibration(logits, is_so, groups)
    assert choice.calibration.method == "none"
    assert choice.brier == {}
    with pytest.raises(ValueError, match="two groups"):
        cross_fitted(logits, is_so, groups)


def test_an_interval_draws_groups_and_is_none_of_few():
    logits, is_so, groups = cases(100)
    once = over_groups(brier, raw(logits), is_so, groups)
    five = [np.tile(one, 5) for one in (raw(logits), is_so, groups)]
    assert over_groups(brier, *five) == pytest.approx(once)
    assert once.low < once.value < once.high
    loose = over_groups(brier, *five[:2], np.arange(500))
    assert once.high - once.low > 1.8 * (loose.high - loose.low)
    assert over_groups(brier, *five[:2], five[2] % 9).low is None
