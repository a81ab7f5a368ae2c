"""What a search maximizes, against the excess of the benchmark table and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from benchmark_cases import noisy, votes_of
from sklearn.metrics import f1_score, roc_auc_score

from mnemoscope.benchmark.excess import OBJECTIVES, Votes, measure_excess, measure_objective

TRUE = np.repeat([0, 1, 2], 50)


def scored(share_right: float, seed: int) -> Votes:
    """Two trainings with probabilities."""
    predicted = np.stack([noisy(TRUE, share_right, seed + one) for one in (0, 1)])
    shares = np.random.default_rng(seed).random((2, len(TRUE), 3)) + 2 * np.eye(3)[predicted]
    shares /= shares.sum(axis=2, keepdims=True)
    votes = votes_of(TRUE, predicted, [0, 1], 3)
    return replace(votes, scores=shares.astype(np.float32), score_seeds=np.array([0, 1]))


SOURCES = {"model": scored(0.8, 0), "blind": scored(0.4, 5), "reference": scored(0.5, 9)}


def test_excess_is_that_of_the_benchmark_table() -> None:
    controls = {name: one for name, one in SOURCES.items() if name != "model"}
    wanted = measure_excess(SOURCES["model"], controls, n_resamples=200, seed=3)
    found = measure_objective(SOURCES, "excess", seed=3, n_resamples=200)
    assert (found.value, found.low, found.high) == (wanted.value, wanted.low, wanted.high)
    of_pairs = measure_objective(SOURCES, "auc_excess", seed=3)
    assert of_pairs.value == pytest.approx(np.mean([one.value for one in wanted.auc]))
    with pytest.raises(ValueError, match="no control"):
        measure_objective({"model": SOURCES["model"]}, "excess")


def test_min_f1_and_auc_are_scikit_learn_s() -> None:
    model = SOURCES["model"]
    summed = f1_score(np.tile(TRUE, 2), model.predicted.ravel(), average=None).min()
    assert measure_objective(SOURCES, "min_f1").value == pytest.approx(summed)
    areas = []
    for a, b in ((0, 1), (0, 2), (1, 2)):
        rows = np.isin(TRUE, (a, b))
        for shares in model.scores[:, rows].astype(np.float64):
            ratio = shares[:, a] / (shares[:, a] + shares[:, b])
            areas.append(roc_auc_score(TRUE[rows] == a, ratio))
    assert measure_objective(SOURCES, "auc").value == pytest.approx(np.mean(areas))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_interval_holds_the_figure_and_repeats(name: str) -> None:
    found = measure_objective(SOURCES, name, seed=1, n_resamples=100)
    assert found.low < found.value < found.high
    assert measure_objective(SOURCES, name, seed=1, n_resamples=100) == found
