"""Shares, their intervals and the gate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mnemoscope.audit.found import overall, parse_gate, share, summarize
from mnemoscope.errors import UserError


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_interval_of_whole_blocks_is_the_exact_binomial_one(counts):
    n, k = counts
    exact = binomtest(k, n).proportion_ci(0.95, method="exact")
    made = share(k * 10, n * 10, n)
    # 1e-6: two inversions of the same beta distribution, one by root finding
    assert made["low"] == pytest.approx(exact.low, abs=1e-6)
    assert made["high"] == pytest.approx(exact.high, abs=1e-6)


def test_a_character_that_two_spans_share_counts_once():
    spans = [(0, 11, "guess"), (10, 20, "recall")]
    row = summarize("a", n_characters=40, n_tokens=64, n_windows=1, suffix=32, spans=spans)
    assert row["guessed"]["characters"] == 11
    assert row["recalled"]["characters"] == 9
    assert row["reproduced"]["share"] == 0.5
    whole = overall([row, row])
    assert whole["characters"] == 80
    assert whole["reproduced"]["share"] == 0.5
    assert whole["recall_spans"] == 2


def test_nothing_asked_gives_the_widest_interval():
    row = summarize("a", n_characters=5, n_tokens=2, n_windows=0, suffix=32, spans=[])
    assert (row["recalled"]["low"], row["recalled"]["high"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("recalled > 0.5%", 0.005), ("guessed>=2 %", 0.02), ("reproduced > 0.25", 0.25)],
)
def test_gate_reads_percent_and_fraction(text, limit):
    assert parse_gate(text).share == pytest.approx(limit)


def test_gate_compares_as_it_is_written():
    summary = {"recalled": {"share": 0.005}}
    assert not parse_gate("recalled > 0.5%").is_failed(summary)
    assert parse_gate("recalled >= 0.5%").is_failed(summary)


@pytest.mark.parametrize(
    "text", ["", "recalled", "recalled < 1%", "recaled > 1%", "recalled > x", "recalled > 5", "1>2"]
)
def test_gate_refuses_what_it_does_not_know(text):
    with pytest.raises(UserError, match="--fail-if"):
        parse_gate(text)


def test_gate_suggests_percent_only_where_it_was_left_out():
    with pytest.raises(UserError, match=r"Did you mean 5%"):
        parse_gate("recalled > 5")
    with pytest.raises(UserError, match=r"more than the whole text\.$"):
        parse_gate("recalled > 150%")


def test_a_gate_that_lets_everything_through_is_refused():
    with pytest.raises(UserError, match=r"Did you mean 1%"):
        parse_gate("recalled > 1")
    with pytest.raises(UserError, match="more than the whole"):
        parse_gate("recalled > 100%")
    assert parse_gate("recalled >= 100%").is_failed({"recalled": {"share": 1.0}})


def test_gate_names_the_nearest_word():
    with pytest.raises(UserError, match="Did you mean 'recalled'"):
        parse_gate("recaled > 1%")
