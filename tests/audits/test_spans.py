"""Spans: merged hits, cut where verdicts change, grown; worked out by hand."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.audits.rule import Ruling
from mnemoscope.audits.spans import Extension, Hit, find_spans, places_to_grow

SUFFIX = 32


def hit(first, verdict="recall", score=1.0, length=SUFFIX):
    begin = first + SUFFIX
    ruling = Ruling(verdict, "because", 0.0, 0.0, False, False)
    return Hit(first, int(score * SUFFIX), score, [], None, (begin, begin + length), ruling)


def places(spans):
    return [(span.first, span.last, span.verdict) for span in spans]


def test_touching_hits_are_one_span_cut_where_the_verdict_changes_and_a_tie_is_guess():
    hits = [hit(0), hit(8), hit(40), hit(100)]
    assert places(find_spans(hits, {}, 300)) == [(32, 104, "recall"), (132, 164, "recall")]
    hits = [hit(0, "recall"), hit(16, "guess")]
    # 32-48 recall alone, 48-64 one against one, 64-80 guess alone
    assert places(find_spans(hits, {}, 200)) == [(32, 48, "recall"), (48, 80, "guess")]


def test_a_span_grows_to_where_the_model_goes_on_but_not_by_what_it_copies():
    assert places(find_spans([hit(0)], {0: Extension(50, False)}, 200)) == [(32, 82, "recall")]
    copied = find_spans([hit(0)], {0: Extension(50, True)}, 200)[0]
    assert (copied.last, copied.verbatim_length, copied.is_copied) == (64, 0, True)


def test_what_growth_alone_reached_has_a_window_of_its_own_verdict():
    hits = [hit(0), hit(1), *(hit(one, "guess", length=20) for one in (32, 33, 34, 80))]
    grown = {0: Extension(100, False), 1: Extension(99, False)}
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
