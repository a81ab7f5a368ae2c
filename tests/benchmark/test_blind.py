"""Blind maps equal a naive double loop; the n-gram regression reads tokens and nothing else."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mnemoscope.benchmark.baselines import blind_maps, count_ngrams, ngram_logits
from mnemoscope.maps.format import unpack_triangle

FEW_TOKENS = hnp.arrays(
    np.int32,
    st.tuples(st.integers(1, 4), st.integers(2, 12)),
    elements=st.integers(0, 4),
)


def naive_blind_map(tokens: list[int]) -> np.ndarray:
    """Both channels of one sequence as the words say them."""
    n = len(tokens)
    channels = np.zeros((2, n, n))
    for query in range(n):
        for key in range(query + 1):
            if key < query and tokens[key] == tokens[query]:
                channels[0, query, key] = 1
            if key > 0 and tokens[key - 1] == tokens[query]:
                channels[1, query, key] = 1
    return channels


@given(FEW_TOKENS)
def test_blind_maps_equal_a_naive_double_loop(tokens: np.ndarray) -> None:
    maps = blind_maps(tokens)
    unpacked = unpack_triangle(maps.read(torch.arange(len(tokens)))).numpy()
    wanted = np.stack([naive_blind_map(row.tolist()) for row in tokens])
    assert (maps.n_layers, maps.length) == (2, tokens.shape[1])
    np.testing.assert_array_equal(unpacked, wanted)


@given(FEW_TOKENS, st.randoms(use_true_random=False))
def test_blind_maps_see_equality_only_and_not_which_token(tokens: np.ndarray, random) -> None:
    renamed = list(range(100, 105))
    random.shuffle(renamed)
    rows = torch.arange(len(tokens))
    same = blind_maps(np.asarray(renamed)[tokens]).read(rows)
    assert torch.equal(blind_maps(tokens).read(rows), same)


def test_a_repeated_second_half_gives_the_induction_diagonal() -> None:
    tokens = np.tile(np.arange(8), 2)[None]
    induction = unpack_triangle(blind_maps(tokens).read(torch.arange(1)))[0, 1]
    assert [int(key) for key in induction[8:15].argmax(dim=1)] == list(range(1, 8))
    assert induction[8:].sum() == 8  # the last query's copy is followed by the first token again


def test_more_sequences_than_one_block_are_all_drawn() -> None:
    tokens = np.random.default_rng(0).integers(0, 3, (2050, 4))
    last = blind_maps(tokens[-3:]).read(torch.arange(3))
    assert torch.equal(blind_maps(tokens).read(torch.arange(2047, 2050)), last)


def test_one_dimensional_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"wanted \(sequences, T\)"):
        blind_maps(np.arange(5))


def test_ngrams_shared_by_two_training_sequences_are_counted_and_no_others() -> None:
    train = np.array([[1, 2, 1], [1, 2, 3], [7, 8, 9]])
    evaluation = np.array([[2, 1, 2], [7, 7, 0]])
    train_counts, eval_counts = count_ngrams(train, evaluation)
    # Columns: token 1, pair (1, 2), token 2; 7 and all the rest stand in one sequence only.
    assert train_counts.toarray().tolist() == [[2, 1, 1], [1, 1, 1], [0, 0, 0]]
    assert eval_counts.toarray().tolist() == [[1, 1, 2], [0, 0, 0]]


def test_the_commonest_ngrams_stay_where_there_are_too_many() -> None:
    train = np.array([[1, 5, 1], [2, 5, 2], [1, 5, 1]])
    counts, _ = count_ngrams(train, train, limit=1)
    assert counts.toarray().ravel().tolist() == [1, 1, 1]  # token 5, in all three


@given(FEW_TOKENS, FEW_TOKENS)
def test_every_count_equals_a_slow_count(train: np.ndarray, evaluation: np.ndarray) -> None:
    def ngrams(row: np.ndarray) -> list[tuple[int, ...]]:
        values = row.tolist()
        return [(a,) for a in values] + list(pairwise(values))

    seen = [ngram for row in train for ngram in set(ngrams(row))]
    shared = sorted({ngram for ngram in seen if seen.count(ngram) >= 2})
    if not shared:
        return
    counts = count_ngrams(train, evaluation)
    for matrix, rows in zip(counts, (train, evaluation), strict=True):
        slow = [[ngrams(row).count(ngram) for ngram in shared] for row in rows]
        assert matrix.toarray().tolist() == slow


def test_no_shared_ngram_is_no_crash() -> None:
    train = np.arange(12).reshape(4, 3)
    fit = ngram_logits(train, np.array([0, 0, 1, 1]), train + 100, 0)
    np.testing.assert_allclose(fit.probabilities, 0.5, atol=1e-6)
    assert not fit.did_train


def planted_tokens(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Class 1 holds token 5 somewhere, class 2 the pair (6, 7), class 0 neither."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(10, 60, (n, 32))
    labels = np.arange(n) % 3
    at = generator.integers(0, 31, n)
    one, two = labels == 1, labels == 2
    tokens[one, at[one]] = 5
    tokens[two, at[two]], tokens[two, at[two] + 1] = 6, 7
    return tokens, labels


def test_planted_token_classes_are_found_wherever_they_stand() -> None:
    tokens, labels = planted_tokens(450, 0)
    fit = ngram_logits(tokens[:300], labels[:300], tokens[300:], 0)
    assert (fit.predicted == labels[300:]).mean() > 0.95
    assert fit.did_train
    np.testing.assert_allclose(fit.probabilities.sum(axis=1), 1)


def test_the_regression_is_the_same_each_time() -> None:
    tokens, labels = planted_tokens(60, 1)
    first, second = (ngram_logits(tokens, labels, tokens, 3).probabilities for _ in range(2))
    np.testing.assert_array_equal(first, second)
