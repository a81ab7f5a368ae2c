"""Lists that go on: beside the calendar, and nothing is written where no step is seen."""

import calendar
from string import ascii_lowercase

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.items.run import SECRET, drawn_items
from mnemoscope.contamination.ask import ANSWERS, Answers
from mnemoscope.contamination.judge import judged
from mnemoscope.contamination.rule import continued_by_rule
from mnemoscope.contamination.table import Item, words_of

SIGNS = st.sampled_from([", ", " ", "; ", "\n", " - ", " then ", ".\nChapter "])
SMALL = st.integers(-50, 50)


@given(start=st.integers(500, 10**6), step=SMALL, shown=st.integers(3, 8), sign=SIGNS)
def test_whole_numbers_go_on_at_their_step(start, step, shown, sign) -> None:
    # None of them falls below 0, which would put a sign more between two of them.
    terms = [str(start + at * step) for at in range(shown + 2)]
    after = words_of(sign.join(["", *terms[shown:]]))
    assert continued_by_rule(words_of(f"Of it: {sign.join(terms[:shown])}"), len(after)) == after
    ended = words_of(f"Of it: {sign.join(terms[:shown])}{sign}")
    rest = words_of(sign.join(terms[shown:]))
    assert continued_by_rule(ended, len(rest)) == rest


@pytest.mark.parametrize("cycle", [calendar.day_name, calendar.month_name[1:], ascii_lowercase])
@given(start=st.integers(0, 25), step=st.integers(-3, 3), shown=st.integers(3, 9))
def test_days_months_and_letters_go_on_and_begin_again(cycle, start, step, shown) -> None:
    terms = [cycle[(start + at * step) % len(cycle)] for at in range(shown + 3)]
    after = words_of(", ".join(terms[shown:]))
    assert continued_by_rule(words_of(", ".join([*terms[:shown], ""])), len(after)) == after


@given(terms=st.lists(st.integers(0, 99), min_size=3, max_size=3), sign=SIGNS)
def test_nothing_is_written_on_where_the_steps_differ(terms, sign) -> None:
    is_even = terms[1] - terms[0] == terms[2] - terms[1]
    assert bool(continued_by_rule(words_of(sign.join(map(str, terms))), 3)) == is_even


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "1, 2",
        "1, 2; 3,",
        "1, 2, 3, so",
        "1, b, 3,",
        "1 2, 3",
        "2, 4, 8,",
        "one, two, three,",
        f"1, 2, {'3' * 5000},",
        "May I go a",
    ],
)
def test_what_is_no_list_is_not_continued(prompt) -> None:
    assert continued_by_rule(words_of(prompt), 2) == []


def test_the_rule_gives_the_planted_lists_and_no_secret() -> None:
    for one in (one for seed in range(3) for one in drawn_items(seed)):
        answer = words_of(one.answer)
        if one.kind in ("counting", *SECRET):
            is_given = continued_by_rule(words_of(one.prompt), len(answer)) == answer
            assert is_given == (one.kind == "counting")


def test_a_hit_that_the_rule_gives_is_guessable() -> None:
    pairs = [("3, 5, 7,", "9, 11"), ("3, 5, 8,", "10, 12")]
    items = [Item(str(at), *pair, group=str(at)) for at, pair in enumerate(pairs)]
    model, twin = (
        pl.DataFrame(
            {"written": ["x"] * 2, "edits": [edits] * 2, "logprob": [chance] * 2}
            | {"prior": [-20.0] * 2, "order_rank": [None] * 2},
            schema=ANSWERS,
        )
        for edits, chance in ((0, -0.1), (3, -30.0))
    )
    found = judged(items, Answers(model, twin))
    assert found["verdict"].to_list() == ["guessable", "recalled"]
    assert "a rule that the prompt shows" in found["reason"][0]
    assert found["rule_produces"].to_list() == [True, False]
