"""Paired resampling against closed forms: a mean's variance, equal votes, unshared sequences."""

from dataclasses import replace

import numpy as np
import pytest
from benchmark_cases import noisy, votes_of

from mnemoscope.benchmark.excess import FIGURES, Votes, compare_pair, resample_jointly
from mnemoscope.cnn.metrics import confusion_matrix


def one_class_share(n: int, n_right: int, ids: np.ndarray | None = None) -> Votes:
    """Class 0 with `n_right` of n right, class 1 (as many) all right."""
    true = np.repeat([0, 1], n)
    predicted = np.concatenate([np.arange(n) >= n_right, np.ones(n)]).astype(np.int64)
    votes = votes_of(true, predicted[None], [0], 2)
    return votes if ids is None else _with_ids(votes, ids)


def _with_ids(votes: Votes, ids: np.ndarray) -> Votes:
    order = np.argsort(ids)
    return replace(votes.at(order), sequence_ids=ids[order])


def test_recall_varies_as_a_mean_under_dirichlet_weights_and_classes_keep_their_size() -> None:
    n, n_right, n_resamples = 50, 35, 20_000
    votes = {"a": one_class_share(n, n_right)}
    recall = resample_jointly(votes, n_resamples=n_resamples, seed=0)["a"][:, 0, 0] / n
    share = n_right / n
    variance = share * (1 - share) / (n + 1)  # Rubin 1981, weights Dirichlet(1, ..., 1)
    # Standard errors: of a mean sd/sqrt(R), of a variance var·sqrt(2/R) (near normal); 4 of each.
    assert abs(recall.mean() - share) < 4 * np.sqrt(variance / n_resamples)
    assert abs(recall.var() - variance) < 4 * variance * np.sqrt(2 / n_resamples)
    true = np.repeat([0, 1, 2], [10, 20, 30])
    votes = votes_of(true, np.stack([noisy(true, 0.6, one) for one in (1, 2)]), [0, 1], 3)
    drawn = resample_jointly({"a": votes}, n_resamples=40, seed=3)["a"]
    assert np.allclose(drawn.sum(axis=2), [20, 40, 60])  # two runs; up to rounding of the scale


@pytest.mark.parametrize("figure", ["min_f1", "mean_f1"])
def test_the_value_is_the_difference_of_the_two_figures(figure) -> None:
    true, other = np.repeat([0, 1, 2], 30), np.repeat([0, 1], 45)
    first = votes_of(true, noisy(true, 0.7, 5)[None], [0], 3)
    second = votes_of(other, noisy(other, 0.6, 6, 2)[None], [0], 2)
    wanted = [
        FIGURES[figure](confusion_matrix(one.true, one.predicted, one.n_classes))
        for one in (first, second)
    ]
    found = compare_pair(first, second, n_resamples=200, figure=figure)
    assert found.value == pytest.approx(wanted[0] - wanted[1], abs=1e-12)
    assert found.interval.low < found.value < found.interval.high
    itself = compare_pair(first, first, n_resamples=200, figure=figure)
    assert (itself.value, *itself.interval) == (0, 0, 0)
    assert itself.n_shared == itself.n_first == itself.n_second == 90


def test_shared_sequences_make_the_interval_narrower_as_the_closed_form_says() -> None:
    """Recalls that fail on the same sequences differ by a constant share, whose noise is less.

    With 30 and 35 of 50 right on the same ids the difference is the weight of 5 sequences:
    variance q(1-q)/(n+1), q = 0.1; on ids of their own it is the sum of both variances.
    """
    n, n_resamples = 50, 20_000
    ids = np.random.default_rng(0).permutation(np.arange(2 * n) * 10**12)  # in any order, far apart
    a, b = one_class_share(n, 35, ids), one_class_share(n, 30, ids)
    apart = one_class_share(n, 30, ids + 1000)

    def variance(first: Votes, second: Votes) -> float:
        pair = {"a": first, "b": second}
        drawn = resample_jointly(pair, n_resamples=n_resamples, seed=0)
        return float((drawn["a"][:, 0, 0] / n - drawn["b"][:, 0, 0] / n).var())

    shared = 0.1 * 0.9 / (n + 1)
    independent = (0.7 * 0.3 + 0.6 * 0.4) / (n + 1)
    # 4 standard errors of a variance; 1.5 times as many for the skewed small share.
    assert variance(a, b) == pytest.approx(shared, rel=6 * np.sqrt(2 / n_resamples))
    assert variance(a, apart) == pytest.approx(independent, rel=4 * np.sqrt(2 / n_resamples))


def test_the_interval_of_a_pair_does_not_depend_on_what_else_is_compared() -> None:
    true = np.repeat([0, 1, 2], 20)
    votes = {str(one): votes_of(true, noisy(true, 0.6, one)[None], [0], 3) for one in range(3)}
    votes["2"] = _with_ids(votes["2"], np.arange(500, 560))
    whole = resample_jointly(votes, n_resamples=50, seed=2)
    pair = resample_jointly({"0": votes["0"], "1": votes["1"]}, n_resamples=50, seed=2)
    for name, drawn in pair.items():
        assert (whole[name] == drawn).all()
