"""Simulated studies of known truth: how often intervals and verdicts are right."""

from functools import cache

import numpy as np
import pytest

from experiments.verdicts.run import few_groups, kinds, nested_gain, simulate

N_STUDIES = 30
"""Few, for time; the table in docs/appendix/verdicts.md is of 150 and more."""


@cache
def studied(kind: str) -> np.ndarray:
    """Gain, its ends and the lower end of the nested gain, (studies, 4)."""
    rng = np.random.default_rng(7)
    rows = []
    for _ in range(N_STUDIES):
        one = simulate(kinds()[kind], rng)
        rows.append((*one.gain()[:3], nested_gain(one)[1]))
    return np.array(rows)


EQUAL, LEADS = (
    "regression, sides, 120 a class: equal",
    "regression, folds, 200 a class: model leads",
)


@pytest.mark.parametrize("kind", [EQUAL, LEADS])
def test_intervals_hold_the_expected_gain(kind: str) -> None:
    value, low, high, _ = studied(kind).T
    held = np.mean((low <= value.mean()) & (value.mean() <= high))
    # Of 30 that hold with a chance of .95, 25 or fewer come about in 2 % of cases.
    assert held > 25 / 30


def test_equals_gain_nothing_and_a_lead_is_seen() -> None:
    value, low, _, _ = studied(EQUAL).T
    assert abs(value.mean()) < 3 * value.std() / np.sqrt(N_STUDIES)
    assert np.mean(low > 0) <= 0.1
    value, low, _, _ = studied(LEADS).T
    assert value.mean() > 0.03
    assert np.mean(low > 0) > 0.2


def test_ten_groups_hold_a_mean_more_often_than_five() -> None:
    assert few_groups(10, 300) > few_groups(5, 300)
