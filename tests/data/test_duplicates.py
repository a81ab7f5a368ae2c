"""Duplicate counts equal a count by hand, whatever the hash and the chunks do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.data import corpus as corpus_chunks
from mnemoscope.data import duplicates as suffix_index
from mnemoscope.data.duplicates import count_duplicates


def by_hand(suffixes, corpus):
    k = len(suffixes[0])
    return [
        sum(
            list(tokens[first : first + k]) == list(suffix)
            for tokens in corpus
            for first in range(len(tokens) - k + 1)
        )
        for suffix in suffixes
    ]


@st.composite
def suffixes_and_corpus(draw):
    tokens = st.integers(0, draw(st.sampled_from([1, 2, 50_000])))
    k = draw(st.integers(1, 7))
    corpus = draw(st.lists(st.lists(tokens, max_size=30), max_size=6))
    suffixes = draw(st.lists(st.lists(tokens, min_size=k, max_size=k), min_size=1, max_size=5))
    cuts = [row[i : i + k] for row in corpus for i in range(len(row) - k + 1)]
    if cuts:
        suffixes += draw(st.lists(st.sampled_from(cuts), max_size=5))
    return suffixes, corpus


@given(suffixes_and_corpus())
def test_counts_equal_a_count_by_hand(case):
    suffixes, corpus = case
    assert count_duplicates(suffixes, corpus).tolist() == by_hand(suffixes, corpus)


@given(suffixes_and_corpus())
def test_a_hash_that_tells_nothing_apart_changes_no_count(case):
    suffixes, corpus = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suffix_index, "_mix", lambda tokens: np.zeros(len(tokens), np.uint32))
        assert count_duplicates(suffixes, corpus).tolist() == by_hand(suffixes, corpus)


@given(suffixes_and_corpus(), st.integers(1, 12))
def test_chunks_change_no_count(case, n_tokens):
    suffixes, corpus = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus_chunks, "_CHUNK_TOKENS", n_tokens)
        patch.setattr(suffix_index, "_BLOCK_TOKENS", n_tokens)
        assert count_duplicates(suffixes, corpus).tolist() == by_hand(suffixes, corpus)


def test_overlapping_occurrences_count_each():
    assert count_duplicates(np.zeros((1, 32), int), [np.zeros(100, int)]).tolist() == [69]


def test_an_occurrence_never_spans_two_arrays():
    suffix = np.arange(32)
    assert count_duplicates([suffix], [suffix[:16], suffix[16:], suffix]).tolist() == [1]


def test_a_memory_mapped_corpus_longer_than_a_chunk(tmp_path):
    rng = np.random.default_rng(0)
    corpus = rng.integers(0, 60_000, (1 << 20) + 500, dtype=np.uint16)
    at_the_seam = (1 << 20) - 16
    suffix = corpus[at_the_seam : at_the_seam + 32].astype(np.int32)
    corpus[:32] = corpus[-32:] = suffix
    corpus.tofile(tmp_path / "corpus.bin")
    mapped = np.memmap(tmp_path / "corpus.bin", dtype=np.uint16, mode="r")
    assert count_duplicates([suffix, suffix + 1], [mapped]).tolist() == [3, 0]


def test_arrays_of_mixed_types_agree():
    arrays = [np.arange(40, dtype=dtype) for dtype in (np.uint8, np.int32, np.uint64)]
    assert count_duplicates([np.arange(3, 35)], arrays).tolist() == [3]


def test_no_suffixes_give_no_counts():
    assert count_duplicates(np.empty((0, 32), int), [[1, 2]]).shape == (0,)


@pytest.mark.parametrize(
    ("suffixes", "corpus"),
    [([1, 2], [[1, 2]]), ([[1.5]], [[1]]), ([[1]], [[[1]]]), ([[1]], [1]), ([[1]], [[0.5]])],
)
def test_arrays_of_another_form_are_refused(suffixes, corpus):
    with pytest.raises(ValueError, match="integer token ids"):
        count_duplicates(suffixes, corpus)
