"""ROUGE-L and ROUGE-3 equal the package rouge-score on ids joined by blanks."""

from functools import cache

import numpy as np
import pytest

from mnemoscope.data.rouge import rouge_3, rouge_l, rouge_scores

EXACT = 1e-12  # both divide small integers; only the order of the operations differs


@cache
def scorer():
    from rouge_score.rouge_scorer import RougeScorer  # heavy

    return RougeScorer(["rougeL", "rouge3"], use_stemmer=False)


def by_rouge_score(prefix, suffix):
    texts = (" ".join(map(str, ids)) for ids in (prefix, suffix))
    scores = scorer().score(*texts)
    return scores["rougeL"].fmeasure, scores["rouge3"].fmeasure


def assert_equals_oracle(prefixes, suffixes):
    wanted = np.array([by_rouge_score(*pair) for pair in zip(prefixes, suffixes, strict=True)])
    np.testing.assert_allclose(rouge_l(prefixes, suffixes), wanted[:, 0], rtol=0, atol=EXACT)
    np.testing.assert_allclose(rouge_3(prefixes, suffixes), wanted[:, 1], rtol=0, atol=EXACT)
    np.testing.assert_allclose(
        np.transpose(rouge_scores(prefixes, suffixes)), wanted, rtol=0, atol=EXACT
    )


IDS = [
    range(2),
    range(12),
    range(100),
    range(60_000),
    [0xD7FF, 0xD800, 0xDFFF, 0xE000],  # surrogates, no characters of their own
    [0, 1, 0x10FFFD, 0x10FFFE],  # the ends of Unicode
    [2**31 - 1, 2**31 - 2, 7, 0],  # no characters at all
    [2**21 - 1, 2**21, 2**42 - 1, 2**42],  # would run into each other when packed
]


@pytest.mark.parametrize("ids", IDS)
def test_random_pairs_equal_rouge_score(ids):
    pairs = np.array(ids)[np.random.default_rng(0).integers(0, len(ids), (200, 64))]
    pairs[::2, 40:52] = pairs[::2, 5:17]  # half of them share a stretch
    assert_equals_oracle(pairs[:, :32], pairs[:, 32:])


LENGTHS = [(0, 3), (3, 0), (1, 1), (1, 2), (2, 3), (3, 3), (3, 60), (31, 33), (64, 65), (65, 32)]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_any_lengths_equal_rouge_score_and_no_rows_give_no_scores(lengths):
    rng = np.random.default_rng(0)
    prefixes, suffixes = (rng.integers(0, 3, (60, length)) for length in lengths)
    assert_equals_oracle(prefixes, suffixes)
    none = prefixes[:0], suffixes[:0]
    assert [one.shape for one in (rouge_l(*none), rouge_3(*none), *rouge_scores(*none))] == 4 * [
        (0,)
    ]


def test_blocks_do_not_change_a_score(monkeypatch):
    rng = np.random.default_rng(0)
    prefixes, suffixes = rng.integers(0, 6, (2, 50, 10))
    whole = rouge_scores(prefixes, suffixes)
    monkeypatch.setattr("mnemoscope.data.rouge._BLOCK_IDS", 140)
    np.testing.assert_array_equal(whole, rouge_scores(prefixes, suffixes))


@pytest.mark.parametrize("form", [">u2", "uint64", "int8"])
def test_ids_of_any_form_score_the_same(form):
    ids = np.random.default_rng(0).integers(0, 5, (20, 64))
    other = ids.astype(form)
    other.setflags(write=False)
    ours = rouge_scores(other[:, :32], other[:, ::-1][:, :32])
    np.testing.assert_array_equal(ours, rouge_scores(ids[:, :32], ids[:, ::-1][:, :32]))


@pytest.mark.parametrize("wrong", [np.zeros((2, 4)), np.zeros(4, dtype=int), np.zeros((3, 4), int)])
def test_arrays_of_another_form_are_refused(wrong):
    with pytest.raises(ValueError, match=r"wanted|but"):
        rouge_l(wrong, np.zeros((2, 4), dtype=int))
