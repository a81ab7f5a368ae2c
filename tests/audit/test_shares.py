"""Shares, their intervals and the gate."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mnemoscope.audit.rule import overall, parse_gate, summarize
from mnemoscope.errors import UserError


def documents(parts, whole=100):
    """One document of `whole` characters for each count of recalled ones."""
    return [
        summarize(str(n), n_characters=whole, n_tokens=64, n_windows=1, spans=[(0, part, "recall")])
        for n, part in enumerate(parts)
    ]


def test_documents_are_drawn_and_not_passages():
    """Of documents of equal length the interval is that of their mean share (central limit)."""
    shares = np.random.default_rng(1).beta(2, 5, 60)
    made = overall(documents([int(1000 * one) for one in shares], 1000))["recalled"]
    reach = 1.96 * shares.std(ddof=1) / math.sqrt(len(shares))
    assert made["low"] == pytest.approx(shares.mean() - reach, abs=0.01)
    assert made["high"] == pytest.approx(shares.mean() + reach, abs=0.01)


def test_long_documents_make_an_interval_no_narrower():
    parts = [0, 30] * 6
    short, long = overall(documents(parts)), overall(documents([9 * one for one in parts], 900))
    assert short["recalled"]["low"] == pytest.approx(long["recalled"]["low"])
    assert short["recalled"]["high"] == pytest.approx(long["recalled"]["high"])


@given(st.integers(10, 200))
def test_nothing_in_so_many_documents_excludes_what_the_binomial_does(n):
    made = overall(documents([0] * n))["recalled"]
    exact = binomtest(0, n).proportion_ci(0.95, method="exact")
    # 1e-6: two inversions of the same beta distribution, one by root finding
    assert (made["low"], made["high"]) == (0.0, pytest.approx(exact.high, abs=1e-6))


@pytest.mark.parametrize("n_short", [0, 1])
def test_below_ten_documents_that_were_asked_there_is_no_interval(n_short):
    short = [{**one, "windows": 0} for one in documents([0] * n_short)]  # nothing was asked
    made = overall([*documents([5] * 9), *short])
    assert made["asked"] == 9
    assert (made["recalled"]["low"], made["recalled"]["high"]) == (None, None)
    assert overall(documents([5] * 10))["recalled"]["low"] is not None


def test_a_character_that_two_spans_share_counts_once():
    spans = [(0, 11, "guess"), (10, 20, "recall")]
    row = summarize("a", n_characters=40, n_tokens=64, n_windows=1, spans=spans)
    assert (row["guessed"]["characters"], row["recalled"]["characters"]) == (11, 9)
    whole = overall([row, row])
    assert (whole["characters"], whole["recall_spans"]) == (80, 2)
    assert row["reproduced"]["share"] == whole["reproduced"]["share"] == 0.5


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
