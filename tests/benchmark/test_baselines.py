"""Baselines against slow counts, scikit-learn and planted texts; the control task is balanced."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

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
from mnemoscope.cnn.metrics import confusion_matrix, f1_per_class
from mnemoscope.maps.format import pack_triangle, unpack_triangle
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


def test_texts_that_share_no_ngram_have_no_dimension() -> None:
    first, second = ngram_dimensions(np.arange(12).reshape(4, 3), np.zeros((2, 3), int), seed=0)
    assert (first.shape, second.shape) == ((4, 0), (2, 0))


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


def problem(n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 3
    return generator.normal(size=(n, 4)) + labels[:, None] * 0.5, labels


def test_training_figures_equal_scikit_learn() -> None:
    inputs, labels = problem()
    fit = fit_baseline(LogisticRegression(), inputs, labels, inputs)
    assert fit.train_balanced_accuracy == pytest.approx(
        balanced_accuracy_score(labels, fit.predicted)
    )
    assert fit.train_min_f1 == pytest.approx(f1_score(labels, fit.predicted, average=None).min())
    assert fit.loss == pytest.approx(log_loss(labels, fit.probabilities))


def test_a_baseline_that_learns_nothing_did_not_train() -> None:
    inputs, labels = problem()
    fit = fit_baseline(DummyClassifier(strategy="prior"), inputs, labels, inputs)
    assert fit.train_balanced_accuracy == pytest.approx(1 / 3)
    assert fit.train_min_f1 == 0
    assert not fit.did_train


LOGPROBS = np.full((3, 3), -1.0)
INFINITE = np.where(np.eye(3), -np.inf, LOGPROBS)
NO_INPUTS = [
    (lambda: blind_maps(np.arange(5)), r"wanted \(sequences, T\)"),
    (
        lambda: fit_baseline(LogisticRegression(), LOGPROBS, np.array([0, 0, 2]), LOGPROBS),
        "a label an input",
    ),
    (
        lambda: fit_baseline(LogisticRegression(), LOGPROBS, np.array([1, 1, 2]), LOGPROBS),
        "a label an input",
    ),
    (
        lambda: fit_baseline(LogisticRegression(), LOGPROBS, np.array([0, 1]), LOGPROBS),
        "a label an input",
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


@pytest.mark.parametrize("length", [4, 16])
def test_statistics_equal_a_slow_computation(length: int) -> None:
    maps = random_maps(3, 2, length)
    fast = map_statistics(TensorMaps(pack_triangle(maps)))
    slow = [[slow_statistics(layer) for layer in one] for one in maps.double().numpy()]
    assert fast.shape == (3, 2, len(STATISTICS)) == (3, 2, 14)
    np.testing.assert_allclose(fast, slow, rtol=1e-9)  # both in float64, sums in another order


def slow_shape(layer: np.ndarray, tokens: np.ndarray) -> list[float]:
    """The shape of one layer, row by row and edge by edge, by the definitions."""
    length, half = len(layer), len(layer) // 2
    entropies, ginis = [], []
    for q in range(1, length):
        row = layer[q, : q + 1] / layer[q, : q + 1].sum()
        entropies.append(-sum(w * np.log(w) for w in row if w > 0))
        ginis.append(sum(abs(a - b) for a in row for b in row) / (2 * len(row) ** 2 * row.mean()))
    masses = dict.fromkeys(("first", "near", "copy", "pp", "sp", "ss"), 0.0)
    for q in range(length):
        for k in range(q + 1):
            masses["first"] += layer[q, k] * (k == 0)
            masses["near"] += layer[q, k] * (q - k <= 4)
            masses["copy"] += layer[q, k] * (k > 0 and tokens[k - 1] == tokens[q])
            block = "pp" if q < half else "sp" if k < half else "ss"
            masses[block] += layer[q, k]
    whole = layer.sum()
    return [np.mean(entropies), np.mean(ginis), *(mass / whole for mass in masses.values())]


@pytest.mark.parametrize("length", [8, 16])
def test_shapes_equal_a_slow_computation_on_tokens_that_repeat(length: int) -> None:
    maps = random_maps(3, 2, length)
    tokens = np.random.default_rng(0).integers(0, 4, (3, length))
    fast = all_statistics(TensorMaps(pack_triangle(maps)), tokens)
    slow = [
        [slow_shape(layer, tokens[n]) for layer in one]
        for n, one in enumerate(maps.double().numpy())
    ]
    assert fast.shape == (3, 2, len(ALL_STATISTICS)) == (3, 2, 22)
    np.testing.assert_allclose(fast[..., 14:], slow, rtol=1e-9)
    assert (fast[..., ALL_STATISTICS.index("mass on copy edges")] > 0).all()


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


def test_a_map_of_zeros_has_statistics_too() -> None:
    statistics = map_statistics(TensorMaps(torch.zeros(1, 1, 10)))
    assert (statistics == 0).all()


def test_more_maps_than_one_block_keep_their_order() -> None:
    maps = pack_triangle(random_maps(300, 1, 4))
    last = map_statistics(TensorMaps(maps[-2:]))
    np.testing.assert_array_equal(map_statistics(TensorMaps(maps))[-2:], last)


def test_shuffled_labels_are_read_at_chance() -> None:
    statistics = map_statistics(TensorMaps(pack_triangle(random_maps(800, 1, 8))))
    labels = np.random.default_rng(0).integers(0, 2, 800)
    fit = classify_statistics(statistics[:400], labels[:400], statistics[400:], 0)
    assert abs((fit.predicted == labels[400:]).mean() - 0.5) < 0.1  # 4 standard deviations


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


def test_features_are_positions_then_ascending_then_the_sum() -> None:
    features = logprob_features(np.array([[-1.0, -3.0, -2.0]]))
    assert features.tolist() == [[-1, -3, -2, -3, -2, -1, -6]]


SAMPLES = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["train", "eval"])), min_size=1, max_size=60
)


def arrays_of(sample: list[tuple[int, str]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    labels, splits = (np.array(column) for column in zip(*sample, strict=True))
    return np.arange(len(sample)) * 7 + 3, labels, splits


@given(SAMPLES, st.integers(0, 5))
def test_every_class_keeps_its_size_in_each_split(sample, seed: int) -> None:
    ids, labels, splits = arrays_of(sample)
    permuted = permute_labels(ids, labels, splits, seed=seed)
    for split in ("train", "eval"):
        before, after = labels[splits == split], permuted[splits == split]
        assert sorted(before) == sorted(after)


@given(SAMPLES, st.integers(0, 5))
def test_non_memo_keeps_its_own_among_several_memorized_classes(sample, seed: int) -> None:
    ids, labels, splits = arrays_of(sample)
    permuted = permute_labels(ids, labels, splits, seed=seed)
    if len(set(labels[labels > 0])) > 1:
        np.testing.assert_array_equal(permuted == 0, labels == 0)


@given(SAMPLES, st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_label_is_fixed_by_identity_and_not_by_row_order(sample, seed: int, random) -> None:
    ids, labels, splits = arrays_of(sample)
    order = list(range(len(ids)))
    random.shuffle(order)
    permuted = permute_labels(ids, labels, splits, seed=seed)
    # The sample is drawn class by class, so two orders of one sample hold the same rows.
    shuffled = permute_labels(ids[order], labels[order], splits[order], seed=seed)
    np.testing.assert_array_equal(permuted[order], shuffled)


def test_a_single_memorized_class_is_mixed_with_non_memo() -> None:
    labels = np.repeat([0, 1], 50)
    permuted = permute_labels(np.arange(100), labels, np.full(100, "train"), seed=0)
    assert permuted.sum() == 50
    assert 10 < (permuted != labels).sum() < 90


def test_seeds_give_different_controls() -> None:
    labels, splits = np.repeat([0, 1, 2], 40), np.full(120, "eval")
    first, second = (permute_labels(np.arange(120), labels, splits, seed=s) for s in (0, 1))
    assert (first != second).any()


def test_permuted_labels_are_read_at_chance_where_the_true_ones_are_read_at_once() -> None:
    n = 900
    labels = np.arange(n) % 3
    splits = np.where(np.arange(n) < 600, "train", "eval")
    tokens = np.random.default_rng(0).integers(10, 40, (n, 16))
    tokens[:, 5] = labels
    control = permute_labels(np.arange(n), labels, splits, seed=0)
    train, held_out = splits == "train", splits == "eval"

    def figures(target: np.ndarray) -> np.ndarray:
        fit = ngram_logits(tokens[train], target[train], tokens[held_out], 0)
        return f1_per_class(confusion_matrix(target[held_out], fit.predicted, 3))

    assert figures(labels).min() > 0.99
    assert figures(control)[0] > 0.99  # Non-Memo keeps its own
    # 200 sequences of two classes at chance: .5 with a standard deviation of .035.
    assert 0.35 < figures(control)[1:].min() < 0.6


@pytest.mark.parametrize("non_memo", [None, 2])
def test_without_non_memo_the_first_class_is_dealt_out_like_the_others(non_memo) -> None:
    """Non-Memo may be left out as too small; then index 0 is a memorized class."""
    labels, ids = np.arange(300) % 3, np.arange(300)
    splits = np.repeat(["train", "eval"], 150)
    permuted = permute_labels(ids, labels, splits, seed=0, non_memo=non_memo)
    among = labels != non_memo
    assert (permuted[~among] == labels[~among]).all()
    # Of 100 labels dealt out at random a third (or a half) stays; all 100 staying is the fault.
    assert (permuted == labels)[labels == 0].mean() < 0.7
    assert sorted(permuted) == sorted(labels)
