"""The choice of a calibration: what is off is repaired, what is right is left alone."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss
from sklearn.model_selection import StratifiedGroupKFold

from mnemoscope.cnn.calibration import (
    apply_calibration,
    brier,
    choose_calibration,
    cross_fitted,
    ece,
    fit_calibration,
)


def cases(n, seed=0, *, sharpness=1.0, shift=0.0):
    """Honest logits N(0, 4) made `sharpness` times too large and shifted; what is so; groups."""
    generator = np.random.default_rng(seed)
    honest = generator.normal(0, 2, n)
    is_so = generator.random(n) < 1 / (1 + np.exp(-honest))
    return sharpness * honest + shift, is_so, np.arange(n)


def raw(logits):
    return 1 / (1 + np.exp(-logits))


def test_scores_that_are_right_are_left_alone():
    chosen = [choose_calibration(*cases(400, seed)).calibration.method for seed in range(10)]
    # 16 % would pass one standard error where nothing is to gain, and a fitted calibration even
    # costs a little: at 16 %, 5 or more of 10 would come once in a hundred
    assert chosen.count("none") >= 6


def test_a_better_score_that_noise_explains_is_not_taken():
    logits, is_so, groups = cases(80, seed=0)
    choice = choose_calibration(logits, is_so, groups)
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
    said = cross_fitted(logits, is_so, groups)
    assert brier(said, is_so) < brier(raw(logits), is_so)


def test_what_no_temperature_repairs_gets_steps_where_there_are_enough_groups():
    logits, is_so, groups = cases(1200, shift=3.0)
    assert choose_calibration(logits, is_so, groups).calibration.method == "isotonic"
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
    by_halves, by_choice = [], []
    for seed in range(8):
        logits, is_so, groups = few_forms(seed)
        splitter = StratifiedGroupKFold(2, shuffle=True, random_state=0)
        for fit, other in splitter.split(logits, is_so, groups):
            fitted = fit_calibration(logits[fit], is_so[fit], "temperature")
            said = apply_calibration(fitted, logits[other])
            by_halves.append(brier(said, is_so[other]) - brier(raw(logits[other]), is_so[other]))
        said = cross_fitted(logits, is_so, groups)
        by_choice.append(brier(said, is_so) - brier(raw(logits), is_so))
    # What one half of the forms teaches is worse than nothing for the other half now and then;
    # what five folds choose is hardly ever, and never by much.
    assert max(by_halves) > 0.01
    assert max(by_choice) < 0.005
    assert np.mean(by_choice) < np.mean(by_halves)


def test_its_scores_are_those_of_folds_that_keep_groups_whole(monkeypatch):
    monkeypatch.setattr("mnemoscope.cnn.calibration._N_REPEATS", 1)
    logits, is_so, groups = few_forms(3)
    said = np.empty(len(logits))
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=7)
    for others, own in splitter.split(logits, is_so, groups):
        assert not set(groups[others]) & set(groups[own])
        fitted = fit_calibration(logits[others], is_so[others], "temperature")
        said[own] = apply_calibration(fitted, logits[own])
    found = choose_calibration(logits, is_so, groups, seed=7).brier
    assert found["temperature"] == pytest.approx(brier_score_loss(is_so, said))
    assert found["none"] == pytest.approx(brier_score_loss(is_so, raw(logits)))


def test_a_case_has_no_part_in_its_own_probability():
    logits, is_so, groups = cases(120, sharpness=3.0)
    whole = cross_fitted(logits, is_so, groups)
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    _, own = next(splitter.split(logits, is_so, groups))  # the folds look at no logit
    turned = logits.copy()
    turned[own] = -turned[own]
    again = cross_fitted(turned, is_so, groups)
    assert again[own] == pytest.approx(1 - whole[own])  # the same temperature, the other way
    assert fit_calibration(turned, is_so, "temperature").temperature != pytest.approx(
        fit_calibration(logits, is_so, "temperature").temperature, rel=0.1
    )


def test_where_one_class_is_one_group_nothing_is_chosen():
    logits, is_so, _ = cases(60, sharpness=3.0)
    groups = np.where(is_so, 0, 1 + np.arange(60))
    choice = choose_calibration(logits, is_so, groups)
    assert choice.calibration.method == "none"
    assert choice.brier == {}
    with pytest.raises(ValueError, match="two groups"):
        cross_fitted(logits, is_so, groups)
