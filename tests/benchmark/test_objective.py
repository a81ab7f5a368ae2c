"""What a search maximizes, against the excess of the benchmark table and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from benchmark_cases import noisy, votes_of
from sklearn.metrics import f1_score, roc_auc_score

from mnemoscope.benchmark.excess import (
    OBJECTIVES,
    Votes,
    compare_objective,
    measure_excess,
    measure_objective,
)

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


OTHERS = {"model": scored(0.7, 20), "blind": scored(0.45, 25), "reference": scored(0.3, 29)}


def _rows(sources: dict[str, Votes], rows: np.ndarray, groups: np.ndarray) -> dict[str, Votes]:
    return {name: replace(one.at(rows), groups=groups) for name, one in sources.items()}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_taxonomies_are_compared_on_the_same_weights(name: str) -> None:
    """Another's own sequences are another's own noise; copies of each tell nothing new."""
    every, once = np.arange(len(TRUE)), {"seed": 1, "n_resamples": 200}
    wanted = measure_objective(SOURCES, name).value - measure_objective(OTHERS, name).value

    def found(other: dict[str, Votes], shift: int = 0, copies: int = 1, n_groups: int = 150):
        rows = np.tile(every, copies)
        own, theirs = (
            _rows(one, rows, rows % n_groups + apart)
            for one, apart in ((SOURCES, 0), (other, shift))
        )
        return compare_objective(own, theirs, name, **once)

    shared, alone = found(OTHERS), found(OTHERS, shift=1000)
    assert shared.value == alone.value == pytest.approx(wanted)
    assert shared.low < shared.value < shared.high
    assert found(OTHERS, copies=5) == pytest.approx(shared, abs=1e-9)
    few = found(OTHERS, copies=5, n_groups=9)
    assert few == (pytest.approx(wanted), None, None)
    # Votes that err on the same sequences differ by little noise; of trainings it is what is left.
    same = {
        one: replace(votes, seeds=votes.seeds * 0, score_seeds=votes.score_seeds * 0)
        for one, votes in SOURCES.items()
    }
    own = _rows(same, every, every)
    assert compare_objective(own, own, name, **once) == (0, 0, 0)
    apart = compare_objective(own, _rows(same, every, every + 1000), name, **once)
    assert apart.low < 0 < apart.high
