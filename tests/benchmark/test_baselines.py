"""Baselines against slow counts, scikit-learn and planted texts; the control task is balanced."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from threadpoolctl import threadpool_limits

from mnemoscope.benchmark.baselines import (
    ALL_STATISTICS,
    STATISTICS,
    all_statistics,
    blind_maps,
    classify_logprobs,
    classify_statistics,
    count_ngrams,
    fit_baseline,
    logprob_features,
    map_statistics,
    ngram_dimensions,
    ngram_logits,
    permute_labels,
)
from mnemoscope.maps.shape import attention_shape
from mnemoscope.maps.triangle import pack_triangle, unpack_triangle
from mnemoscope.maps.views import TensorMaps

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


@given(FEW_TOKENS, st.randoms(use_true_random=False))
def test_blind_maps_equal_a_naive_double_loop_whatever_the_tokens_are(tokens, random) -> None:
    maps = blind_maps(tokens)
    unpacked = unpack_triangle(maps.read(torch.arange(len(tokens)))).numpy()
    wanted = np.stack([naive_blind_map(row.tolist()) for row in tokens])
    assert (maps.n_layers, maps.length) == (2, tokens.shape[1])
    np.testing.assert_array_equal(unpacked, wanted)
    renamed = list(range(100, 105))
    random.shuffle(renamed)
    rows = torch.arange(len(tokens))
    assert torch.equal(blind_maps(np.asarray(renamed)[tokens]).read(rows), maps.read(rows))


def test_more_than_one_block_are_all_drawn_and_keep_their_order() -> None:
    tokens = np.random.default_rng(0).integers(0, 3, (2050, 4))
    last = blind_maps(tokens[-3:]).read(torch.arange(3))
    assert torch.equal(blind_maps(tokens).read(torch.arange(2047, 2050)), last)
    maps = pack_triangle(random_maps(300, 1, 4))
    last = map_statistics(TensorMaps(maps[-2:]))
    np.testing.assert_array_equal(map_statistics(TensorMaps(maps))[-2:], last)
    assert (map_statistics(TensorMaps(torch.zeros(1, 1, 10))) == 0).all()


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


def test_the_dimensions_of_the_ngrams_are_found_on_the_training_texts_alone() -> None:
    generator = np.random.default_rng(0)
    train, asked = generator.integers(0, 9, (40, 12)), generator.integers(0, 9, (7, 12))
    first, second = ngram_dimensions(train, asked, seed=0)
    assert first.shape == (40, 39)  # one fewer than sequences
    assert second.shape == (7, 39)
    again, alone = ngram_dimensions(train, asked[:2], seed=0)
    np.testing.assert_array_equal(again, first)
    np.testing.assert_allclose(alone, second[:2], atol=1e-12)
    counts = count_ngrams(train, train)[0].log1p().toarray()
    own, wanted = (one @ one.T for one in (first, counts))
    np.testing.assert_allclose(own, wanted, atol=0.1 * wanted.max())  # all but one dimension


def test_the_dimensions_are_the_same_bits_whatever_the_number_of_cores() -> None:
    tokens = np.random.default_rng(0).integers(0, 500, (300, 32))
    found = []
    for n_threads in (1, 2, 4):
        with threadpool_limits(n_threads):
            found.append(ngram_dimensions(tokens, tokens[:5], seed=0)[0])
    np.testing.assert_array_equal(found[1:], [found[0]] * 2)


def test_texts_that_share_no_ngram_have_no_dimension_and_are_read_at_chance() -> None:
    train = np.arange(12).reshape(4, 3)
    first, second = ngram_dimensions(train, np.zeros((2, 3), int), seed=0)
    assert (first.shape, second.shape) == ((4, 0), (2, 0))
    fit = ngram_logits(train, np.array([0, 0, 1, 1]), train + 100, 0)
    np.testing.assert_allclose(fit.probabilities, 0.5, atol=1e-6)
    assert not fit.did_train


def test_training_figures_equal_scikit_learn_and_what_learns_nothing_did_not_train() -> None:
    labels = np.arange(120) % 3
    inputs = np.random.default_rng(0).normal(size=(120, 4)) + labels[:, None] * 0.5
    fit = fit_baseline(LogisticRegression(), inputs, labels, inputs)
    assert fit.train_min_f1 == pytest.approx(f1_score(labels, fit.predicted, average=None).min())
    fit = fit_baseline(DummyClassifier(strategy="prior"), inputs, labels, inputs)
    assert fit.train_min_f1 == 0
    assert not fit.did_train


LOGPROBS = np.full((3, 3), -1.0)
INFINITE = np.where(np.eye(3), -np.inf, LOGPROBS)
NO_INPUTS = [
    (lambda: blind_maps(np.arange(5)), r"wanted \(sequences, T\)"),
    *(
        (
            partial(fit_baseline, LogisticRegression(), LOGPROBS, labels, LOGPROBS),
            "a label an input",
        )
        for labels in ([0, 0, 2], [1, 1, 2], [0, 1])
    ),
    (lambda: classify_logprobs(INFINITE, np.arange(3), LOGPROBS, 0), "not finite"),
    (
        lambda: permute_labels(np.array([4, 4]), np.arange(2), np.array(["train"] * 2), seed=0),
        "1 of them different",
    ),
]


@pytest.mark.parametrize(("ask", "said"), NO_INPUTS)
def test_what_is_no_input_is_refused(ask, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ask()


def random_maps(n: int, n_layers: int, length: int, seed: int = 0) -> torch.Tensor:
    """Causal maps whose rows sum to one, in float16 as they are stored."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, n_layers, length, length, generator=generator)
    above = torch.ones(length, length).triu(1).bool()
    return scores.masked_fill(above, -torch.inf).softmax(-1).half()


def slow_statistics(layer: np.ndarray) -> list[float]:
    """The statistics of one layer, entry by entry."""
    length, half = len(layer), len(layer) // 2
    pairs = [(q, k) for q in range(length) for k in range(q + 1)]
    blocks = [
        [layer[q, k] for q, k in pairs if q < half],
        [layer[q, k] for q, k in pairs if q >= half and k < half],
        [layer[q, k] for q, k in pairs if k >= half],
    ]
    figures = [f(block) for block in blocks for f in (np.mean, np.std, np.max)]
    entropies = []
    for q in range(length):
        row = layer[q, : q + 1] / layer[q, : q + 1].sum()
        entropies.append(-sum(w * np.log(w) for w in row if w > 0))
    figures += [np.mean(entropies[:half]), np.mean(entropies[half:])]
    figures.append(np.mean([layer[q, q] for q in range(length)]))
    figures.append(np.mean([layer[q, q - 1] for q in range(1, length)]))
    figures.append(np.mean([layer[q, 0] for q in range(1, length)]))
    return figures


@pytest.mark.parametrize("length", [4, 8])
def test_statistics_equal_a_slow_computation(length: int) -> None:
    maps = random_maps(3, 2, length)
    fast = map_statistics(TensorMaps(pack_triangle(maps)))
    slow = [[slow_statistics(layer) for layer in one] for one in maps.double().numpy()]
    assert fast.shape == (3, 2, len(STATISTICS)) == (3, 2, 14)
    np.testing.assert_allclose(fast, slow, rtol=1e-9)  # both in float64, sums in another order


def test_shapes_follow_the_statistics_with_the_copies_of_the_tokens() -> None:
    """What they are by definition: `tests/maps/test_shape.py`."""
    maps = random_maps(3, 2, 16)
    tokens = np.random.default_rng(0).integers(0, 4, (3, 16))
    packed = TensorMaps(pack_triangle(maps))
    found = all_statistics(packed, tokens)
    assert found.shape == (3, 2, len(ALL_STATISTICS)) == (3, 2, 22)
    np.testing.assert_array_equal(found[..., :14], map_statistics(packed))
    copies = torch.from_numpy(np.stack([naive_blind_map(row.tolist())[1] for row in tokens])) > 0
    np.testing.assert_allclose(found[..., 14:], attention_shape(maps.float(), copies), rtol=1e-6)
    assert (found[..., ALL_STATISTICS.index("mass on copy edges")] > 0).all()


def test_a_class_that_looks_along_the_copy_diagonals_is_found_by_their_mass() -> None:
    """Weight moves to the copy from the key beside it: blocks and bands hardly change."""
    generator = np.random.default_rng(0)
    tokens = np.stack([np.tile(generator.permutation(40)[:8], 3)[:16] for _ in range(300)])
    labels = np.arange(300) % 2
    maps = random_maps(300, 1, 16).float()
    for n in np.flatnonzero(labels):
        for q in range(8, 16):  # the copy of token q - 8 is key q - 7, its neighbour key q - 6
            give = 0.8 * maps[n, 0, q, q - 6]
            maps[n, 0, q, q - 6] -= give
            maps[n, 0, q, q - 7] += give
    packed = TensorMaps(pack_triangle(maps))
    right = []
    for statistics in (all_statistics(packed, tokens), map_statistics(packed)):
        fit = classify_statistics(statistics[:200], labels[:200], statistics[200:], 0)
        right.append((fit.predicted == labels[200:]).mean())
    assert right[0] > 0.8
    assert right[0] > right[1] + 0.15  # of 100, four standard deviations of a share near .8
    dealt = np.random.default_rng(1).permutation(labels)
    fit = classify_statistics(statistics[:150], dealt[:150], statistics[150:], 0)
    assert abs((fit.predicted == dealt[150:]).mean() - 0.5) < 0.17  # 4 standard deviations


def logprobs_of(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Memorized: every token likely. Not memorized: one token, anywhere, is not."""
    generator = np.random.default_rng(seed)
    logprobs = -generator.exponential(0.05, (n, 32)).astype(np.float32)
    labels = np.arange(n) % 2
    broken = np.flatnonzero(labels == 0)
    logprobs[broken, generator.integers(0, 32, len(broken))] = -4
    return logprobs, labels


def test_one_unlikely_token_anywhere_tells_non_memo_apart() -> None:
    train, labels = logprobs_of(200, 0)
    evaluation, true = logprobs_of(200, 1)
    fit = classify_logprobs(train, labels, evaluation, 0)
    assert (fit.predicted == true).mean() > 0.98
    # Positions, then ascending, then the sum.
    features = logprob_features(np.array([[-1.0, -3.0, -2.0]]))
    assert features.tolist() == [[-1, -3, -2, -3, -2, -1, -6]]


SAMPLES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["train", "eval"])), min_size=1, max_size=60
)


@given(SAMPLES, st.integers(0, 5), st.randoms(use_true_random=False))
def test_classes_keep_their_sizes_non_memo_its_own_and_a_label_its_sequence(
    sample, seed: int, random
) -> None:
    labels, splits = (np.array(column) for column in zip(*sample, strict=True))
    ids = np.arange(len(sample)) * 7 + 3
    permuted = permute_labels(ids, labels, splits, seed=seed)
    for split in ("train", "eval"):
        assert sorted(labels[splits == split]) == sorted(permuted[splits == split])
    if len(set(labels[labels > 0])) > 1:
        np.testing.assert_array_equal(permuted == 0, labels == 0)
    # A label is fixed by identity and not by row order.
    order = list(range(len(ids)))
    random.shuffle(order)
    shuffled = permute_labels(ids[order], labels[order], splits[order], seed=seed)
    np.testing.assert_array_equal(permuted[order], shuffled)


@pytest.mark.parametrize(("labels", "non_memo"), [(2, 0), (3, None), (3, 2)])
def test_without_non_memo_or_with_one_class_beside_it_every_class_is_dealt_out(
    labels: int, non_memo
) -> None:
    """Non-Memo may be left out as too small; then index 0 is a memorized class."""
    labels, ids = np.arange(300) % labels, np.arange(300)
    splits = np.repeat(["train", "eval"], 150)
    permuted = permute_labels(ids, labels, splits, seed=0, non_memo=non_memo)
    if (is_apart := labels == non_memo).sum() < 150:
        assert (permuted[is_apart] == labels[is_apart]).all()
    # Of 100 labels dealt out at random a third (or a half) stays; all 100 staying is the fault.
    assert (permuted == labels)[labels == 0].mean() < 0.7
    assert sorted(permuted) == sorted(labels)
    assert (permute_labels(ids, labels, splits, seed=1, non_memo=non_memo) != permuted).any()
