"""Repeating chunks of tokens: the figures of the related work, and chunks that are planted."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.sequences.repeats import Repeat, find_repeat

NOTHING = Repeat(0, -1, ())
DRAWN = random.Random(0).sample(range(1000, 50_000), 64)


def test_figures_of_the_related_work():
    assert find_repeat([7] * 64) == (0, 64, (7,))
    assert find_repeat(DRAWN) == NOTHING
    fours = [1, 2, 3, 4] * 16
    assert find_repeat(fours) == (0, 16, (1, 2, 3, 4))
    assert find_repeat([*fours[:62], 8, 9]) == (0, 14, (1, 2, 3, 4))  # two may deviate at the end
    assert find_repeat([*fours[:61], 7, 8, 9]) == NOTHING  # three may not


def test_only_what_reaches_from_the_first_half_to_the_end_is_found():
    fours = [1, 2, 3, 4] * 8
    assert find_repeat(DRAWN[:32] + fours) == NOTHING  # the last offset looked at is 31
    assert find_repeat(fours + DRAWN[:32]) == NOTHING
    assert find_repeat(DRAWN[:31] + fours + [1]) == (31, 8, (1, 2, 3, 4))


def test_the_offset_need_not_be_the_smallest():
    """A period of 20 fits into two copies and a rest only once three tokens are left out."""
    found = find_repeat((list(range(20)) * 4)[:64])
    assert (found.offset, found.n) == (3, 2)
    assert found.chunk == (*range(3, 20), 0, 1, 2)


@pytest.mark.parametrize("tokens", [[], [1], [1, 2], [1, 2, 3]])
def test_sequences_too_short_to_repeat(tokens):
    assert find_repeat(tokens) == NOTHING


@given(st.lists(st.integers(0, 2), max_size=24))
def test_what_is_found_stands_there(tokens):
    offset, n, chunk = find_repeat(tokens)
    if n == -1:
        assert (offset, chunk) == (0, ())
        return
    assert tokens[offset : offset + n * len(chunk)] == list(chunk) * n
    rest = tokens[offset + n * len(chunk) :]
    endless = list(chunk) * (len(rest) // len(chunk) + 1)
    agreed = next(
        (i for i, (a, b) in enumerate(zip(rest, endless, strict=False)) if a != b), len(rest)
    )
    assert len(rest) - agreed <= 2
    for size in range(1, len(chunk)):  # no smaller unit
        assert len(chunk) % size or list(chunk[:size]) * (len(chunk) // size) != list(chunk)
