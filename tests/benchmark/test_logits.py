"""The positive control finds what the output gives away, and refuses what is no number."""

import numpy as np
import pytest

from mnemoscope.benchmark.baselines import classify_logprobs, logprob_features


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


def test_an_infinite_log_probability_is_refused() -> None:
    train, labels = logprobs_of(20, 0)
    train[3, 3] = -np.inf
    with pytest.raises(ValueError, match="not finite"):
        classify_logprobs(train, labels, train[:2], 0)
