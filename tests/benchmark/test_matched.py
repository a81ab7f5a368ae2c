"""Matched sequences look alike to the blind baseline, or there are none and it says why."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemoscope.benchmark.matched import BALANCED, match_on_scores, standardized_difference


def blind_scores(
    n: int, n_classes: int, strength: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that lean towards the true class by `strength` logits."""
    generator = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    logits = generator.normal(size=(n, n_classes)) + strength * np.eye(n_classes)[labels]
    shares = np.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True), labels


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities / (1 - probabilities))


@pytest.mark.parametrize(("n_classes", "strength"), [(2, 0.0), (2, 1.5), (3, 0.7), (4, 1.5)])
def test_matching_balances_the_blind_scores(n_classes: int, strength: float) -> None:
    probabilities, labels = blind_scores(150 * n_classes, n_classes, strength, 0)
    match = match_on_scores(probabilities, labels)
    assert match.reason is None
    kept = labels[match.rows]
    assert np.bincount(kept).tolist() == [match.n_per_class] * n_classes
    assert len(set(match.rows.tolist())) == len(match.rows)
    # Written out here with the definition, not with the function under test.
    scores = log_odds(np.clip(probabilities, 0.001, 0.999))
    for a in range(n_classes):
        for b in range(a):
            spread = np.sqrt(sum(scores[labels == one].var(axis=0) for one in (a, b)) / 2)
            own, other = (scores[match.rows][kept == one].mean(axis=0) for one in (a, b))
            assert (np.abs(own - other) / spread).max() < BALANCED
    if strength:
        assert match.difference_before > 0.5 > BALANCED > match.difference_after


def test_scores_that_say_everything_leave_none_and_say_so() -> None:
    labels = np.arange(200) % 2
    match = match_on_scores(np.eye(2)[labels], labels)
    assert len(match.rows) == match.n_per_class == 0
    assert match.difference_before == np.inf
    assert match.difference_after is None
    assert match.reason.endswith(": 0 a class, 20 are needed")
    probabilities, labels = blind_scores(60, 3, 1.0, 3)
    match = match_on_scores(probabilities, labels, minimum=20)
    assert 0 < match.n_per_class < 20
    assert len(match.rows) == 0
    assert f"{match.n_per_class} a class" in match.reason


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(5, 40))
def test_whatever_the_scores_the_classes_come_out_equal(seed: int, k: int, n: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(k), generator.integers(0, k, n)])
    probabilities = generator.dirichlet(np.full(k, 0.3), len(labels))
    match = match_on_scores(probabilities, labels, minimum=1)
    kept = labels[match.rows]
    assert (match.reason is None) == (len(match.rows) > 0)
    if match.reason is None:
        assert (np.bincount(kept, minlength=k) == match.n_per_class).all()
        assert match.difference_after < BALANCED


def test_standardized_difference_of_a_case_worked_by_hand() -> None:
    scores = np.array([[0.0], [2.0], [3.0], [5.0]])
    labels = np.array([0, 0, 1, 1])
    # Means 1 and 4, both variances 1: 3 standard deviations apart.
    assert standardized_difference(scores, labels) == pytest.approx(3)
    assert standardized_difference(scores, labels, np.array([1, 2])) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"\[2, 0\] of each class"):
        match_on_scores(np.full((2, 2), 0.5), np.zeros(2, dtype=int))
