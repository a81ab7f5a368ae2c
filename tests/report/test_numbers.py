"""Figures are printed one way: per cent with one decimal, a true minus sign, a dash for none."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope import words as numbers
from mnemoscope.stats import Estimate

FRACTION = st.floats(-1, 1)


def read(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").replace("\N{NARROW NO-BREAK SPACE}%", ""))


def test_examples_of_the_docstrings() -> None:
    assert doctest.testmod(numbers, optionflags=doctest.ELLIPSIS).failed == 0


@given(FRACTION)
def test_percent_reads_back_to_a_twentieth(value: float) -> None:
    text = numbers.percent(value)
    # one decimal: at most half a tenth away, and 1e-9 for the decimal text itself
    assert read(text) == pytest.approx(100 * value, abs=0.05 + 1e-9)
    assert "-" not in text


@given(FRACTION)
def test_points_carry_their_sign_unless_zero(value: float) -> None:
    text = numbers.points(value)
    assert text[0] in "+\N{MINUS SIGN}" or text == "0.0"
    assert read(text) == pytest.approx(100 * value, abs=0.05 + 1e-9)


def test_what_is_unknown_is_a_dash_and_not_a_zero() -> None:
    shown = [numbers.percent(None), numbers.points(None), numbers.count(None)]
    assert [*shown, numbers.seconds_text(None), numbers.share(0, 0)] == ["–"] * 5
    assert numbers.interval(Estimate(0.5)) == ""


def test_an_interval_carries_a_minus_but_no_plus() -> None:
    assert numbers.interval(Estimate(0.0, -0.01, 0.2)) == "[−1.0,\xa020.0]"
