"""Figures against the 54 published matrices and scikit-learn, intervals against scipy."""

import csv
import json
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import precision_recall_fscore_support

from mnemoscope.cnn.metrics import (
    confusion_matrix,
    estimate_scores,
    f1_per_class,
    min_f1,
    precision_recall,
    resample_confusions,
)
from mnemoscope.stats import draw_counts, draw_within

DATA = resources.files("mnemoscope.benchmark") / "data"
MATRICES = json.loads((DATA / "taxonomy_confusions.json").read_text(encoding="utf-8"))
PRINTED = {
    row["tax_name"]: row
    for row in csv.DictReader(
        (DATA / "taxonomies_all.csv").read_text(encoding="utf-8").splitlines()
    )
}


@pytest.mark.parametrize("entry", MATRICES, ids=lambda entry: entry["taxonomy"])
def test_published_matrices_give_the_printed_figures_to_the_last_digit(entry) -> None:
    figures = {"f1": f1_per_class(entry["confusion"])}
    figures["prec"], figures["rec"] = precision_recall(entry["confusion"])
    printed = PRINTED[entry["taxonomy"]]
    percent = {f"min_{name}": one.min() for name, one in figures.items()}
    percent |= {f"mean_{name}": one.mean() for name, one in figures.items()}
    assert {name: round(100 * value, 1) for name, value in percent.items()} == {
        name: float(printed[name]) for name in percent
    }
    assert round(100 * min_f1(entry["confusion"]), 1) == entry["min_f1"]


@given(
    st.integers(2, 5).flatmap(
        lambda k: st.tuples(
            st.just(k), st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)))
        )
    )
)
def test_every_figure_equals_scikit_learns(problem) -> None:
    n_classes, pairs = problem
    pairs = pairs + [(c, 0) for c in range(n_classes)]  # every class occurs
    true, predicted = map(np.array, zip(*pairs, strict=True))
    confusion = confusion_matrix(true, predicted, n_classes)
    labels = list(range(n_classes))
    np.testing.assert_array_equal(confusion, sklearn_confusion(true, predicted, labels=labels))
    precision, recall, f1, _ = precision_recall_fscore_support(
        true, predicted, labels=labels, zero_division=0
    )
    # the same fractions, reached by other divisions
    found = (*precision_recall(confusion), f1_per_class(confusion))
    np.testing.assert_allclose(found, (precision, recall, f1), rtol=1e-12)


def test_runs_are_summed_as_published() -> None:
    true = np.array([0, 1, 2, 1])
    runs = np.array([[0, 1, 2, 2], [1, 1, 2, 0]])
    separate = sum(confusion_matrix(true, run, 3) for run in runs)
    np.testing.assert_array_equal(confusion_matrix(true, runs, 3), separate)


def predict(
    generator: np.random.Generator, true: np.ndarray, runs: int, right: float
) -> np.ndarray:
    """Predictions that are right with a given share; hard sequences are hard for every run."""
    n_classes = int(true.max()) + 1
    ease = generator.beta(8 * right, 8 * (1 - right), len(true))
    is_right = generator.random((runs, len(true))) < ease
    wrong = (true + generator.integers(1, n_classes, (runs, len(true)))) % n_classes
    return np.where(is_right, true, wrong)


def scipy_interval(predictions: np.ndarray, true: np.ndarray, figure) -> tuple[float, float]:
    """scipy resamples every class as a sample of its own: the same design, written elsewhere."""
    members = [np.flatnonzero(true == c) for c in range(int(true.max()) + 1)]

    def statistic(*chosen: np.ndarray) -> float:
        rows = np.concatenate(chosen).astype(int)
        return figure(confusion_matrix(true[rows], predictions[:, rows], len(members)))

    found = bootstrap(
        members, statistic, vectorized=False, method="percentile", n_resamples=2_000, random_state=5
    ).confidence_interval
    return found.low, found.high


def test_min_f1_interval_equals_scipys() -> None:
    generator = np.random.default_rng(0)
    true = np.repeat(np.arange(3), (30, 90, 60))
    predictions = predict(generator, true, 4, 0.7)
    ours = estimate_scores(predictions, true, n_classes=3, seed=1, n_resamples=4_000)
    # the 2.5 % quantile of 2,000 draws of deviation .04 has a standard error of about .002
    assert (ours.min_f1.low, ours.min_f1.high) == pytest.approx(
        scipy_interval(predictions, true, min_f1), abs=0.008
    )


def test_resampled_matrices_equal_matrices_counted_one_by_one() -> None:
    generator = np.random.default_rng(0)
    true = generator.permutation(np.repeat(np.arange(3), (5, 9, 7)))
    predictions = generator.integers(0, 3, (4, len(true)))
    drawn, runs_drawn = draw_within(true, generator, 20), draw_counts(generator, 4, 20)
    found = resample_confusions(predictions, true, 3, drawn, runs_drawn)
    for row, weights, runs in zip(found, drawn, runs_drawn, strict=True):
        rows = np.repeat(np.arange(len(true)), weights)
        chosen = np.repeat(np.arange(4), runs)
        expected = confusion_matrix(true[rows], predictions[chosen][:, rows], 3)
        np.testing.assert_array_equal(row, expected)


def test_repeating_a_run_narrows_nothing_and_blocks_of_runs_do_not_show(monkeypatch) -> None:
    true = np.repeat(np.arange(3), 40)
    predictions = predict(np.random.default_rng(0), true, 9, 0.7)
    one, whole = (
        estimate_scores(some, true, n_classes=3, seed=0) for some in (predictions[:1], predictions)
    )
    again = estimate_scores(np.repeat(predictions[:1], 24, axis=0), true, n_classes=3, seed=0)
    assert again == one
    monkeypatch.setattr("mnemoscope.cnn.metrics._BLOCK_BYTES", 1)
    assert estimate_scores(predictions, true, n_classes=3, seed=0) == whole


def test_classes_and_shapes_that_do_not_fit_are_refused() -> None:
    for wrong, said in (
        ([[1, 2, 3], [4, 5, 6]], "square"),
        ([[1, 0], [0, 0]], "without"),
        ([[1, -1], [0, 1]], "neg"),
    ):
        for figure in (f1_per_class, precision_recall):
            with pytest.raises(ValueError, match=said):
                figure(wrong)
    true = np.array([0, 1])
    drawn = np.ones((3, 2), dtype=np.int32)
    for truth, said in (([0, 2], [0, 1]), ([0, 1], [0, -1])):
        with pytest.raises(ValueError, match="0 to 1"):
            confusion_matrix(truth, said, 2)
    with pytest.raises(ValueError, match="number of sequences"):
        resample_confusions([[0, 1, 1]], true, 2, drawn)
    with pytest.raises(ValueError, match="3 runs"):
        resample_confusions([[0, 1]] * 3, true, 2, drawn, drawn)
    with pytest.raises(ValueError, match="without sequences"):
        estimate_scores([[0, 0]], [0, 0], n_classes=2, seed=0)


def test_every_class_keeps_its_size_where_groups_of_unequal_size_are_drawn() -> None:
    true = np.repeat([0, 1], [60, 40])
    groups = np.concatenate([np.arange(60) // 5, np.arange(60, 100)])
    groups[:10] = np.arange(100, 110)
    drawn = draw_within(true, np.random.default_rng(0), 50, groups=groups)
    assert len(np.unique(drawn[:, true == 0].sum(axis=1))) > 5  # groups of one and of five
    predictions = np.stack([np.arange(100) % 2, true])
    found = resample_confusions(predictions, true, 2, drawn)
    np.testing.assert_allclose(found.sum(axis=2), np.tile([120, 80], (50, 1)), rtol=1e-12)
