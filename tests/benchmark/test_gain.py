"""The gain: pools of readers held against scikit-learn, and what it must not be moved by."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from experiments.verdicts.run import votes_of
from mnemoscope.benchmark.excess import Votes
from mnemoscope.benchmark.gain import (
    OF_TRAINING,
    SPREAD,
    Pool,
    between_trainings,
    expected_seen,
    fit_pool,
    measure_gain,
    pool_folds,
)

N, N_CLASSES = 600, 3
TRUE = np.arange(N) % N_CLASSES
ONE_EACH = np.arange(N)


def reader(strength: float, seed: int, *, n_trainings: int = 1, groups=ONE_EACH) -> Votes:
    """Probabilities that lean to the class, and to others by chance, alike within a group."""
    rng = np.random.default_rng(seed)
    lean = strength * np.eye(N_CLASSES)[TRUE] + rng.normal(size=(N, N_CLASSES))[groups]
    logits = lean + 0.3 * rng.normal(size=(n_trainings, N, N_CLASSES))
    return votes_of(logits, TRUE, groups)


TEXT = {"ngram": reader(1.0, 0)}


def gain(model: Votes, reference: Votes, text=TEXT, n_trained: float = N):
    return measure_gain(model, reference, list(text.values()), n_trained=n_trained)


def test_a_pool_of_two_classes_is_a_logistic_regression_on_the_log_odds() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(0, 2, 400)
    logs = rng.normal(size=(2, 400, 2)) + np.eye(2)[true] * [[[0.8]], [[0.5]]]
    found = fit_pool(logs, true)
    odds = (logs[:, :, 1] - logs[:, :, 0]).T
    wanted = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(odds, true)
    np.testing.assert_allclose(found[:2], wanted.coef_[0], atol=1e-4)
    assert found[2] == pytest.approx(wanted.intercept_[0], abs=1e-4)


def test_a_reader_that_is_wrong_more_often_than_by_chance_has_no_weight() -> None:
    rng = np.random.default_rng(2)
    good, bad = rng.normal(size=(2, N, N_CLASSES)) + np.eye(N_CLASSES)[TRUE] * [[[1.0]], [[-1.0]]]
    weights = fit_pool(np.stack([good, bad]), TRUE)
    assert weights[0] > 0.5
    assert weights[1] == 0


def test_the_gain_is_the_difference_of_log_losses_and_its_interval_student_s() -> None:
    model, reference = reader(1.2, 3), reader(1.0, 4)
    found = gain(model, reference, n_trained=300)
    with_it, without = (
        Pool(TRUE, pool_folds(TRUE, ONE_EACH), [TEXT["ngram"], one]).predict()
        for one in (model, reference)
    )
    losses = [log_loss(TRUE, np.exp(one)) for one in (with_it, without)]
    assert found.value == pytest.approx(losses[1] - losses[0], abs=1e-6)
    assert found.left == pytest.approx(losses[1], abs=1e-6)
    apart = (with_it - without)[np.arange(N), TRUE]
    squares = sum(((apart[c == TRUE] - apart[c == TRUE].mean()) ** 2).sum() for c in range(3))
    error = np.sqrt(squares / (N - 3) / N * (1 + OF_TRAINING * N / 300))
    assert (found.high - found.low) / 2 == pytest.approx(t.ppf(0.975, 199) * error, rel=1e-9)
    assert found.seen == pytest.approx((t.ppf(0.975, 199) + t.ppf(0.8, 199)) * error, rel=1e-9)
    before = expected_seen(N // 3, 100, 3) * np.sqrt(squares / (N - 3)) / SPREAD
    assert before == pytest.approx(found.seen, rel=1e-9)


def test_sequences_five_times_over_in_one_group_count_once() -> None:
    once = gain(reader(1.2, 3), reader(1.0, 4))
    model, reference, text = (
        replace(
            votes,
            sequence_ids=np.arange(5 * N),
            true=np.tile(TRUE, 5),
            predicted=np.tile(votes.predicted, 5),
            probabilities=np.tile(votes.probabilities, (5, 1)),
            scores=np.tile(votes.scores, (1, 5, 1)),
            groups=np.tile(ONE_EACH, 5),
        )
        for votes in (reader(1.2, 3), reader(1.0, 4), TEXT["ngram"])
    )
    five = gain(model, reference, {"ngram": text}, n_trained=5 * N)
    # The same groups and the same share of training; the folds are others.
    assert five.value == pytest.approx(once.value, abs=0.01)
    assert five.high - five.low == pytest.approx(once.high - once.low, rel=0.1)


def test_trainings_that_differ_more_give_a_wider_interval() -> None:
    reference, calm = reader(1.0, 4, n_trainings=3), reader(1.2, 3, n_trainings=3)
    wild = calm.scores.copy()
    wild[0] = reader(0.0, 9).scores[0]  # one training that learned nothing
    loud, plain = gain(replace(calm, scores=wild), reference), gain(calm, reference)
    once = gain(reader(1.2, 3), reader(1.0, 4))
    assert plain.high - plain.low < 1.2 * (once.high - once.low)
    assert loud.high - loud.low > 1.5 * (plain.high - plain.low)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_what_each_training_makes_of_single_groups_is_not_counted_twice(shift: float) -> None:
    rng = np.random.default_rng(5)
    found, n_seeds, n_groups = [], 3, 100
    for _ in range(2000):
        trained = shift * rng.normal(size=(n_seeds, 1)) + rng.normal(size=(n_seeds, n_groups))
        without = (trained.sum(axis=0) - trained) / (n_seeds - 1)
        found.append(between_trainings(without))
    of_groups = 1 / n_seeds / n_groups  # in the variance over groups already
    if shift:
        assert np.mean(found) == pytest.approx(shift**2 / n_seeds, rel=0.1)
    else:
        assert np.mean(found) < 0.5 * of_groups


def test_other_sequences_and_sources_without_probabilities_are_refused() -> None:
    model = reader(1.2, 3)
    for reference in (replace(model, scores=None), model.at(np.arange(90))):
        with pytest.raises(ValueError, match="has no probabilities, or other"):
            gain(model, reference)
