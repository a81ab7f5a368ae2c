"""Figures are printed one way: per cent with one decimal, a true minus sign, a dash for none."""

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope import words
from mnemoscope.stats import Estimate

FRACTION = st.floats(-1, 1)


def read(text: str) -> float:
    return float(text.replace("\N{MINUS SIGN}", "-").replace("\N{NARROW NO-BREAK SPACE}%", ""))


def test_examples_of_the_docstrings() -> None:
    assert doctest.testmod(words, optionflags=doctest.ELLIPSIS).failed == 0


@given(FRACTION)
def test_per_cent_and_points_read_back_to_a_twentieth(value: float) -> None:
    shown, signed = words.percent(value), words.points(value)
    # one decimal: at most half a tenth away, and 1e-9 for the decimal text itself
    assert read(shown) == pytest.approx(100 * value, abs=0.05 + 1e-9)
    assert read(signed) == pytest.approx(100 * value, abs=0.05 + 1e-9)
    assert "-" not in shown + signed
    assert signed[0] in "+\N{MINUS SIGN}" or signed == "0.0"


def test_what_is_unknown_is_a_dash_and_not_a_zero() -> None:
    shown = [words.percent(None), words.points(None), words.count(None), words.duration(None)]
    assert [*shown, words.share(0, 0), words.figure(Estimate(None))] == ["–"] * 6
    assert words.interval(Estimate(0.5)) == ""
    assert words.interval(Estimate(0.0, -0.01, 0.2)) == "[−1.0,\xa020.0]"
