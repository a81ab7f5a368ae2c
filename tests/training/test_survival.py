"""Becoming memorized and being forgotten, against tables worked out by hand."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from figure_columns import apart
from mnemoscope.training.history import follow, survival, turnover

STEPS = (0, 10, 20, 30)
SEEN = {
    "never": (0, 0, 0, 0),
    "kept": (0, 1, 1, 1),
    "forgotten": (0, 1, 0, 0),
    "flickers": (1, 0, 1, 0),
    "late": (0, 0, 0, 1),
}


def checks_of(seen: dict[str, tuple[int, ...]]) -> pl.DataFrame:
    rows = [
        (step, window, bool(values[place]))
        for place, step in enumerate(STEPS)
        for window, values in seen.items()
    ]
    return pl.DataFrame(rows, schema=["step", "window", "is_memorized"], orient="row")


def test_each_window_is_followed_and_counted_once():
    found = {row[0]: row[1:] for row in follow(checks_of(SEEN)).iter_rows()}
    assert found == {
        "never": (None, None, 0, 0, False),
        "kept": (10, None, 3, 1, True),
        "forgotten": (10, 20, 1, 2, False),
        "flickers": (0, 10, 2, 3, False),
        "late": (30, None, 1, 1, True),
    }
    found = turnover(checks_of(SEEN)).rows()
    assert found == [(0, 10, 0, 2, 1, 2), (10, 20, 1, 1, 1, 2), (20, 30, 1, 1, 1, 2)]


def test_survival_is_the_product_worked_out_by_hand():
    # Ages: 5 forgotten, 8 censored, 10 forgotten (two), 20 censored, of five windows.
    followed = pl.DataFrame(
        {
            "window": list("abcde"),
            "first_memorized": [0, 12, 0, 5, 0],
            "forgotten": [5, None, 10, 15, None],
        }
    )
    found = apart(survival(followed, 20))
    assert found["age"].to_list() == [0, 5, 8, 10, 20]
    assert found["at_risk"].to_list() == [5, 5, 4, 3, 1]
    by_hand = [1, 4 / 5, 4 / 5, 4 / 5 * 1 / 3, 4 / 5 * 1 / 3]
    assert np.allclose(found["survives"], by_hand)
    inside = found.drop_nulls()
    assert (inside["survives_low"] <= inside["survives"]).all()
    assert (inside["survives"] <= inside["survives_high"]).all()


def test_what_is_first_memorized_at_the_last_check_says_nothing_of_lasting():
    late = follow(checks_of({"late": SEEN["late"], "never": SEEN["never"]}))
    assert survival(late, 30).is_empty()
    both = apart(survival(follow(checks_of({"late": SEEN["late"], "kept": SEEN["kept"]})), 30))
    assert both.select("age", "survives", "at_risk").rows() == [(0, 1.0, 1), (20, 1.0, 1)]


@given(st.lists(st.tuples(*[st.booleans()] * len(STEPS)), min_size=1, max_size=30))
def test_without_censoring_survival_is_the_plain_share(rows):
    seen = {str(place): (*row[:-1], False) for place, row in enumerate(rows)}
    followed = follow(checks_of(seen))
    known = followed.drop_nulls("first_memorized").filter(pl.col("first_memorized") < 30)
    found = apart(survival(followed, 30))
    assert found.is_empty() == known.is_empty()
    ages = (known["forgotten"] - known["first_memorized"]).to_numpy()
    for age, survives in found.select("age", "survives").iter_rows():
        assert survives == pytest.approx((ages > age).mean())


def test_windows_that_repeat_one_another_count_as_one() -> None:
    """Thirty windows, and each of them five times: the same curve and the same interval."""
    generator = np.random.default_rng(3)
    once = pl.DataFrame(
        {
            "window": [str(place) for place in range(30)],
            "first_memorized": [0] * 30,
            "forgotten": [(10, 20, 30, None)[one] for one in generator.integers(4, size=30)],
            "near_duplicates": range(30),
        }
    )
    alone = once.drop("near_duplicates")
    single, repeated, plain, narrow = (
        apart(survival(rows, 40))
        for rows in (once, pl.concat([once] * 5), alone, pl.concat([alone] * 5))
    )
    columns = ("age", "survives", "survives_low", "survives_high")
    np.testing.assert_allclose(single.select(columns), repeated.select(columns))
    inside = single["survives"].is_between(0, 1, closed="none")
    wide, alone, close = (
        (one["survives_high"] - one["survives_low"]).filter(inside).to_numpy()
        for one in (single, plain, narrow)
    )
    np.testing.assert_allclose(wide, alone, rtol=0.15)  # Greenwood's, of independent windows
    assert (wide > 1.8 * close).all()
    few = apart(survival(once.with_columns(near_duplicates=pl.int_range(30) % 9), 40))
    later = few.filter(pl.col("age") > 0)
    assert later["survives_low"].null_count() == later["survives_high"].null_count() == len(later)
