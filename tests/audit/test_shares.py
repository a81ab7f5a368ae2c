"""Shares, their intervals and the gate."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mnemoscope.audit.shares import overall, parse_gate, summarize
from mnemoscope.errors import UserError


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))))
def test_interval_of_whole_blocks_is_the_exact_binomial_one(counts):
    n, k = counts
    exact = binomtest(k, n).proportion_ci(0.95, method="exact")
    spans = [(0, 10 * k, "recall")]
    row = summarize("a", n_characters=10 * n, n_tokens=n, n_windows=1, suffix=1, spans=spans)
    made = row["recalled"]
    # 1e-6: two inversions of the same beta distribution, one by root finding
    assert made["low"] == pytest.approx(exact.low, abs=1e-6)
    assert made["high"] == pytest.approx(exact.high, abs=1e-6)


def test_a_character_that_two_spans_share_counts_once():
    spans = [(0, 11, "guess"), (10, 20, "recall")]
    row = summarize("a", n_characters=40, n_tokens=64, n_windows=1, suffix=32, spans=spans)
    assert (row["guessed"]["characters"], row["recalled"]["characters"]) == (11, 9)
    whole = overall([row, row])
    assert (whole["characters"], whole["recall_spans"]) == (80, 2)
    assert row["reproduced"]["share"] == whole["reproduced"]["share"] == 0.5


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
    assert parse_gate("recalled >= 100%").is_failed({"recalled": {"share": 1.0}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not understood"),
        ("recalled", "not understood"),
        ("recalled < 1%", "not understood"),
        ("recalled > x", "not understood"),
        ("1>2", "not understood"),
        ("recaled > 1%", "Did you mean 'recalled'"),
        ("recalled > 5", "Did you mean 5%"),
        ("recalled > 150%", r"more than the whole text\.$"),
        ("recalled > 1", "Did you mean 1%"),  # it would let everything through
        ("recalled > 100%", "more than the whole"),
    ],
)
def test_gate_refuses_what_it_does_not_know_with_a_hint(text, words):
    with pytest.raises(UserError, match="--fail-if") as caught:
        parse_gate(text)
    assert re.search(words, str(caught.value))
