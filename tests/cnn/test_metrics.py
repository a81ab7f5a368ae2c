"""Figures against the 54 published matrices and against scikit-learn."""

import csv
import json
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support
from sklearn.metrics import confusion_matrix as sklearn_confusion

from mnemoscope.cnn.metrics import confusion_matrix, f1_per_class, min_f1, precision_recall, scores

DATA = resources.files("mnemoscope.benchmark") / "data"
MATRICES = json.loads((DATA / "taxonomy_confusions.json").read_text(encoding="utf-8"))
PRINTED = {
    row["tax_name"]: row
    for row in csv.DictReader(
        (DATA / "taxonomies_all.csv").read_text(encoding="utf-8").splitlines()
    )
}


def test_there_are_54_published_matrices() -> None:
    assert len(MATRICES) == len(PRINTED) == 54


@pytest.mark.parametrize("entry", MATRICES, ids=lambda entry: entry["taxonomy"])
def test_published_matrices_give_the_printed_figures_to_the_last_digit(entry) -> None:
    found = scores(entry["confusion"])
    printed = PRINTED[entry["taxonomy"]]
    percent = {
        "min_f1": found.min_f1,
        "mean_f1": found.mean_f1,
        "min_prec": found.min_precision,
        "mean_prec": found.mean_precision,
        "min_rec": found.min_recall,
        "mean_rec": found.mean_recall,
    }
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
    found = scores(confusion)
    # the same fractions, reached by other divisions
    np.testing.assert_allclose(found.f1, f1, rtol=1e-12)
    np.testing.assert_allclose(found.precision, precision, rtol=1e-12)
    np.testing.assert_allclose(found.recall, recall, rtol=1e-12)
    assert found.mean_recall == pytest.approx(balanced_accuracy_score(true, predicted), rel=1e-12)


def test_runs_are_summed_as_published() -> None:
    true = np.array([0, 1, 2, 1])
    runs = np.array([[0, 1, 2, 2], [1, 1, 2, 0]])
    separate = sum(confusion_matrix(true, run, 3) for run in runs)
    np.testing.assert_array_equal(confusion_matrix(true, runs, 3), separate)


def test_many_matrices_at_once_equal_one_by_one() -> None:
    stack = np.random.default_rng(0).integers(1, 50, (7, 4, 4))
    np.testing.assert_array_equal(f1_per_class(stack), [f1_per_class(one) for one in stack])
    np.testing.assert_array_equal(
        precision_recall(stack).precision, [precision_recall(one).precision for one in stack]
    )


def test_a_class_never_predicted_has_f1_and_precision_0() -> None:
    found = scores([[5, 0], [5, 0]])
    assert (found.min_f1, found.min_precision) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("confusion", "message"),
    [([[1, 2, 3], [4, 5, 6]], "square"), ([[1, 0], [0, 0]], "without"), ([[1, -1], [0, 1]], "neg")],
)
def test_what_is_no_confusion_matrix_is_refused(confusion, message) -> None:
    for figure in (f1_per_class, precision_recall, scores):
        with pytest.raises(ValueError, match=message):
            figure(confusion)


@pytest.mark.parametrize(("true", "predicted"), [([0, 2], [0, 1]), ([0, 1], [0, -1])])
def test_classes_outside_the_taxonomy_are_refused(true, predicted) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        confusion_matrix(true, predicted, 2)
