"""The positive control: what the model's output alone gives away of the classes.

Gradient boosting on the log-probabilities of the suffix's tokens. Memorized means that the
model's best token is the TRUE next one at all 32 positions, so these must be the
log-probabilities of the text's true suffix, for Non-Memo sequences too, whatever suffix the
CNNs were shown. With the model's own continuation in its place every sequence would be made
of best tokens, and the figure would say how sure the model is of its own words.
"""

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from mnemoscope.benchmark.baseline import BaselineFit, fit_baseline

__all__ = ["classify_logprobs", "logprob_features"]


def classify_logprobs(
    train_logprobs: np.ndarray, train_labels: np.ndarray, eval_logprobs: np.ndarray, seed: int
) -> BaselineFit:
    """Tell the classes apart by the log-probabilities of the true suffix.

    Args:
        train_logprobs: natural log-probability of each true suffix token given all before it,
            shape (n_train, suffix).
        train_labels: class index of each, shape (n_train,).
        eval_logprobs: shape (n_eval, suffix).
        seed: of the boosting.

    Returns:
        Predictions and class probabilities of the evaluation sequences.

    Raises:
        ValueError: a log-probability is not finite.
    """
    if not (np.isfinite(train_logprobs).all() and np.isfinite(eval_logprobs).all()):
        raise ValueError("logits: a log-probability of the suffix is not finite")
    estimator = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.1, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )
    return fit_baseline(
        estimator, logprob_features(train_logprobs), train_labels, logprob_features(eval_logprobs)
    )


def logprob_features(logprobs: np.ndarray) -> np.ndarray:
    """Set the log-probabilities in the order of the text beside those in the order of size.

    "The third least likely token" is one column that way; a tree on positions alone would
    have to find it anew at each of them.

    Args:
        logprobs: shape (n, suffix).

    Returns:
        Shape (n, 2 · suffix + 1): by position, ascending, and the sum.
    """
    return np.concatenate(
        [logprobs, np.sort(logprobs, axis=1), logprobs.sum(axis=1, keepdims=True)], axis=1
    ).astype(np.float64)
