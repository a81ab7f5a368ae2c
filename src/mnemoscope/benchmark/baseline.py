"""Fit a scikit-learn classifier on the training sequences and judge it as a CNN is judged.

Shared by the n-gram regression, the logits and the map statistics, so that each of them gives
the same figures as a CNN: predictions, class probabilities, and whether it trained at all.
"""

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from mnemoscope.cnn.metrics import confusion_matrix, min_f1
from mnemoscope.cnn.trained import CHANCE_LEVEL
from mnemoscope.cnn.training import chance_test

__all__ = ["BaselineFit", "fit_baseline"]

_SMALLEST_PROBABILITY = 1e-12


@dataclass(frozen=True)
class BaselineFit:
    """What a baseline says of the evaluation sequences, and how it did on its own training set.

    Attributes:
        predicted: class index of each evaluation sequence, shape (n_eval,), int64.
        probabilities: shape (n_eval, classes), float64, rows sum to 1.
        loss: mean cross-entropy on the training set, nats.
        train_balanced_accuracy: fraction, on the training set.
        train_min_f1: fraction, on the training set.
        p_value: of the same test against chance that a CNN gets.
        did_train: whether that is below `CHANCE_LEVEL`.
        n_train: training sequences.
        seconds: to fit and predict.
    """

    predicted: np.ndarray
    probabilities: np.ndarray
    loss: float
    train_balanced_accuracy: float
    train_min_f1: float
    p_value: float
    did_train: bool
    n_train: int
    seconds: float


def fit_baseline(
    estimator: Any, train_inputs: Any, train_labels: np.ndarray, eval_inputs: Any
) -> BaselineFit:
    """Fit a scikit-learn classifier and predict the evaluation sequences.

    Args:
        estimator: unfitted, with ``predict_proba``; whatever is learned of the inputs (scales,
            weights of n-grams) is inside it, so that nothing of the evaluation leaks in.
        train_inputs: shape (n_train, columns), dense or sparse.
        train_labels: class index of each, shape (n_train,); every class occurs.
        eval_inputs: shape (n_eval, columns).

    Returns:
        Predictions, probabilities and training figures.

    Raises:
        ValueError: labels and inputs differ in number, or the labels are not 0 to classes - 1.
    """
    started = time.perf_counter()
    labels = np.asarray(train_labels, dtype=np.int64)
    present = np.unique(labels)
    if len(labels) != train_inputs.shape[0] or not np.array_equal(present, range(len(present))):
        raise ValueError(
            f"baseline: {train_inputs.shape[0]} inputs, {len(labels)} labels of classes "
            f"{present.tolist()}; wanted a label an input, of classes 0, 1, ... without a gap"
        )
    with warnings.catch_warnings():
        # Stopping early costs a baseline little and is no fault the reader could mend.
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(train_inputs, labels)
    return _judge(
        estimator.predict_proba(train_inputs), labels, estimator.predict_proba(eval_inputs), started
    )


def _judge(
    train_probabilities: np.ndarray, labels: np.ndarray, probabilities: np.ndarray, started: float
) -> BaselineFit:
    """Put the training figures beside the predictions."""
    n_classes = probabilities.shape[1]
    confusion = confusion_matrix(labels, train_probabilities.argmax(axis=1), n_classes)
    accuracy, p_value = chance_test(confusion)
    chosen = train_probabilities[np.arange(len(labels)), labels]
    return BaselineFit(
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
        loss=float(-np.log(np.maximum(chosen, _SMALLEST_PROBABILITY)).mean()),
        train_balanced_accuracy=accuracy,
        train_min_f1=min_f1(confusion),
        p_value=p_value,
        did_train=p_value < CHANCE_LEVEL,
        n_train=len(labels),
        seconds=time.perf_counter() - started,
    )
