"""The published tables are whole; `tests/cnn/test_metrics.py` scores their matrices."""

import numpy as np
import polars as pl
import pytest

from mnemoscope.benchmark.published import (
    PUBLISHED_MODELS,
    published_confusions,
    published_rho,
    published_table,
)
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


def test_matrices_and_table_are_of_the_same_taxonomies() -> None:
    printed = {row["tax_name"]: row for row in published_table().to_dicts()}
    for one in CONFUSIONS:
        row = printed.pop(one.taxonomy)
        assert one.classes == tuple(one.taxonomy.split(", "))
        assert (one.min_f1, one.mean_f1) == (row["min_f1"], row["mean_f1"])
    assert not printed


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
