"""The control task keeps sizes and Non-Memo, is fixed by identity, and cannot be learned."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemoscope.benchmark.baselines import ngram_logits, permute_labels
from mnemoscope.cnn.metrics import confusion_matrix, f1_per_class

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


def test_repeated_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of them different"):
        permute_labels(np.array([4, 4]), np.array([0, 1]), np.array(["train"] * 2), seed=0)


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
