"""The rule, and spans: merged hits, cut where verdicts change, grown; worked out by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.audit.documents import tokenize
from mnemoscope.audit.rule import Ruling, find_step, rule_windows
from mnemoscope.audit.spans import Growth, Hit, find_spans, places_to_grow
from mnemoscope.data.features import add_features
from mnemoscope.lm.continue_ import is_copied
from mnemoscope.taxonomy.labels import label_sequences
from mnemoscope.taxonomy.names import parse_taxonomy

SUFFIX = 32


def hit(first, verdict="recall", score=1.0, length=SUFFIX):
    begin = first + SUFFIX
    ruling = Ruling(verdict, "because", 0.0, 0.0, False, False)
    return Hit(first, int(score * SUFFIX), score, [], (begin, begin + length), ruling)


def places(spans):
    return [(span.first, span.last, span.verdict) for span in spans]


def test_touching_hits_are_one_span_cut_where_the_verdict_changes_and_a_tie_is_guess():
    hits = [hit(0), hit(8), hit(40), hit(100)]
    assert places(find_spans(hits, {}, 300)) == [(32, 104, "recall"), (132, 164, "recall")]
    hits = [hit(0, "recall"), hit(16, "guess")]
    # 32-48 recall alone, 48-64 one against one, 64-80 guess alone
    assert places(find_spans(hits, {}, 200)) == [(32, 48, "recall"), (48, 80, "guess")]


def test_a_span_grows_to_where_the_model_goes_on_but_not_by_what_it_copies():
    assert places(find_spans([hit(0)], {0: Growth(50, False)}, 200)) == [(32, 82, "recall")]
    copied = find_spans([hit(0)], {0: Growth(50, True)}, 200)[0]
    assert (copied.last, copied.verbatim_length, copied.is_copied) == (64, 0, True)


def test_what_growth_alone_reached_has_a_window_of_its_own_verdict():
    hits = [hit(0), hit(1), *(hit(one, "guess", length=20) for one in (32, 33, 34, 80))]
    grown = {0: Growth(100, False), 1: Growth(99, False)}
    spans = find_spans(hits, grown, 300)
    assert places(spans)[-1] == (85, 132, "recall")  # two recalled against one guessed
    assert all(span.hit.ruling.verdict == span.verdict for span in spans)


def test_only_the_ends_of_a_stretch_are_grown_and_only_windows_without_mistake():
    hits = [hit(0, score=0.9), hit(8), hit(16, "guess"), hit(24), hit(32, score=0.9), hit(200)]
    assert places_to_grow(hits, 400) == [8, 24, 200]


@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from(["guess", "recall"]), st.integers(1, 32)),
        max_size=12,
        unique_by=lambda one: one[0],
    )
)
def test_spans_cover_the_hits_exactly_and_never_overlap(rows):
    hits = [hit(first, verdict, length=length) for first, verdict, length in sorted(rows)]
    spans = find_spans(hits, {}, 264)
    covered = [one for span in spans for one in range(span.first, span.last)]
    assert covered == sorted({one for h in hits for one in range(*h.covered)})
    for left, right in pairwise(spans):
        assert left.last < right.first or left.verdict != right.verdict
    assert all(span.n_hits >= 1 for span in spans)


def test_rule_is_the_paper_s_taxonomy(lm, sequences):
    some = sequences.sample(120, seed=3)
    windows = np.array(some["tokens"].to_list(), dtype=np.int32)
    mine = [
        one.verdict for one in rule_windows(lm.tokenizer, windows, prefix=32, patterns="published")
    ]
    frame = add_features(some.with_columns(memorization_score=1.0), code="off")
    theirs = label_sequences(frame, parse_taxonomy("Non-Memo, Guess, Recall"))
    assert mine == [one.split("[")[0].lower() for one in theirs]
    assert set(mine) == {"guess", "recall"}


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("".join(f"{n}, " for n in range(1, 40)), 1),
        ("".join(f"row {n}: x\n" for n in range(10, 200, 5)), 5),
        ("no number here at all", None),
        ("1 5 2 9 4 4 1 7 0 3 2 2 8", None),
    ],
)
def test_step_of_a_counting_text(text, step):
    assert find_step(text) == step


MARROW = "the seven birds of Marrow lane did not sing before supper"
BEGUN = " seven birds of Marrow lane did not"  # its first 32 characters are the prompt's
RIVER = "Родился в 2020 году в городе на реке, где зимой темно"


@pytest.mark.parametrize(
    ("prompt", "written", "copied"),
    [
        (MARROW, " birds of Marrow lane did not", True),
        (MARROW, " copper boats cross the harbour twice", False),
        (MARROW, " b", False),  # too short to tell
        (MARROW, BEGUN + " cross the harbour", True),
        (MARROW, BEGUN[:26] + " will cross the harbour", False),
        (RIVER, "в городе на реке", True),  # every script is read, not only its numbers
        (RIVER, "совсем другие слова 2020 и ещё", False),
    ],
)
def test_what_the_prompt_holds_is_called_copied(lm, prompt, written, copied):
    ids = [tokenize(text, lm.tokenizer).ids for text in (prompt, written)]
    assert is_copied(lm.tokenizer, *ids) == copied
