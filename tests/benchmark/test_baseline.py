"""A baseline is judged as a CNN is: figures on its training set, and whether it left chance."""

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss

from mnemoscope.benchmark.baselines import fit_baseline


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


@pytest.mark.parametrize("labels", [[0, 0, 2], [1, 1, 2], [0, 1]])
def test_labels_with_a_gap_or_without_an_input_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="a label an input"):
        fit_baseline(LogisticRegression(), np.zeros((3, 2)), np.array(labels), np.zeros((3, 2)))
