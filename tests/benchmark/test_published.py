"""The published tables are whole, and our own scoring turns their matrices into their figures."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.benchmark.published import (
    PUBLISHED_MODELS,
    published_confusions,
    published_rho,
    published_table,
)
from mnemoscope.cnn.metrics import scores
from mnemoscope.errors import UserError

CONFUSIONS = published_confusions()


@pytest.mark.parametrize("model", PUBLISHED_MODELS)
def test_each_published_table_names_54_taxonomies(model: str) -> None:
    table = published_table(model)
    assert table.height == table["tax_name"].n_unique() == 54
    assert table["min_f1"].is_between(0, 100).all()
    assert (table["mean_f1"] >= table["min_f1"]).all()


def test_a_model_without_a_table_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no model '12B'.*Did you mean '12b'\?"):
        published_table("12B")


@pytest.mark.parametrize("published", CONFUSIONS, ids=lambda one: one.taxonomy)
def test_our_scoring_gives_the_figures_printed_for_each_matrix(published) -> None:
    row = published_table().row(by_predicate=_is_named(published.taxonomy), named=True)
    ours = scores(published.confusion)
    assert published.classes == tuple(published.taxonomy.split(", "))
    # Printed to one decimal of a per cent: equal to the last printed digit, no tolerance.
    assert round(100 * ours.min_f1, 1) == published.min_f1 == row["min_f1"]
    assert round(100 * ours.mean_f1, 1) == published.mean_f1 == row["mean_f1"]
    assert round(100 * ours.min_precision, 1) == row["min_prec"]
    assert round(100 * ours.mean_precision, 1) == row["mean_prec"]
    assert round(100 * ours.min_recall, 1) == row["min_rec"]
    assert round(100 * ours.mean_recall, 1) == row["mean_rec"]


def test_every_published_row_sums_to_the_evaluations_behind_it() -> None:
    n_evaluations = 3 * 8 * 3 * 2000  # models, CNN settings, epochs, sequences a class
    assert len(CONFUSIONS) == 54
    for one in CONFUSIONS:
        assert (one.confusion.sum(axis=1) == n_evaluations).all()


def test_published_matrices_cannot_be_altered_by_a_caller() -> None:
    with pytest.raises(ValueError, match="read-only"):
        CONFUSIONS[0].confusion[0, 0] = 0


def test_the_rho_sweep_has_both_measures_and_their_thresholds() -> None:
    sweep = published_rho()
    assert sweep.height == 27
    assert sweep.schema["Rouge-L"] == sweep.schema["Rouge-3"] == pl.Boolean
    assert (sweep["Rouge-L"] | sweep["Rouge-3"]).all()
    assert np.allclose(sorted(set(sweep["Threshold"])), np.arange(1, 10) / 10)


def _is_named(name: str):
    return pl.col("tax_name") == name
